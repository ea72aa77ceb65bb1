#!/bin/bash
# bun: knows its version.
case "${1:-}" in -v | --version) echo 1.3.0 ;; *) echo "bun $*: simulated" ;; esac
