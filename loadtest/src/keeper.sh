# Ends whatever runs in directory $1 and removes it, once standard input closes: that is, when the program that holds
# the other end drops it or dies, of whatever cause. What runs there is found by working directory: a server's children
# inherit it, and nobody else's processes have a directory that was made for this one run.
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
