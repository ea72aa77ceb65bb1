# shellcheck shell=bash disable=SC2034 # the variables are for those who source this
# Shared by cluster, node, tools, demo and test: messages, locks, and processes that are never lost and never mistaken for another's.
#
# A daemon is found again by two things: its pid file, which it writes itself before exec (so a kill -9 of the script
# that starts it loses nothing), and a mark in its environment (so a recycled pid is never taken for ours).

LOCAL_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO_DIR=$(cd "$LOCAL_DIR/../.." && pwd)
# On a real disk and private to the user, unlike /tmp and the runtime folder: etcd's fsync is part of what is measured.
STATE_ROOT=${AGENTPOOL_STATE_ROOT:-${XDG_STATE_HOME:-$HOME/.local/state}/agentpool}
CACHE_ROOT=${XDG_CACHE_HOME:-$HOME/.cache}/agentpool

# Kubernetes of every tier.
VERSION=1.36.3 # as in go.mod; kubectl refuses to compare versions without it
MINOR=${VERSION#*.} MINOR=${MINOR%.*}
X=k8s.io/component-base/version
LDFLAGS="-s -w -X $X.gitVersion=v$VERSION -X $X.gitMajor=${VERSION%%.*} -X $X.gitMinor=$MINOR"

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Seconds since START (of $EPOCHREALTIME) with one decimal.
since() { local us=$((${EPOCHREALTIME/[.,]/} - ${1/[.,]/})); printf '%d.%d' $((us / 1000000)) $((us / 100000 % 10)); }

# poll SECONDS CMD…: until CMD succeeds. 1 when the time is over.
poll() {
  local end=$((SECONDS + $1)); shift
  until "$@"; do ((SECONDS < end)) || return 1; sleep 0.1; done
}

# Names all that is missing at once. Each argument: "command:how to get it".
need() {
  local missing=() entry
  for entry; do command -v "${entry%%:*}" >/dev/null || missing+=("${entry%%:*} (${entry#*:})"); done
  [[ ${CLUSTER:-} == current || $OSTYPE == linux* ]] || missing+=("Linux (the local control plane relies on /proc)")
  ((${#missing[@]} > 0)) || return 0
  local all hint=' — or set CLUSTER=current to use the cluster of the current kubectl context'
  printf -v all '%s, ' "${missing[@]}"
  [[ ${CLUSTER:-} != current ]] || hint=
  die "missing: ${all%, }$hint"
}

# Debian's packages, as root.
apt_install() {
  say "installing $*"
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

check_name() { [[ $1 =~ ^[a-z0-9][a-z0-9-]{0,39}$ ]] || die "name '$1': use up to 40 of a-z, 0-9 and '-'"; }

# lock NAME: one script at a time works on that name; held (fd 9) until this script and what it is starting are gone.
# The file goes away with the state, so after waiting it may no longer be the one that others see: then again.
lock() {
  mkdir -p "$STATE_ROOT"
  while :; do
    exec 9>"$STATE_ROOT/$1.lock"
    flock 9
    [[ /dev/fd/9 -ef $STATE_ROOT/$1.lock ]] && return
  done
}

unlock() { exec 9>&-; }

# spawn DIR NAME CMD…: a daemon with DIR/NAME.pid and DIR/NAME.log. It keeps none of our descriptors: the lock is
# let go only after the pid is written, and a caller's pipe does not stay open.
spawn() {
  local dir=$1 name=$2
  rm -f "$dir/$name.pid"
  # shellcheck disable=SC2016 # expanded by the child
  AGENTPOOL_STATE=$dir setsid bash -c '
    pid=$1; shift
    echo $$ >"$pid"
    for fd in /proc/$$/fd/*; do fd=${fd##*/}; ((fd <= 2)) || exec {fd}>&-; done
    exec "$@"' bash "$dir/$name.pid" "${@:3}" </dev/null >>"$dir/$name.log" 2>&1 &
  until [[ -s $dir/$name.pid ]] || ! kill -0 $! 2>/dev/null; do sleep 0.01; done
}

# alive DIR NAME: is the recorded process there, and ours? (A zombie has no environment and counts as gone.)
alive() {
  local pid
  { read -r pid <"$1/$2.pid"; } 2>/dev/null && [[ $pid =~ ^[0-9]+$ ]] &&
    grep -zqxF "AGENTPOOL_STATE=$1" "/proc/$pid/environ" 2>/dev/null
}

gone() { ! alive "$@"; }

# stop DIR NAME [SECONDS]: SIGTERM, SIGKILL after that many seconds (10; 0 is at once); returns when the process is
# gone. Nothing happens to a foreign one.
stop() {
  local dir=$1 name=$2 grace=${3:-10} pid
  if alive "$dir" "$name"; then
    pid=$(<"$dir/$name.pid")
    ((grace == 0)) || kill -TERM "$pid" 2>/dev/null || true
    if ! poll "$grace" gone "$dir" "$name"; then
      kill -KILL "$pid" 2>/dev/null || true
      poll 10 gone "$dir" "$name" || die "process $pid ($name) does not end"
    fi
  fi
  rm -f "$dir/$name.pid"
}

# A port that nobody listens on, below the range that outgoing connections use. Two may still choose the same: callers retry.
free_port() {
  local port
  while :; do
    port=$((20000 + SRANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

# port_or_free PORT: PORT if nobody listens on it, else a free one.
port_or_free() { if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then free_port; else echo "$1"; fi; }

# --- binaries from Go modules ---------------------------------------------------------------------------------------

# go_dir NAME MODULE FLAGS: the folder of what is built from MODULE with FLAGS.
go_dir() {
  local hash
  hash=$({ cat "$2/go.mod" "$2/go.sum"; uname -m; echo "$3"; } | sha256sum)
  echo "$CACHE_ROOT/$1-${hash:0:16}"
}

# go_build BUILT WHAT DIR MODULE LDFLAGS TAGS PACKAGE…: builds into DIR unless BUILT says that all is there. One build at
# a time; into a temporary name, renamed when it is whole, so a broken or concurrent one leaves nothing half.
go_build() {
  local built=$1 what=$2 dir=$3; shift 3
  need "go:version 1.26 or newer from https://go.dev/dl" "flock:install util-linux"
  local version
  version=$(cd "$1" && go env GOVERSION 2>/dev/null) || version=
  if ! [[ $version =~ ^go1\.([0-9]+) ]] || ((BASH_REMATCH[1] < 26)); then
    die "missing: go 1.26 or newer (found: ${version:-one that is too old}; install from https://go.dev/dl) — or set CLUSTER=current to use the cluster of the current kubectl context"
  fi

  mkdir -p "$CACHE_ROOT"
  exec 8>"$CACHE_ROOT/build.lock"
  flock -n 8 || { say "another build of Go programs is running: waiting for it"; flock 8; }
  if ! "$built"; then
    rm -rf "$CACHE_ROOT"/building.*
    local tmp; tmp=$(mktemp -d "$CACHE_ROOT/building.XXXXXX")
    go_compile "$what" "$tmp" "$@" || { tail -n 20 "$CACHE_ROOT/build.log" >&2; die "building $what failed; the whole log: $CACHE_ROOT/build.log"; }
    [[ ! -e $tmp/server ]] || mv "$tmp/server" "$tmp/etcd" # the module's main package is called server
    rm -rf "$dir"
    mv "$tmp" "$dir"
  fi
  exec 8>&-
}

go_compile() {
  local what=$1 out=$2 module=$3 ldflags=$4 tags=$5; shift 5
  local start=$EPOCHREALTIME log=$CACHE_ROOT/build.log said=0
  say "building $what once (log: $log)"
  # GOFLAGS and GOWORK of the user must not change what the hash stands for.
  (cd "$module" && exec env GOFLAGS= GOWORK=off CGO_ENABLED=0 \
    go build -v -buildvcs=false -trimpath -tags "$tags" -ldflags "$ldflags" -o "$out/" "$@") >"$log" 2>&1 &
  trap 'kill %% 2>/dev/null; exit 130' INT TERM # a background job does not hear Ctrl-C
  while kill -0 $! 2>/dev/null; do
    sleep 0.5
    ((SECONDS - said < 10)) && continue
    said=$SECONDS
    say "  $(since "$start") s: $(grep -c '^go: downloading' "$log" || true) modules downloaded, $(grep -vc '^go: ' "$log" || true) packages compiled"
  done
  wait $! || return 1
  trap - INT TERM
  say "built $what in $(since "$start") s"
}
