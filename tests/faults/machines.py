"""Hosts and cables, memory, clocks."""

import os
import signal
import subprocess
import time

from hosts import processes_of_node_b

from tests.faults.deaths import AGAIN
from tests.faults.disks import plain
from tests.faults.fault import Fault
from tests.faults.places import in_shell, little_memory, preloaded, two_hosts


def no_answer(case):
    """node-b does not answer any more."""
    remote = case.folder / "remote"
    remote.write_text(remote.read_text().replace("exec nsenter", "exit 255; exec nsenter"))


def kill_on_node_b(*names):
    """An act: SIGKILL to the processes on node-b whose words contain one of the names."""

    def act(case):
        for pid, words in processes_of_node_b(case.run_dir).items():
            if any(name in words for name in names):
                os.kill(pid, signal.SIGKILL)

    return act


def kill_host(case):
    no_answer(case)
    kill_on_node_b(b"")(case)


def cable(case, state):
    """Set the cable "up" or "down", at node-a's end."""
    inside = ["nsenter", "--target", str(case.processes()[0]), "--user", "--preserve-credentials", "--net"]
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


def refuses_once(case):
    """node-b refuses the first connection."""
    remote, mark = case.folder / "remote", case.folder / "refused"
    text = remote.read_text()
    if "refused" not in text:
        remote.write_text(text.replace("exec nsenter", f"[ -e {mark} ] || {{ touch {mark}; exit 255; }}; exec nsenter"))


def more_memory(case):
    """A user gives the job the memory that it needs, after its first death."""
    case.wait_for(lambda: "starts again" in case.said)
    case.limit.write_text(str(4 << 30))


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
    Fault("host", "its daemon killed", kill_on_node_b(b"prted", b"hydra_pmi_proxy"), around=two_hosts,
          says=AGAIN.format(".*")),
    Fault("host", "the rank on the other one killed", kill_on_node_b(b"bin/train"), around=two_hosts,
          says=AGAIN.format(r"(rank 1 on node-b|a rank on \S+) was ended by a signal: Killed")),
    Fault("host", "cable cut for 3 s", cut_for(3), around=two_hosts, lost=0),
    Fault("host", "cable cut for ever", cut, around=two_hosts, flags=("--stall-timeout", "4"),
          says=AGAIN.format(r"rank 0 on node-a has waited \d+ s for other ranks in .*late: a rank of node-b.*")),
    Fault("memory", "ulimit -v 600000", around=in_shell('ulimit -v 600000; exec "$@"'), by="mpirun", status=(1,),
          says="^train: .*out of memory", mend=plain, lost=0),
    Fault("memory", "ulimit -v 900000", around=in_shell('ulimit -v 900000; exec "$@"'), by="mpirun", status=(1,),
          says="^train: .*out of memory", mend=plain, lost=0),
    Fault("memory", "cgroup of 200 MB, then of 4 GB", more_memory, at=(0,), around=little_memory(200),
          says="^supervise: .*Killed, probably by the system, as no memory was left; .* starts again"),
    Fault("clock", "-1 day, +1 h, every second", around=preloaded(CLOCK), lost=0),
]  # fmt: skip
