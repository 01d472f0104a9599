"""A launcher's command line without the hosts that do not answer any more."""

import os
import re
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nptrain.errors import InputError

FILES = ("--hostfile", "-hostfile", "--machinefile", "-machinefile", "-f")
LISTS = ("--host", "-host", "-H", "-hosts")
COUNTS = ("-n", "-np", "--n", "--np", "-c")
AGENTS = ("plm_ssh_agent", "-launcher-exec")  # what starts processes on other hosts in place of ssh
SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
PATIENCE = 20  # s for an answer
AT_ONCE = 64  # hosts that are asked at once


def words_left(words, memory):
    """(the words without hosts that do not answer, a text that names these, or ""). Ranks become fewer in proportion to
    the slots. Instead of a file of hosts there is another one: `memory`, a descriptor of this process, whose content is
    replaced. Raises InputError if no host is left.
    """
    place = next((at for at, word in enumerate(words[:-1]) if word in FILES + LISTS), None)
    if place is None:
        return words, ""
    listed = words[place] in LISTS
    try:
        lines = words[place + 1].split(",") if listed else Path(words[place + 1]).read_text().splitlines()
    except OSError:  # the launcher says so
        return words, ""
    lines = [line for line in lines if line.partition("#")[0].strip()]
    names, agent = [_name(line) for line in lines], agent_of(words)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        alive = dict(zip(names, pool.map(lambda name: answers(name, agent), names), strict=True))
    left = [line for line, name in zip(lines, names, strict=True) if alive[name]]
    if len(left) == len(lines):
        return words, ""
    if not left:
        raise InputError(f"{words[place]}: no host answers: {', '.join(alive)}")
    words = [*words[: place + 1], ",".join(left) if listed else _file(left, memory), *words[place + 2 :]]
    count = next((at for at, word in enumerate(words[:-1]) if word in COUNTS and words[at + 1].isdecimal()), None)
    if count is not None:
        ranks = int(words[count + 1]) * sum(map(_slots, left)) // sum(map(_slots, lines))
        words = [*words[: count + 1], str(max(1, ranks)), *words[count + 2 :]]
    return words, f"without {', '.join(name for name in alive if not alive[name])}, no answer; "


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
