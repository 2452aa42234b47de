/* Makes the disk below a node err or crawl, by standing between it and the C library.
 *
 * Loaded with LD_PRELOAD. The harness shares one block of memory with each node through a file; what
 * stands in it holds from the next call on. Only files below the node's data directory are struck.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* LOG: syncs of the write-ahead log alone. */
enum { SYNC = 1, WRITE = 2, READ = 4, LOG = 8 };

/* The same as in shim.rs, in this order. */
struct control {
    uint32_t what;     /* which calls; 0: none */
    uint32_t percent;  /* of them */
    uint32_t error;    /* errno; 0: only slow */
    uint32_t delay_ms; /* before the call */
    uint32_t seed;     /* of the choice of calls */
    uint32_t calls;    /* counted here */
    uint32_t struck;   /* counted here */
};

static volatile struct control *control;
static const char *below;
static size_t below_length;

__attribute__((constructor)) static void start(void) {
    const char *file = getenv("CHAOS_SHIM_CONTROL");
    below = getenv("CHAOS_SHIM_BELOW");
    if (!file || !below)
        return;
    below_length = strlen(below);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    void *at = fd < 0 ? MAP_FAILED
                      : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        /* A fault that is not there would make the run a lie. */
        perror(file);
        abort();
    }
    close(fd);
    control = at;
}

/* Which calls of a file may be struck: none, all, or those of a log too. */
static uint32_t strikable(int fd, uint32_t call) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path);
    if (length <= (ssize_t)below_length || memcmp(path, below, below_length)
        || path[below_length] != '/')
        return 0;
    int is_log = length > 4 && !memcmp(path + length - 4, ".wal", 4);
    return call == SYNC && is_log ? SYNC | LOG : call;
}

/* SplitMix64. */
static uint32_t chance(uint32_t seed, uint32_t call) {
    uint64_t z = ((uint64_t)seed << 32 | call) + 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) % 100);
}

/* Waits if the call is to be slow; gives the error that it is to give, or 0. */
static int strike(uint32_t call, int fd) {
    if (!control)
        return 0;
    uint32_t what = __atomic_load_n(&control->what, __ATOMIC_ACQUIRE);
    if (!what || !(what & strikable(fd, call)))
        return 0;
    uint32_t number = __atomic_fetch_add(&control->calls, 1, __ATOMIC_RELAXED);
    if (chance(control->seed, number) >= control->percent)
        return 0;
    __atomic_fetch_add(&control->struck, 1, __ATOMIC_RELAXED);
    uint32_t delay = control->delay_ms;
    struct timespec left = {delay / 1000, (long)(delay % 1000) * 1000000};
    while (delay && nanosleep(&left, &left) && errno == EINTR) {
    }
    return (int)control->error;
}

#define STRUCK(call, fd)               \
    do {                               \
        int error = strike(call, fd);  \
        if (error) {                   \
            errno = error;             \
            return -1;                 \
        }                              \
    } while (0)

int fsync(int fd) {
    STRUCK(SYNC, fd);
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    STRUCK(SYNC, fd);
    return (int)syscall(SYS_fdatasync, fd);
}

int sync_file_range(int fd, off64_t from, off64_t length, unsigned flags) {
    STRUCK(SYNC, fd);
    return (int)syscall(SYS_sync_file_range, fd, from, length, flags);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    STRUCK(WRITE, fd);
    return syscall(SYS_write, fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    STRUCK(WRITE, fd);
    return syscall(SYS_writev, fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    STRUCK(WRITE, fd);
    return syscall(SYS_pwrite64, fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    return pwrite64(fd, bytes, count, at);
}

ssize_t read(int fd, void *bytes, size_t count) {
    STRUCK(READ, fd);
    return syscall(SYS_read, fd, bytes, count);
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t at) {
    STRUCK(READ, fd);
    return syscall(SYS_pread64, fd, bytes, count, at);
}

ssize_t pread(int fd, void *bytes, size_t count, off_t at) {
    return pread64(fd, bytes, count, at);
}
