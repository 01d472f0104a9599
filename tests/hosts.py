"""Two hosts, each with a name, a network and an address of its own: namespaces joined by a virtual cable."""

import contextlib
import os
from pathlib import Path

# Runs a command on node-a, beside which there is node-b; `remote HOST WORDS` does for either what ssh would.
# A network has a /sys of its own, too: some MPIs look for their interfaces there, and leave out one that is not
# up yet, which takes the kernel a moment. All of it ends with this shell, the first process of its namespace.
NODES = """
set -e
hostname node-a
mount -t sysfs none /sys
ip link set lo up
rm -f ready held && mkfifo ready held
unshare --net --uts --mount sh -c 'hostname node-b; mount -t sysfs none /sys; echo > ready; read never < held' &
read begun < ready
cat > remote <<END
#!/bin/sh
while [ "\\${1#10.77.0.}" = "\\$1" ]; do shift; done
host=\\$1
shift
[ \\$host = 10.77.0.1 ] && exec sh -c "\\$*"
exec nsenter --target $! --net --uts --mount --wd="$PWD" sh -c "\\$*"
END
chmod +x remote
ip link add eth0 type veth peer name eth0 netns $!
ip address add 10.77.0.1/24 dev eth0
ip link set eth0 up
./remote 10.77.0.2 'ip link set lo up; ip address add 10.77.0.2/24 dev eth0; ip link set eth0 up'
for node in 1 2; do
    tries=200
    until ./remote 10.77.0.$node grep -q up /sys/class/net/eth0/operstate; do
        [ $((tries -= 1)) -gt 0 ] || exit 1
        sleep 0.05
    done
done
status=0
"$@" || status=$?
cat /sys/class/net/eth0/statistics/rx_bytes > received
exit $status
"""
NAMESPACES = ["--user", "--map-root-user", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child",
              "--mount-proc"]  # fmt: skip
TCP = {"UCX_TLS": "tcp,self", "FI_PROVIDER": "tcp"}  # MPICH, Intel: not the memory that these hosts in truth share


def environment(folder):
    """Temporary files go into `folder`: launchers name theirs by process numbers, which begin at 1 in each namespace,
    and those that are killed leave them.
    """
    return {**os.environ, **TCP, "TMPDIR": str(folder)}


def on_node_a(folder, *words):
    """The words that run a command on node-a, from the working directory `folder`, which has `remote` then."""
    (folder / "nodes.sh").write_text(NODES)
    return [str(word) for word in ("unshare", *NAMESPACES, "sh", "nodes.sh", *words)]


def processes_of_node_b(run_dir):
    """The processes on the host of a run's rank 1, {id: words}, apart from the one that holds the host itself."""
    found, host = {}, None
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words, of = (path / "cmdline").read_bytes(), os.readlink(path / "ns" / "uts")
            found[int(path.name)] = of, words
            if str(run_dir).encode() in words and b"_RANK=1\0" in (path / "environ").read_bytes():
                host = of
    return {pid: words for pid, (of, words) in found.items() if of == host and b"hostname node-b" not in words}
