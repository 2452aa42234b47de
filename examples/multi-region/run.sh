#!/usr/bin/env bash
# Three regions on this machine: deploy, look at distances, empty a region, lose a region, and see that
# requests go on. Needs root, ip, nft, unshare, nsenter, curl and /dev/net/tun; leaves nothing behind.
set -euo pipefail
# Not another cluster's: each node is asked where it is.
unset SWARMER_ADDR SWARMER_TOKEN SWARMER_CACERT
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() {
    printf 'multi-region: %s\n' "$*" >&2
    exit 1
}

[ "$(id -u)" -eq 0 ] || fail "run it as root: it makes network namespaces (they go when it ends)"
for tool in ip nft unshare nsenter curl; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done
[ -c /dev/net/tun ] || fail "/dev/net/tun is missing: a kernel with TUN devices (modprobe tun)"

# Both are built unless they are named. The distance between the regions is made by the harness's own
# switch and not by tc netem, which many kernels lack.
if [ -z "${SWARMER_BIN:-}" ]; then
    cargo build --release --package swarmer --bin swarmer
    SWARMER_BIN=${CARGO_TARGET_DIR:-target}/release/swarmer
fi
if [ -z "${CHAOS_TESTS_BIN:-}" ]; then
    cargo build --release --package chaos-tests
    CHAOS_TESTS_BIN=${CARGO_TARGET_DIR:-target}/release/chaos-tests
fi
SWARMER_BIN=$(realpath "$SWARMER_BIN")
export SWARMER_BIN

scratch=$(mktemp -d)
coproc CLUSTER { exec "$CHAOS_TESTS_BIN" cluster --regions; }
cluster=$CLUSTER_PID
exec {words}>&"${CLUSTER[1]}" {told}<&"${CLUSTER[0]}"

senders=()

stop_requests() {
    local sender
    for sender in "${senders[@]}"; do
        { kill "$sender" && wait "$sender"; } 2>/dev/null || true
    done
    senders=()
}

# The cluster ends with its input; nodes and namespaces end with the cluster, however that ends.
finish() {
    status=$?
    trap - EXIT
    stop_requests
    rm -rf "$scratch"
    { kill -TERM "$cluster" && wait "$cluster"; } 2>/dev/null || true
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

declare -A inside region
component=
while IFS= read -r -t 120 -u "$told" line; do
    case $line in
        "node "*) read -r _ name place process <<<"$line" && inside[$name]=$process && region[$name]=$place ;;
        "component "*) component=${line#component } ;;
        "ready"*) break ;;
    esac
done
[ -n "$component" ] || fail "the cluster does not stand; what it says is above"

say() { printf '\n== %s\n' "$*"; }

# A command as typed on the machine of a node.
on() {
    local name=$1
    shift
    nsenter --target "${inside[$name]}" --net -- "$@"
}

swarmer() {
    local name=$1
    shift
    printf '%s$ swarmer %s\n' "$name" "$*"
    on "$name" "$SWARMER_BIN" "$@"
}

order() {
    local answer
    printf '%s\n' "$*" >&"$words"
    IFS= read -r -t 60 -u "$told" answer || fail "the cluster does not answer $*"
    [ "$answer" = "done $*" ] || fail "$answer"
}

# The status, node and time of one request at a node's ingress.
ask() {
    local name=$1 headers
    headers=$(on "$name" curl --silent --max-time 5 --output /dev/null --dump-header - \
        --write-out 'time: %{time_total}\n' "http://127.0.0.1:8080/hello/from-$name") || true
    awk '/^HTTP/ {status = $2} tolower($1) == "x-swarmer-node:" {by = $2} $1 == "time:" {time = $2}
         {gsub(/\r/, "")} END {sub(/\r/, "", by); print status + 0, (by == "" ? "nobody" : by), time}' \
        <<<"$headers"
}

# Asks at each of these ingresses until none is answered by a node of the region; at most 30 s.
leaves() {
    local place=$1 until=$((SECONDS + 30)) name status by time
    shift
    for name in "$@"; do
        while read -r status by time <<<"$(ask "$name")"; [ "$status" != 200 ] || [ "${region[$by]:-}" = "$place" ]; do
            [ "$SECONDS" -lt "$until" ] || fail "$name: no answer from outside of $place within 30 s"
        done
        printf 'ingress %s (%s): %s by %s (%s) in %s s\n' \
            "$name" "${region[$name]}" "$status" "$by" "${region[$by]}" "$time"
    done
}

# From now on a request at each of these ingresses, one after the other and some ten a second.
start_requests() {
    local name
    rm -f "$scratch"/sent-*
    for name in "$@"; do
        (
            trap - EXIT INT TERM
            # Not one of those for whom the cluster stays.
            exec {words}>&- {told}<&-
            while sleep 0.1 && kill -0 "$$" 2>/dev/null; do
                on "$name" curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}\n' \
                    http://127.0.0.1:8080/hello/all-the-time || true
            done >"$scratch/sent-$name"
        ) &
        senders+=($!)
    done
}

# Ends them, a moment later, and says how they went.
tell_requests() {
    sleep 2
    stop_requests
    awk '{sent++} $1 != 200 {failed++} END {printf "%d requests meanwhile, %d failed\n", sent, failed}' \
        "$scratch"/sent-*
}

# Waits until what `members` says on a node has no line like this; at most 30 s.
settles() {
    local name=$1 odd=$2 until=$((SECONDS + 30)) told
    while ! told=$(on "$name" "$SWARMER_BIN" members) || grep -qE "$odd" <<<"$told"; do
        [ "$SECONDS" -lt "$until" ] || fail "$name: members does not settle: $odd"
        sleep 0.2
    done
}

say "Five nodes in three regions; a round trip takes 80 ms eu-us, 150 ms us-ap, 250 ms eu-ap"
# No way is measured yet: the column before the last one is empty.
settles n1 ' - +[a-z]+ *$'
swarmer n1 members
say "A function with three copies: one goes to each region"
swarmer n1 deploy "$component" --name hello --replicas 3
swarmer n1 explain placement hello
for name in n1 n3 n5; do
    read -r status by time <<<"$(ask "$name")"
    [ "$status" = 200 ] || fail "ingress $name answers $status"
    printf 'ingress %s (%s): %s by %s (%s) in %s s\n' \
        "$name" "${region[$name]}" "$status" "$by" "${region[$by]}" "$time"
done

say "Empty region us: what stands there moves, and every ingress is answered elsewhere"
start_requests n1 n3 n5
swarmer n1 region drain us --wait --reason "the example"
swarmer n1 region list
leaves us n1 n3 n5
tell_requests
swarmer n1 region resume us

say "Kill region eu: two nodes at once, kill -9"
start_requests n3 n4 n5
from=$SECONDS
order kill eu
leaves eu n3 n4 n5
printf 'all other ingresses answer, %s s after it\n' "$((SECONDS - from))"
tell_requests
settles n3 ' (alive|suspect) +eu '
swarmer n3 members

say "Region eu comes back, and is ready again"
order start eu
until=$((SECONDS + 60))
for name in n1 n2; do
    until on "$name" curl --silent --fail --output /dev/null http://127.0.0.1:7401/readyz; do
        [ "$SECONDS" -lt "$until" ] || fail "$name is not ready within 60 s"
        sleep 0.2
    done
done
swarmer n1 region list
read -r status by time <<<"$(ask n1)"
[ "$status" = 200 ] || fail "ingress n1 answers $status"
printf 'ingress n1 (eu): %s by %s (%s) in %s s\n' "$status" "$by" "${region[$by]}" "$time"
say "Done. All of it is gone when this ends"
