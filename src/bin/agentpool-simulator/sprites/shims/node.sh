#!/bin/bash
# node: its version, the gateway, the CLI of convos; anything else goes to the host's node, if it has one.
case "${1:-}" in -v | --version) echo v22.12.0; exit 0 ;; esac
fail() { echo "$1" >&2; exit "${2:-1}"; }
case "$*" in
  */entry.js\ gateway\ run*)
    [[ -f $1 ]] || fail "Error: Cannot find module '$1'"
    [[ -f $HOME/.openclaw/openclaw.json ]] || fail "Gateway start blocked: missing config. Run openclaw setup."
    if read -r other 2>/dev/null <"$SIM_RUN/gateway.pid" && kill -0 "$other" 2>/dev/null \
      && grep -aqsF "SIM_SPRITE=$SIM_SPRITE" "/proc/$other/environ"; then
      fail "Gateway failed to start: another gateway instance is already listening on ws://127.0.0.1:8080"
    fi
    echo "[gateway] listening on ws://0.0.0.0:8080 (PID $$)"
    echo $$ >"$SIM_RUN/gateway.pid.new" && mv "$SIM_RUN/gateway.pid.new" "$SIM_RUN/gateway.pid"
    exec -a openclaw-gateway /bin/sleep infinity
    ;;
  */entry.js\ --version*) echo 2026.9.0 ;;
  */cli/bin/run.js\ *)
    [[ -f $1 ]] || fail "Error: Cannot find module '$1'"
    # Taken as a whole: what comes meanwhile is the next one's.
    waiting=0 taken=$SIM_RUN/join-requests.$$
    mv "$SIM_RUN/join-requests" "$taken" 2>/dev/null && waiting=$(cat "$taken") && rm -f "$taken"
    echo "{\"processed\":$waiting,\"results\":[]}"
    ;;
  *)
    PATH=${PATH#*:}
    command -v node >/dev/null || fail "node: only the gateway and the convos CLI are simulated here"
    exec node "$@"
    ;;
esac
