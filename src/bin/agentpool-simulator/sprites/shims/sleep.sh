#!/bin/bash
# sleep: as long as the simulator's speed says, at least a twentieth of a second. One number, with a unit or without.
[[ ${1:-} != infinity ]] || exec /bin/sleep infinity
number=${1:-0} factor=1000
case $number in
  *s) number=${number%s} ;;
  *m) number=${number%m} factor=60000 ;;
  *h) number=${number%h} factor=3600000 ;;
esac
whole=${number%%.*} part=000
[[ $number != *.* ]] || { part=${number#*.}000; part=${part:0:3}; }
ms=$(((10#${whole:-0} * 1000 + 10#$part) * factor / 1000 * 1000 / SIM_SPEED_PERMILLE))
((ms >= 50)) || ms=50
exec /bin/sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
