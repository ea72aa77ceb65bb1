#!/bin/bash
# curl: port 8080 of the sprite is real, the rest of the world is an empty script.
for argument in "$@"; do
  case $argument in
    http://localhost:8080* | http://127.0.0.1:8080* | localhost:8080* | 127.0.0.1:8080*) exec "$SIM_EXE" inside curl "$@" ;;
  esac
done
while (($#)); do
  case $1 in
    --version) echo "curl 8.14.0 (simulated)"; exit 0 ;;
    -o | --output) echo ': simulated download' >"$2"; exit 0 ;;
    -[a-zA-Z]*o) echo ': simulated download' >"$2"; exit 0 ;;
  esac
  shift
done
echo ': simulated download'
