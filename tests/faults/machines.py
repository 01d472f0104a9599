"""Hosts and cables, memory, clocks."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

from hosts import processes_of_node_b

from tests.faults.deaths import AGAIN
from tests.faults.disks import plain
from tests.faults.fault import Fault
from tests.faults.places import in_shell, little_memory, preloaded, two_hosts


def no_answer(case):
    """node-b does not answer any more."""
    remote = case.folder / "remote"
    remote.write_text(remote.read_text().replace("exec nsenter", "exit 255; exec nsenter"))


def signal_ranks(case, number):
    for rank, pid in case.processes().items():
        if isinstance(rank, int):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def kill_on_node_b(*names):
    """An act: SIGKILL to the processes on node-b whose words contain one of the names. Ranks are stopped meanwhile, or
    the run might end before these are found.
    """

    def act(case):
        signal_ranks(case, signal.SIGSTOP)
        found = processes_of_node_b(case.run_dir)
        victims = [pid for pid, words in found.items() if any(name in words for name in names)]
        assert victims, f"none of {names} on node-b: {[*found.values()]}"
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        signal_ranks(case, signal.SIGCONT)

    return act


def kill_host(case):
    no_answer(case)
    kill_on_node_b(b"")(case)


def cable(case, state):
    """Set the cable "up" or "down", at node-b's end; the other one is that of a switch."""
    inside = ["nsenter", "--target", str(case.processes()[1]), "--user", "--preserve-credentials", "--net"]
    subprocess.run([*inside, "ip", "link", "set", "eth0", state], check=True)


def cut_for(seconds):
    def act(case):
        cable(case, "down")
        time.sleep(seconds)
        cable(case, "up")

    return act


def cut(case):
    """The cable is cut for ever."""
    cable(case, "down")
    no_answer(case)


@contextmanager
def refusing_hosts(case):
    """A place: two hosts, of which node-b refuses the first daemon."""
    with two_hosts(case):
        nodes, once = case.folder / "nodes.sh", '[ -e "$PWD/refused" ] || { touch "$PWD/refused"; exit 255; }'
        refuse = f'case "\\$*" in *prte*|*hydra*) {once};; esac\nexec nsenter'
        nodes.write_text(nodes.read_text().replace("exec nsenter", refuse))
        yield


HOG = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        taken = b"x" * (100 << 20)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""


def take_memory(case):
    """Other programs take what the job may have; each has less than a rank, which the system kills therefore. The ranks
    are stopped meanwhile, or the run might end before.
    """
    signal_ranks(case, signal.SIGSTOP)
    script = 'echo $$ > "$1/cgroup.procs"; exec "$2" -c "$3"'
    words = ["sh", "-c", script, "sh", case.limit.parent, sys.executable, HOG]
    hog = subprocess.Popen([str(word) for word in words], start_new_session=True)
    try:
        case.wait_for(lambda: "starts again" in case.said)
    finally:
        os.killpg(hog.pid, signal.SIGKILL)
        hog.wait()


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static int (*own)(clockid_t, struct timespec *);
int clock_gettime(clockid_t clock, struct timespec *found) {
    struct timespec since;
    if (!own) own = dlsym(RTLD_NEXT, "clock_gettime");
    if (clock != CLOCK_REALTIME) return own(clock, found);
    own(CLOCK_MONOTONIC, &since);
    int status = own(clock, found);
    found->tv_sec += since.tv_sec % 2 ? -86400 : 3600;
    return status;
}
"""

MACHINES = [
    Fault("host", "one of two killed", kill_host, around=two_hosts, quick=True,
          says=AGAIN.format(".*").replace(" starts", ".* without 10.77.0.2, no answer; starts")),
    Fault("host", "its daemon killed", kill_on_node_b(b"prte", b"hydra_pmi_proxy"), around=two_hosts,
          says=AGAIN.format(".*")),
    Fault("host", "the rank on the other one killed", kill_on_node_b(b"bin/train"), around=two_hosts,
          says=AGAIN.format(r"(rank 1 on node-b|a rank on \S+) (was ended by a signal: Killed|has died, .*)")),
    Fault("host", "its daemon cannot be started, once", around=refusing_hosts, lost=0,
          says=r"^supervise: .*; there was no iteration yet; starts again in "),
    Fault("host", "cable cut for 3 s", cut_for(3), around=two_hosts, lost=0),
    Fault("host", "cable cut for ever", cut, around=two_hosts, flags=("--stall-timeout", "4"),
          says=AGAIN.format(r"rank 0 on node-a has waited \d+ s for other ranks in .*late: a rank of node-b.*")),
    Fault("memory", "ulimit -v 600000", around=in_shell('ulimit -v 600000; exec "$@"'), by="mpirun", status=(2,),
          says="^train: (rank . on .*: )?ulimit -v: found 614 MB, expected at least ", mend=plain, lost=0),
    Fault("memory", "none left: the system kills a rank", take_memory, around=little_memory(1600),
          says="^supervise: .*Killed, probably by the system, as no memory was left; .* starts again"),
    Fault("memory", "cgroup of 300 MB", around=little_memory(300), by="mpirun", status=(2,), lost=0, mend=plain,
          says=r"^train: (rank 0 on \S+: )?memory of \S+: 2 ranks need \S+ GB, found \S+ GB available"),
    Fault("clock", "-1 day, +1 h, every second", around=preloaded(CLOCK), lost=0),
]  # fmt: skip
