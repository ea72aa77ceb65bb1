#!/usr/bin/env bash
# Which rows of docs/acceptance.md did the last `make test` show?
#
# A row is shown when every test in tests/k8s that names it (`/// acceptance: A01, B02` above the function) passed in
# that run. Only those tests meet the real API server and the simulator's binary, so ids elsewhere are an error. The steps
# of `make test-cluster` meet them as well; they count (`# acceptance: F01`) where its last run was of the same commit.
#
#   --results DIR    where `make test` left results.txt and run.txt
#   --require FILE   ids that must be shown, else exit 1
#   --at-least N     passed tests that there must be, else exit 1
#   --root DIR       the repository (for tests of this script)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
results=${CARGO_TARGET_DIR:-$root/target}/acceptance required=/dev/null at_least=0
while (($# > 0)); do
  case $1 in
    --results) results=$2 ;;
    --require) required=$2 ;;
    --at-least) at_least=$2 ;;
    --root) root=$2 ;;
    *) echo "error: unknown argument '$1'" >&2; exit 2 ;;
  esac
  shift 2
done

[[ -s $results/results.txt ]] || { echo "error: no results of a run; run 'make test' first" >&2; exit 1; }

mapfile -t elsewhere < <(grep -rlE --include='*.rs' '^[[:space:]]*//[/!] acceptance:' "$root"/{src,tests,benches} 2>/dev/null | grep -v '/tests/k8s/' || true)
((${#elsewhere[@]} == 0)) || { echo "error: acceptance ids outside tests/k8s: ${elsewhere[*]}" >&2; exit 1; }

mapfile -t sources < <(find "$root/tests/k8s" -name '*.rs' | sort)
files=(kind=results "$results/results.txt")
commit_of() { sed -n 's/^.* at commit //p' "$1/run.txt" 2>/dev/null; }
cluster=$(dirname "$results")/cluster
if [[ -s $cluster/results.txt && -n $(commit_of "$results") && $(commit_of "$cluster") == "$(commit_of "$results")" ]]; then
  sources+=("$root/tests/cluster/inside")
  files+=("$cluster/results.txt")
fi
cat "$results/run.txt"
awk -v at_least="$at_least" -f "$root/tests/acceptance.awk" \
  kind=doc "$root/docs/acceptance.md" kind=required "$required" kind=source "${sources[@]}" "${files[@]}"
