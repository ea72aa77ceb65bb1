#!/bin/bash
# sprite-env: the CLI of the API inside; of it, curl.
[[ ${1:-} == curl ]] || { echo "sprite-env: only curl is simulated" >&2; exit 2; }
exec "$SIM_EXE" inside "$@"
