//! The one source of randomness of a run.
//!
//! The engine draws its election timeouts from `rand::rng()`, request ids and generations come
//! from `rand::random()`, hash maps and tokio's own choices (which of a watch channel's waiters
//! wakes first) from the standard library's keys. All of them ask the system by `getrandom`. This
//! takes the place of that function in the binary: on the thread of a simulation it answers from
//! the seed, on all others it asks the kernel.
//!
//! tokio mixes a counter of the process into its keys, so that only a process that ran nothing
//! else before repeats a run: each seed has a process of its own.

use std::cell::Cell;

thread_local! {
    /// The state of the generator; none on threads that simulate nothing.
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Lets everything on this thread that asks for randomness get it from the seed. To be called
/// before anything on this thread has asked: on a fresh one.
pub(crate) fn seed_this_thread(seed: u64) {
    STATE.set(Some(seed));
}

/// SplitMix64: its sequence never changes.
fn next(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, z ^ (z >> 31))
}

fn fill(bytes: &mut [u8], mut state: u64) -> u64 {
    for chunk in bytes.chunks_mut(8) {
        let (after, word) = next(state);
        state = after;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
    state
}

/// Takes the place of the C library's function of this name.
///
/// # Safety
/// As of that: `buffer` must be writable for `bytes` bytes.
// SAFETY: the name is given away once in this binary, with the signature of the C library.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    bytes: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    match STATE.get() {
        Some(state) if bytes > 0 => {
            // SAFETY: the caller promises that so many bytes may be written there.
            let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), bytes) };
            STATE.set(Some(fill(buffer, state)));
            bytes.cast_signed()
        }
        Some(_) => 0,
        // SAFETY: the arguments are handed on as they came.
        None => unsafe {
            libc::syscall(libc::SYS_getrandom, buffer, bytes, flags) as libc::ssize_t
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64) -> (u64, u64, u64) {
        std::thread::spawn(move || {
            seed_this_thread(seed);
            let hasher = std::hash::RandomState::new();
            (rand::random(), std::hash::BuildHasher::hash_one(&hasher, 1), rand::random())
        })
        .join()
        .expect("a thread that draws")
    }

    #[test]
    fn all_randomness_of_a_thread_comes_from_its_seed() {
        assert_eq!(drawn(1), drawn(1));
        let (one, other) = (drawn(1), drawn(2));
        assert!(one.0 != other.0 && one.1 != other.1 && one.2 != other.2);
    }
}
