# Ends whatever runs in network namespace $1 and removes it with its veth pair, once standard input closes: that is, when
# the program that holds the other end drops it or dies, of whatever cause.
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
# The kernel takes its time to tear a namespace down; the pair is to be gone at once.
ip link delete "$1"
ip netns delete "$1"
