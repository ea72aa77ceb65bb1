# docs/values.md from values.yaml: one row per value, its comment as the description. A value without a comment, or a
# comment without a value, is an error. Two spaces per level; maps and lists of one value stand in one line, or follow
# at a deeper level below a key that is commented.
function flush_row() {
    if (pending == "") return
    printf "| `%s` | %s | %s |\n", pending, value == "" ? (block == "" ? "" : "see values.yaml") : "`" value "`", text
    pending = ""; block = ""
}
function fail(what) { print "values.yaml:" NR ": " what > "/dev/stderr"; broken = 1 }
BEGIN {
    print "# Values of the chart\n"
    print "Made from `charts/agentpool/values.yaml` by `make chart`. Anything else is refused (`values.schema.json`).\n"
    print "| Value | Default | What it is |\n|---|---|---|"
}
/^$/ { comment = ""; next }
{
    match($0, /^ */); depth = RLENGTH / 2
    line = substr($0, RLENGTH + 1)
}
# Below a commented key: part of its value.
pending != "" && depth > pending_depth { block = "yes"; next }
line ~ /^#/ {
    flush_row()
    sub(/^# ?/, "", line)
    comment = comment == "" ? line : comment " " line
    next
}
{
    flush_row()
    key = line; sub(/:.*/, "", key)
    rest = line; sub(/^[^:]*: */, "", rest); if (rest == key ":") rest = ""
    path[depth] = key
    name = path[0]; for (i = 1; i <= depth; i++) name = name "." path[i]
    if (comment == "") {
        if (rest != "") fail(name " has no comment")
        next
    }
    text = comment; gsub(/\|/, "\\|", text)
    comment = ""
    pending = name; pending_depth = depth; value = rest
}
END { flush_row(); exit broken }
