# Kills all processes in network namespace $1 and removes it with its veth pair when standard input is closed: that is,
# when the program at the other end closes the pipe or ends for any reason.
PATH="$PATH:/usr/sbin:/sbin"
cat >/dev/null
rounds=0
while [ $rounds -lt 200 ]; do
    found=$(ip netns pids "$1")
    [ -n "$found" ] || break
    # shellcheck disable=SC2086 # one word per process
    kill -KILL $found
    sleep 0.05
    rounds=$((rounds + 1))
done
# The kernel removes a namespace some time later; the pair has to be removed at once.
ip link delete "$1"
ip netns delete "$1"
