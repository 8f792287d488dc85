# Kills all processes in network namespace $1 and removes it with its veth pair when standard input is closed: that is,
# when the program at the other end closes the pipe or ends for any reason.
PATH="$PATH:/usr/sbin:/sbin"
# By its number, and not by its name: `ip netns exec` that has just begun enters the namespace even while its name is
# being removed.
number=$(stat -L -c %i "/run/netns/$1")
cat >/dev/null

inside() {
    for link in /proc/[0-9]*/ns/net; do
        [ "$(readlink "$link")" = "net:[$number]" ] || continue
        process=${link#/proc/}
        echo "${process%/ns/net}"
    done 2>/dev/null
}

kill_all() {
    rounds=0
    while [ $rounds -lt 200 ]; do
        found=$(inside)
        [ -n "$found" ] || break
        # shellcheck disable=SC2086 # one word per process
        kill -KILL $found
        sleep 0.05
        rounds=$((rounds + 1))
    done
}

kill_all
# The kernel removes a namespace some time later; the pair has to be removed at once.
ip link delete "$1"
ip netns delete "$1"
removed=$?
# Now nobody can begin to enter it. Who had begun is there within this time.
sleep 0.1
kill_all
exit $removed
