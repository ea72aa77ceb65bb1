#!/bin/bash
# pnpm: install wants the extensions' dependency on the runtime loosened, build makes dist/entry.js.
dir=.
while [[ ${1:-} == -* ]]; do
  case $1 in
    -v | --version) echo 10.23.0; exit 0 ;;
    -C | --dir) dir=$2; shift 2 ;;
    *) shift ;;
  esac
done
cd "$dir" || exit 1
[[ ${1:-} == run ]] && shift
case ${1:-} in
  install | i)
    [[ -f package.json ]] || { echo " ERR_PNPM_NO_PKG_MANIFEST  No package.json found in $PWD" >&2; exit 1; }
    if grep -Eqs '"openclaw": *"(>=|workspace:)' extensions/*/package.json; then
      echo " ERR_PNPM_NO_MATCHING_VERSION  No matching version found for openclaw" >&2
      exit 1
    fi
    mkdir -p node_modules
    for extension in extensions/*/; do
      mkdir -p "$extension/node_modules/@convos/cli/bin"
      echo '// simulated' >"$extension/node_modules/@convos/cli/bin/run.js"
    done
    echo "Done in 1s"
    ;;
  build)
    [[ -d node_modules ]] || { echo "sh: tsdown: not found" >&2; exit 1; }
    mkdir -p dist
    echo '// simulated' >dist/entry.js
    echo "Build complete"
    ;;
  *) echo "pnpm $*: simulated" ;;
esac
