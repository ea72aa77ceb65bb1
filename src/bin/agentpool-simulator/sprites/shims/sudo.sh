#!/bin/bash
# sudo: the sprite's user is root already, as far as anybody can tell.
while [[ ${1:-} == -* ]]; do shift; done
while [[ ${1:-} == *=* ]]; do export "$1"; shift; done
[[ $# == 0 ]] || exec "$@"
