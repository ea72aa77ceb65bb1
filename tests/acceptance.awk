# Joins the rows of docs/acceptance.md, the tests that name them and the results of one run: see tests/acceptance.sh.
# Files in this order, told apart by `kind` set before each: doc, required, source…, results.
# POSIX awk: Debian's default is mawk.

function problem(text) { print "error: " text > "/dev/stderr"; broken = 1 }
function trim(s) { gsub(/^[ \t]+|[ \t]+$/, "", s); return s }

# tests/k8s/a/b.rs and tests/k8s/a/b/mod.rs hold the module a::b; main.rs the root. The steps of tests/cluster/inside are
# in `cluster`.
function module_of(path) {
    if (path ~ /tests\/cluster\/inside$/) return "cluster::"
    sub(/^.*tests\/k8s\//, "", path); sub(/\.rs$/, "", path); sub(/(^|\/)(main|mod)$/, "", path)
    gsub(/\//, "::", path)
    return path == "" ? "" : path "::"
}

function unfinished() {
    if (pending != "") problem(pending_at ": acceptance ids without a test function below them")
    pending = ""
}

FNR == 1 { unfinished() }

kind == "doc" && /^\| *[A-N][0-9][0-9] *\|/ {
    split($0, cell, "|")
    id = trim(cell[2])
    if (id in feature) problem("row " id " stands twice in the list")
    feature[id] = trim(cell[3]); rows[++row_count] = id
}

kind == "required" { sub(/#.*/, ""); for (i = 1; i <= NF; i++) required[++required_count] = $i }

kind == "source" && /^[ \t]*(\/\/\/|#) acceptance:/ {
    ids = $0; sub(/^.*acceptance:/, "", ids)
    pending = pending " " ids; pending_at = FILENAME ":" FNR
    next
}
kind == "source" && pending != "" && (/^[ \t]*(pub(\([a-z]+\))? +)?(async +)?fn +/ || /^[a-z0-9_]+\(\) \{/) {
    name = $0; sub(/^.*fn +/, "", name); sub(/[^A-Za-z0-9_].*/, "", name)
    test = module_of(FILENAME) name
    gsub(/,/, " ", pending)
    n = split(pending, list, " ")
    for (i = 1; i <= n; i++) {
        if (!(list[i] in feature)) problem(pending_at ": no row '" list[i] "' in the list")
        tests[list[i]] = tests[list[i]] " " test
    }
    pending = ""
    next
}
# Between the ids and the function only attributes, comments and the lines of a long attribute may stand.
kind == "source" && pending != "" && !/^[ \t]*(#|\/\/|\)|[a-z_]+ *=)/ { unfinished() }

kind == "results" {
    gsub(/\033\[[0-9;]*m/, "")
    if ($1 == "Running" || $1 == "Doc-tests") real = ($2 ~ /^tests\/(k8s\/main\.rs|cluster\/inside)$/)
    # tests/run gives what failed a second chance, alone: the later outcome counts.
    if ($0 ~ /^run again, alone: /) delete result[$4]
    if ($0 !~ /^test .* \.\.\. /) next
    outcome = $0; sub(/^.* \.\.\. /, "", outcome); sub(/[ ,].*/, "", outcome)
    if (outcome == "ok") passed++
    if (!real) next
    if ($2 in result && result[$2] != outcome) outcome = "unclear"
    result[$2] = outcome
}

# Shown: every test that carries the id passed in this run. Otherwise `why` is the reason.
function shown(id,   n, list, i) {
    why = "no test"
    n = split(tests[id], list, " ")
    for (i = 1; i <= n; i++) {
        why = result[list[i]]
        if (why == "") why = "not run"
        if (why != "ok") { why = why ": " list[i]; return 0 }
    }
    return n > 0
}

END {
    unfinished()
    if (!row_count) problem("no rows found in the list")
    for (r = 1; r <= row_count; r++) {
        id = rows[r]; section = substr(id, 1, 1)
        if (section != last) { printf "\n"; last = section }
        if (shown(id)) { printf "%s  %-50s %s\n", id, feature[id], trim(tests[id]); count++; ok[id] = 1 }
        else printf "%s  %-50s -- not shown (%s)\n", id, feature[id], why
    }
    printf "\n%d of %d rows shown; %d tests passed in this run\n", count, row_count, passed
    for (i = 1; i <= required_count; i++) if (!(required[i] in ok)) missing = missing " " required[i]
    if (missing != "") problem("required but not shown:" missing)
    if (passed < at_least) problem("only " passed + 0 " tests passed, at least " at_least " must")
    exit broken
}
