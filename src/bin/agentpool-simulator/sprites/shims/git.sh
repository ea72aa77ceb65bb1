#!/bin/bash
# git: a clone makes a small tree of the runtime's shape. A ref with "missing" in it does not exist.
dir=.
while [[ ${1:-} == -* ]]; do
  case $1 in
    -C) dir=$2; shift 2 ;;
    -c) shift 2 ;;
    --version) echo "git version 2.51.0"; exit 0 ;;
    *) shift ;;
  esac
done
command=${1:-}; shift
case $command in
  clone)
    ref=main url='' to=''
    while (($#)); do
      case $1 in
        --branch | -b) ref=$2; shift 2 ;;
        --branch=*) ref=${1#*=}; shift ;;
        --depth) shift 2 ;;
        -*) shift ;;
        *) if [[ -z $url ]]; then url=$1; else to=$1; fi; shift ;;
      esac
    done
    to=${to:-$(basename "$url" .git)}
    if [[ $ref == *missing* ]]; then
      echo "fatal: Remote branch $ref not found in upstream origin" >&2
      exit 128
    fi
    if [[ -d $to && -n $(ls -A "$to") ]]; then
      echo "fatal: destination path '$to' already exists and is not an empty directory." >&2
      exit 128
    fi
    echo "Cloning into '$to'..." >&2
    mkdir -p "$to/.git" "$to/extensions/convos" "$to/extensions/other"
    echo "$ref" >"$to/.git/sim-ref"
    echo '{"name":"openclaw","version":"2026.9.0","type":"module"}' >"$to/package.json"
    printf '{\n  "name": "@openclaw/convos",\n  "dependencies": {\n    "@convos/cli": "^1.0.0"\n  },\n  "peerDependencies": {\n    "openclaw": ">=2026.1.26"\n  }\n}\n' >"$to/extensions/convos/package.json"
    printf '{\n  "name": "@openclaw/other",\n  "devDependencies": {\n    "openclaw": "workspace:*"\n  }\n}\n' >"$to/extensions/other/package.json"
    ;;
  rev-parse)
    [[ -f $dir/.git/sim-ref ]] || { echo "fatal: not a git repository" >&2; exit 128; }
    sha1sum <"$dir/.git/sim-ref" | cut -c1-40
    ;;
  *) echo "git $command: simulated" >&2 ;;
esac
