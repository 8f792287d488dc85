# One machine of a set-up: a disk, a network and systemd, in namespaces. Reads orders from standard input, one a line:
#
#   boot     start the machine from its disk
#   cut      take the power away: the link goes down, then every process ends
#
# and removes everything when standard input is closed: that is, when the program at the other end closes the pipe or
# ends for any reason. The disk is this machine's root with a layer on top, which only this process and its children see.
# The id of the machine's first process is in $directory/init while it runs.
#
# Arguments: name of the machine, its address, network namespace of the switch, directory of the machine (empty).
PATH="$PATH:/usr/sbin:/sbin"
name=$1 address=$2 switch=$3 directory=$4
namespace=$switch-$name
disk=$directory/disk

if [ -d /sys/fs/cgroup/systemd ]; then
    groups=/sys/fs/cgroup/systemd/$namespace # version 1
else
    groups=/sys/fs/cgroup/$namespace
fi

main() {
    prepare || exit 1
    echo prepared
    while read -r order; do
        case $order in
            boot) boot ;;
            cut) cut ;;
        esac
    done
    cut
    wait
    ip -n "$switch" link delete "$name"
    ip netns delete "$namespace"
    find "$groups" -depth -type d -exec rmdir '{}' ';' 2>/dev/null
    umount -l "$disk"
}

prepare() {
    mkdir "$disk" "$groups" &&
        mount -t tmpfs -o mode=755 tmpfs "$disk" &&
        mkdir "$disk/upper" "$disk/work" "$disk/root" &&
        mount -t overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" overlay "$disk/root" &&
        forget_this_machine "$disk/root" &&
        ip netns add "$namespace" &&
        ip -n "$switch" link add "$name" type veth peer name eth0 netns "$namespace" &&
        ip -n "$switch" link set "$name" master switch
}

# A machine on which the same packages are installed, and nothing is configured or running.
forget_this_machine() {
    rm -rf "$1"/etc/systemd/system/*.wants "$1"/etc/rc?.d/* "$1"/etc/keepalived/* "$1"/etc/etcd* "$1"/etc/default/etcd \
        "$1"/etc/pgvane "$1"/etc/patroni "$1"/etc/postgresql/*/* "$1"/var/lib/postgresql/* "$1"/var/lib/etcd/* "$1"/var/log/journal \
        "$1"/var/lib/apt/lists/* # what is installed is then the newest, and apt-get has nothing to download
    echo "$name" >"$1/etc/hostname"
    # systemd makes one for itself
    : >"$1/etc/machine-id"
    printf '[Journal]\nStorage=volatile\n' >"$1/etc/systemd/journald.conf"
    # what belongs to the kernel, and so to all machines here, is not theirs to set
    for unit in systemd-binfmt systemd-modules-load systemd-sysctl systemd-timesyncd console-getty; do
        ln -sf /dev/null "$1/etc/systemd/system/$unit.service"
    done
}

boot() {
    running="" init=""
    ip -n "$namespace" address flush dev eth0
    ip -n "$namespace" address add "$address/24" dev eth0
    ip -n "$namespace" link set lo up
    ip -n "$namespace" link set eth0 up
    ip -n "$switch" link set "$name" up
    mkdir -p "$groups/machine"
    run &
    running=$!
}

# In a process of its own, because it waits until the machine is off.
run() {
    sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh "$groups/machine" \
        ip netns exec "$namespace" unshare --pid --fork --cgroup --uts --mount \
        sh -c "$machine_boot" boot "$disk/root" "$name" >>"$directory/console" 2>&1 &
    local parent=$!
    until init=$(cat "/proc/$parent/task/$parent/children") && [ -n "$init" ]; do sleep 0.02; done
    echo "$init" | tr -d ' ' >"$directory/init"
    wait $parent
    rm -f "$directory/init"
    # a machine that is off answers nobody
    ip -n "$switch" link set "$name" down
}

cut() {
    ip -n "$switch" link set "$name" down
    [ ! -e "$directory/init" ] || kill -KILL "$(cat "$directory/init")"
    [ -z "$running" ] || wait "$running"
}

main
