# Kills all processes in directory $1 and removes it when standard input is closed: that is, when the program at the
# other end closes the pipe or ends for any reason. The processes are found by their working directory: children of a
# server inherit it, and no other process has a directory that was created for this run.
cat >/dev/null
rounds=0
while [ $rounds -lt 200 ]; do
    found=$(find /proc -mindepth 2 -maxdepth 2 -name cwd '(' -lname "$1" -o -lname "$1/*" ')' 2>/dev/null | cut -d / -f 3)
    [ -n "$found" ] || break
    # shellcheck disable=SC2086 # one word per process
    kill -KILL $found 2>/dev/null
    sleep 0.05
    rounds=$((rounds + 1))
done
[ -n "$2" ] || rm -rf "$1"
[ -z "$found" ]
