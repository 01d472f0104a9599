"""Sums and training across two hosts (hosts.py)."""

import json
import subprocess
import sys

import pytest
from commands import PROJECT, TINY, across, call, launcher
from hosts import environment, on_node_a
from images import make_dataset

pytestmark = pytest.mark.ranks


def run_on_node_a(folder, *words, timeout=240):
    """Run a command on node-a; returns the finished process."""
    return subprocess.run(on_node_a(folder, *words), cwd=folder, env=environment(folder), timeout=timeout,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def permitted(tmp_path_factory):
    """Skips these tests where such hosts cannot be made."""
    launcher(2)
    try:
        tried = run_on_node_a(tmp_path_factory.mktemp("tried"), "true", timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"needs namespaces: {error}")
    if tried.returncode:
        pytest.skip(f"needs namespaces: {tried.stderr.strip()}")


def on_both(folder, each, *words):
    """Run a Python command on both hosts, `each` ranks on either. Returns its output and the bytes node-a received."""
    (folder / "hosts").write_text("10.77.0.1\n10.77.0.2\n")
    flags = across("hosts", each, folder / "remote")
    done = run_on_node_a(folder, *launcher(2 * each), *flags, sys.executable, *words)
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


def losses(folder):
    """The losses of a run, of which the last line may not be whole yet."""
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line)["loss"] for line in lines if line.endswith("\n")]
