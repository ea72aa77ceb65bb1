#!/bin/bash
# ps: the sprite's own processes, whatever is asked.
echo "    PID COMMAND"
for file in $(grep -lasF "SIM_SPRITE=$SIM_SPRITE" /proc/[0-9]*/environ); do
  pid=${file#/proc/} pid=${pid%/environ}
  printf '%7d %s\n' "$pid" "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)"
done
