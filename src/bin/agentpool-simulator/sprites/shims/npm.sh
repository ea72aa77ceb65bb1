#!/bin/bash
# npm: knows its version and its prefix, and has installed everything.
case "$*" in
  -v | --version) echo 10.9.0 ;;
  "config get prefix" | "prefix -g") echo "$HOME/.npm-global" ;;
  *) echo "npm $*: simulated" ;;
esac
