"""A launcher's command line without the hosts that do not answer."""

import os
from pathlib import Path

import pytest

from bin.common import hosts_left
from bin.common.hosts_left import words_left
from bin.common.slurm import expanded


def test_hosts_that_do_not_answer_are_left_out(tmp_path):
    agent, hosts, memory = tmp_path / "agent", tmp_path / "nodes", os.memfd_create("hosts")
    os.write(memory, b"hosts of an earlier start, which are more\n")
    agent.write_text('#!/bin/sh\n[ "$1" != b ] && [ "$1" != d ]\n')
    agent.chmod(0o755)
    hosts.write_text("a slots=4\n# no host\nb slots=4\nc slots=4\n")
    words = ["mpirun", "--prtemca", "plm_ssh_agent", str(agent), "-n", "12", "--hostfile", str(hosts), "bin/train"]
    left, said = words_left(words, memory)
    assert (left[:6], left[8:], said) == ([*words[:5], "8"], ["bin/train"], "without b, no answer; ")
    assert Path(left[7]).read_text() == "a slots=4\nc slots=4\n"
    words = ["mpiexec", "-launcher-exec", str(agent), "-hosts", "a:2,b:1,c", "-np", "4", "bin/train"]
    assert words_left(words, memory) == ([*words[:4], "a:2,c", "-np", "3", "bin/train"], "without b, no answer; ")
    for same in (["mpirun", "-n", "2", "train"], ["mpirun", "-launcher-exec", str(agent), "-H", "a,c", "train"]):
        assert words_left(same, memory) == (same, "")
    words = ["mpirun", "-launcher-exec", str(agent), "-H", "b,d", "train"]
    assert words_left(words, memory) == (words, "no host answers; ")
    os.close(memory)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-n 4 -H a:2,b:2,c:2", "-n 4 -H a:2,c:2"),
        ("-n 5 -H a:2,b:2,c:2", "-n 4 -H a:2,c:2"),
        ("-hosts a,b,c -ppn 2 -n 4", "-hosts a,c -ppn 2 -n 4"),
        ("--host a:9,b:9 --map-by ppr:2:node:oversubscribe -n 4", "--host a:9 --map-by ppr:2:node:oversubscribe -n 2"),
        ("-H a,b,c -n 9", "-H a,c -n 6"),
        ("-H b,a -n 1", "-H a -n 1"),
    ],
)
def test_ranks_become_fewer_only_if_they_do_not_fit(monkeypatch, words, expected):
    monkeypatch.setattr(hosts_left, "answers", lambda host, agent: host != "b")
    left, _ = words_left(["mpirun", *words.split(), "bin/train"], -1)
    assert left == ["mpirun", *expected.split(), "bin/train"]


def test_a_list_of_slurm():
    assert expanded("n[008-010,2],a,b[1-2]-x[7]") == ["n008", "n009", "n010", "n2", "a", "b1-x7", "b2-x7"]
    assert expanded("") == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("srun --mpi=pmix sh bin/train", "srun --mpi=pmix --nodes=2 --exclude=n2 --ntasks=4 sh bin/train"),
        ("srun -N 2 -n4 sh -N 7 bin/train", "srun --nodes=2 --exclude=n2 --ntasks=4 sh -N 7 bin/train"),
        ("srun -N 1-3 none/train", "srun --nodes=2 --exclude=n2 --ntasks=4 -N 1-3 none/train"),
        ("srun -N 1-3 sh train", "srun --nodes=2 --exclude=n2 --ntasks=4 sh train"),
        ("srun -l -p test -N 3 sh train", "srun -l -p test --nodes=2 --exclude=n2 --ntasks=4 sh train"),
        ("srun -x n9 --ntasks=3 sh train", "srun --nodes=2 --exclude=n9,n2 --ntasks=2 sh train"),
        ("mpirun -n 6 bin/train", "mpirun -host n1:2,n3:2 -n 4 bin/train"),
        ("mpirun -ppn 1 -n 2 bin/train", "mpirun -host n1:2,n3:2 -ppn 1 -n 2 bin/train"),
        ("bin/train", "bin/train"),
    ],
)
def test_a_job_of_slurm(monkeypatch, words, expected):
    facts = {"JOB_NODELIST": "n[1-3]", "JOB_NUM_NODES": "3", "NTASKS": "6", "TASKS_PER_NODE": "2(x3)"}
    for name, value in facts.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(hosts_left, "answers", lambda host, agent: agent[0] == "srun" and host != "n2")
    assert words_left(words.split(), -1)[0] == expected.split()
    monkeypatch.setattr(hosts_left, "answers", lambda *_: False)
    assert words_left(words.split(), -1) == (words.split(), "no host answers; ")
