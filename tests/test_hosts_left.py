"""A launcher's command line without the hosts that do not answer."""

import os
from pathlib import Path

import pytest

from bin.common.hosts_left import words_left
from nptrain.errors import InputError


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
    with pytest.raises(InputError, match="-H: no host answers: b, d"):
        words_left(["mpirun", "-launcher-exec", str(agent), "-H", "b,d", "train"], memory)
    os.close(memory)
