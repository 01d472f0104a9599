"""A launcher's command line without the hosts that do not answer any more."""

import os
import re
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from bin.common import slurm

FILES = ("--hostfile", "-hostfile", "--machinefile", "-machinefile", "-f")
LISTS = ("--host", "-host", "-H", "-hosts")
COUNTS = ("-n", "-np", "--n", "--np", "-c")
EACH = ("-ppn", "--ppn", "-perhost", "--npernode", "-npernode", "-N")  # ranks of each host
MAPS = ("--map-by", "-map-by")
AGENTS = ("plm_ssh_agent", "-launcher-exec")  # what starts processes on other hosts in place of ssh
SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
PATIENCE = 20  # s for an answer
AT_ONCE = 64  # hosts that are asked at once


def words_left(words, memory):
    """(the words without hosts that do not answer, a text that names these, or ""). Ranks become fewer if they do not
    fit on the hosts that are left. Instead of a file of hosts there is another one: `memory`, a descriptor of this
    process, whose content is replaced. Without a flag for hosts, they are those of a job of Slurm. If no host answers,
    the words are as they were.
    """
    place = next((at for at, word in enumerate(words[:-1]) if word in FILES + LISTS), None)
    if place is None:
        return _left_of_job(words)
    listed = words[place] in LISTS
    try:
        lines = words[place + 1].split(",") if listed else Path(words[place + 1]).read_text().splitlines()
    except OSError:  # the launcher says so
        return words, ""
    lines = [line for line in lines if line.partition("#")[0].strip()]
    lost, said = _lost(map(_name, lines), agent_of(words))
    left = [line for line in lines if _name(line) not in lost]
    if not lost or not left:
        return words, said
    words = [*words[: place + 1], ",".join(left) if listed else _file(left, memory), *words[place + 2 :]]
    return _fitting(words, lines, left), said


def _left_of_job(words):
    """`words_left` in a job of Slurm."""
    hosts = slurm.hosts_of_job()
    lost, said = _lost(hosts, slurm.AGENT)
    left = [host for host in hosts if host not in lost]
    if not lost or not left:
        return words, said
    if fewer := slurm.without_hosts(words, lost, left):
        return fewer, said
    (before, now) = (slurm.with_hosts(words, each) for each in (hosts, left))
    if now is None:
        return words, ""
    at = now.index("-host") + 1
    return _fitting(now, before[at].split(","), now[at].split(",")), said


def _lost(names, agent):
    """(those of the hosts that do not answer, a text that says so)."""
    names = list(dict.fromkeys(names))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        lost = [name for name, there in zip(names, pool.map(lambda name: answers(name, agent), names), strict=True)
                if not there]  # fmt: skip
    if lost and len(lost) == len(names):
        return lost, "no host answers; "
    return lost, f"without {', '.join(lost)}, no answer; " if lost else ""


def _fitting(words, lines, left):
    """The words with as many ranks as before if the hosts `left` have room, else with fewer: in proportion if all
    `lines` had not enough.
    """
    count = next((at for at, word in enumerate(words[:-1]) if word in COUNTS and words[at + 1].isdecimal()), None)
    if count is None:
        return words
    ranks, before, now = int(words[count + 1]), _room(lines, words), _room(left, words)
    ranks = max(1, min(ranks, max(now, ranks * now // before)))
    return [*words[: count + 1], str(ranks), *words[count + 2 :]]


def _room(lines, words):
    """How many ranks the hosts take: those that a flag gives to each, or their slots."""
    for word, value in pairwise(words):
        found = re.fullmatch(r"ppr:(\d+):node.*" if word in MAPS else r"(\d+)", value)
        if found and word in (*MAPS, *EACH):
            return int(found[1]) * len({_name(line) for line in lines})
    return sum(map(_slots, lines))


def agent_of(words):
    """The words that run a command on a host, before its name."""
    return next((words[at + 1].split() for at, word in enumerate(words[:-1]) if word in AGENTS), SSH)


def answers(host, agent):
    """Whether a command can be run on a host."""
    if host in ("localhost", "127.0.0.1", socket.gethostname()):
        return True
    try:
        done = subprocess.run([*agent, host, "true"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=PATIENCE)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _name(line):
    return re.split(r"[\s:]", line.strip())[0]


def _slots(line):
    found = re.search(r"slots\s*=\s*(\d+)|:(\d+)", line)
    return int(found[1] or found[2]) if found else 1


def _file(lines, memory):
    os.ftruncate(memory, 0)
    os.pwrite(memory, "".join(f"{line}\n" for line in lines).encode(), 0)
    return f"/proc/{os.getpid()}/fd/{memory}"
