#!/bin/bash
# ps: the sprite's own processes, whatever is asked.
echo "    PID COMMAND"
for d in /proc/[0-9]*; do
  pid=${d#/proc/}
  [[ $pid != "$$" ]] && grep -aqsF "SIM_SPRITE=$SIM_SPRITE" "$d/environ" || continue
  printf '%7d %s\n' "$pid" "$(tr '\0' ' ' <"$d/cmdline" 2>/dev/null)"
done
