# What failed in an output of cargo test, for tests/run:
#   again NAME   a test of tests/k8s: may be run again
#   fatal NAME   any other test, or a test binary that did not come to its end
#   why NAME TEXT…   the first lines of its panic
# POSIX awk: Debian's default is mawk.

function ended() {
    if (running != "") print "fatal " running " (it did not come to its end)"
    running = ""
}

{ gsub(/\033\[[0-9;]*m/, "") }

$1 == "Running" && NF > 1 { ended(); running = $2 == "unittests" ? $3 : $2; count = 0 }
$1 == "Doc-tests" && NF == 2 { ended(); running = "doc-tests"; count = 0 }

# The list of names stands last of all that follows `failures:`.
$0 == "failures:" { count = 0; listing = 1; of = "" }
/^---- .* stdout ----$/ { of = $2; left = 0; next }
of != "" && !(of in told) && /panicked at / { told[of] = 1; left = 6 }
left > 0 && ($0 == "" || /^note: / || /^--- /) { left = 0 }
left > 0 { left--; print "why " of " " $0 }
listing && /^    [^ ]/ { failed[++count] = $1 }

/^test result: / {
    listing = 0; of = ""
    said = 0
    for (i = 1; i < NF; i++) if ($(i + 1) ~ /^failed;/) said = $i + 0
    # Names that cannot be told apart from output: nothing to go by.
    if (said != count) print "fatal " running " (" said " failed, " count " named)"
    else for (i = 1; i <= count; i++) print (running == "tests/k8s/main.rs" ? "again " : "fatal ") failed[i]
    running = ""; count = 0
}

END { ended() }
