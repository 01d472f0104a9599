"""Two hosts, each with a name, a network and an address of its own: namespaces joined by a virtual cable."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import PROJECT, TINY, across, call, launcher
from images import make_dataset

pytestmark = pytest.mark.ranks

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


def on_node_a(folder, *words, timeout=240):
    """Run a command on node-a; returns the finished process."""
    (folder / "nodes.sh").write_text(NODES)
    nodes = ["unshare", *NAMESPACES, "sh", "nodes.sh", *words]
    return subprocess.run([str(word) for word in nodes], cwd=folder, env=environment(folder), timeout=timeout,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def permitted(tmp_path_factory):
    """Skips these tests where such hosts cannot be made."""
    launcher(2)
    try:
        tried = on_node_a(tmp_path_factory.mktemp("tried"), "true", timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"needs namespaces: {error}")
    if tried.returncode:
        pytest.skip(f"needs namespaces: {tried.stderr.strip()}")


def on_both(folder, each, *words):
    """Run a Python command on both hosts, `each` ranks on either. Returns its output and the bytes node-a received."""
    (folder / "hosts").write_text("10.77.0.1\n10.77.0.2\n")
    flags = across("hosts", each, folder / "remote")
    done = on_node_a(folder, *launcher(2 * each), *flags, sys.executable, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, int((folder / "received").read_text())


@pytest.mark.parametrize("each", [1, 2])
def test_a_sum_over_two_hosts_crosses_the_network(tmp_path, each):
    script = tmp_path / "script.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
import numpy as np
from mpi.world import connect
world = connect()
values = np.full(1 << 20, world.rank + 1, np.float32)
world.allreduce(values)
assert (values == world.size * (world.size + 1) / 2).all()
hosts = world.allgather((world.host, world.local_rank, world.local_size))
if world.rank == 0:
    print(hosts)
""")
    output, received = on_both(tmp_path, each, script)
    assert output.strip() == str([(host, rank, each) for host in ("node-a", "node-b") for rank in range(each)])
    assert received >= 4 << 20


def test_training_on_two_hosts_is_training_on_one(tmp_path):
    make_dataset(tmp_path / "data", 41, width=36, height=34)
    arguments = [*TINY, "--train-data", tmp_path / "data", "--phase", "1", "--iterations", "2", "--workers", "3"]
    arguments += ["--threads", "1"]  # a host alone would have more of them
    call("train", *arguments, "--run-dir", tmp_path / "one")
    _, received = on_both(tmp_path, 1, PROJECT / "bin" / "train", *arguments, "--run-dir", tmp_path / "two")
    hosts = json.loads((tmp_path / "two" / "run.json").read_text())["hosts"]
    assert [(host["host"], host["workers"]) for host in hosts] == [("node-a", [0]), ("node-b", [1, 2])]
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert two == [pytest.approx(one[0], rel=1e-6), pytest.approx(one[1], rel=1e-3)]
    weights = (tmp_path / "two" / "checkpoints" / "phase1_iter_2.caffemodel").stat().st_size
    assert received > 2 * weights  # the gradients of two iterations, at least


def processes_of_node_b(run_dir):
    """The processes on the host of a run's rank 1, apart from the one that holds the host itself."""
    found, host = {}, None
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words, of = (path / "cmdline").read_bytes(), os.readlink(path / "ns" / "uts")
            found[int(path.name)] = of, words
            if str(run_dir).encode() in words and b"_RANK=1\0" in (path / "environ").read_bytes():
                host = of
    return [pid for pid, (of, words) in found.items() if of == host and b"hostname node-b" not in words]


def test_a_run_goes_on_without_a_host_that_has_died(tmp_path):
    make_dataset(tmp_path / "data", 41, width=36, height=34)
    arguments = [*TINY, "--train-data", tmp_path / "data", "--phase", "1", "--iterations", "8", "--workers", "2"]
    arguments += ["--threads", "1", "--reproducible"]
    call("train", *arguments, "--run-dir", tmp_path / "whole")
    (tmp_path / "hosts").write_text("10.77.0.1\n10.77.0.2\n")
    (tmp_path / "nodes.sh").write_text(NODES)
    mpirun = [*launcher(2), *across("hosts", 1, tmp_path / "remote"), sys.executable]
    words = [sys.executable, PROJECT / "bin" / "supervise", "--", *mpirun, PROJECT / "bin" / "train", *arguments,
             "--run-dir", tmp_path / "run", "--snapshot-folder", tmp_path / "kept"]  # fmt: skip
    nodes = [str(word) for word in ("unshare", *NAMESPACES, "sh", "nodes.sh", *words)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running, metrics = subprocess.Popen(nodes, cwd=tmp_path, env=environment(tmp_path), **pipes), tmp_path / "run"
    while running.poll() is None and not (metrics / "metrics.jsonl").exists():
        time.sleep(0.02)
    while running.poll() is None and len(losses(metrics)) < 3:
        time.sleep(0.02)
    remote = tmp_path / "remote"
    remote.write_text(remote.read_text().replace("exec nsenter", "exit 255; exec nsenter"))  # no answer any more
    for pid in processes_of_node_b(tmp_path / "run"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    output, errors = running.communicate(timeout=200)
    assert running.returncode == 0, output + errors
    assert "; without 10.77.0.2, no answer; starts again in " in errors
    assert "on node-a\n" in output  # the snapshot of the host that is left
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    for kind in ("caffemodel", "solverstate"):
        paths = [tmp_path / name / "checkpoints" / f"phase1_iter_8.{kind}" for name in ("run", "whole")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def losses(folder):
    """The losses of a run, of which the last line may not be whole yet."""
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line)["loss"] for line in lines if line.endswith("\n")]
