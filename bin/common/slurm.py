"""The hosts of a job of Slurm, and the command lines that leave some of them out. Not tried on a cluster."""

import os
import re
import shutil
from pathlib import Path

LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra", "mpirun.openmpi", "prterun")
# what runs a command on a host of the job, before its name, beside other steps
AGENT = ["srun", "--quiet", "--overlap", "--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--nodelist"]

SWITCHES = "EHIkKlOQsuvVXZ"  # short flags of srun that take no value


def hosts_of_job():
    """The names of the hosts of the job that this process is in; [] if it is in none."""
    return expanded(os.environ.get("SLURM_JOB_NODELIST", ""))


def expanded(text):
    """The names in one of Slurm's lists: a[08-10],b is a08, a09, a10, b."""
    found = []
    for part in re.findall(r"(?:\[[^\]]*\]|[^,\[])+", text):
        head, bracket, rest = part.partition("[")
        numbers, _, tail = rest.partition("]")
        for each in numbers.split(",") if bracket else ():
            first, _, last = each.partition("-")
            for number in range(int(first), int(last or first) + 1):
                found += expanded(f"{head}{number:0{len(first)}}{tail}")
        found += [] if bracket else [part]
    return found


def with_hosts(words, hosts):
    """The words of a launcher of MPI, which starts on these hosts alone; they are its -host. None if it is none."""
    at = next((at for at, word in enumerate(words) if Path(word).name in LAUNCHERS), None)
    slots = re.match(r"\d+", os.environ.get("SLURM_TASKS_PER_NODE", ""))
    listed = ",".join(f"{host}:{slots[0] if slots else 1}" for host in hosts)
    return None if at is None else [*words[: at + 1], "-host", listed, *words[at + 1 :]]


def without_hosts(words, lost, left):
    """The words of srun for the hosts that are left: --nodes and --ntasks become fewer. None if it is not srun."""
    at = next((at + 1 for at, word in enumerate(words) if Path(word).name == "srun"), None)
    if at is None:
        return None
    values = {after for after, word in enumerate(words, 1) if re.fullmatch(rf"-[^{SWITCHES}-]", word)}
    programs = (end for end in range(at, len(words)) if not words[end].startswith("-") and end not in values)
    end = next((end for end in programs if shutil.which(words[end])), at)
    flags, known = words[at:end], os.environ.get
    nodes, flags = _taken(flags, "-N", "--nodes")
    tasks, flags = _taken(flags, "-n", "--ntasks")
    excluded, flags = _taken(flags, "-x", "--exclude")
    given = next((each for each in (nodes, known("SLURM_JOB_NUM_NODES")) if each and each.isdecimal()), None)
    before = int(given or len(lost) + len(left))
    now = min(before, len(left))
    flags += [f"--nodes={now}", f"--exclude={','.join([excluded, *lost] if excluded else lost)}"]
    if tasks := tasks or known("SLURM_NTASKS"):
        flags.append(f"--ntasks={max(1, int(tasks) * now // before)}")
    return [*words[:at], *flags, *words[end:]]


def _taken(words, short, long):
    """(the value of a flag, or None; the words without it)."""
    for at, word in enumerate(words):
        if word in (short, long) and at + 1 < len(words):
            return words[at + 1], words[:at] + words[at + 2 :]
        if found := re.fullmatch(rf"{long}=(.+)|{short}(\d+)", word):
            return found[1] or found[2], words[:at] + words[at + 1 :]
    return None, words
