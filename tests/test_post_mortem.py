"""What is said of a training that has died, from the lines of its launcher."""

import pytest

from bin.common.post_mortem import memory_kills, what_died

OPEN_MPI = "prterun noticed that process rank 1 with PID 23252 on node vm exited on\nsignal 9 (Killed).\n"
HYDRA = """
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 12 RUNNING AT node-c
=   EXIT CODE: {}
=   CLEANING UP REMAINING PROCESSES
"""
INTEL = """
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   RANK {} PID 12 RUNNING AT node-c
=   KILLED BY SIGNAL: {}
"""
OWN = "train: rank 1 on node-b: out of memory: x\n"
OOM = """slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.
srun: error: node-b: {}
srun: Terminating StepId=7.0
srun: error: node-a: task 0: Terminated
"""
NO_MEMORY = "Killed, probably by the system, as no memory was left"
PRTE = """PRTE has lost communication with a remote daemon.
  HNP daemon   : [prterun-a-1@0,0] on node node-a
  Remote daemon: [prterun-a-1@0,1] on node node-b
"""
OF_A_PEER = """An MPI communication peer process has unexpectedly disconnected.  This
usually indicates a failure in the peer process (e.g., a crash or

  Local host: node-a
  Peer host:  node-b
"""


@pytest.mark.parametrize(
    ("tail", "status", "kills", "line"),
    [
        (OF_A_PEER, 14, 0, "a rank on node-b has died, or cannot be reached"),
        (OPEN_MPI, 137, 0, "rank 1 on vm was ended by a signal: Killed"),
        (OPEN_MPI, 137, 2, "rank 1 on vm was ended by a signal: Killed, probably by the system, as no memory was left"),
        (PRTE, 0, 0, "host node-b is lost"),
        (HYDRA.format(9), 9, 0, "a rank on node-c was ended by a signal: Killed"),
        (OWN + HYDRA.format(1), 1, 0, "rank 1 on node-b: out of memory: x"),
        (OWN + HYDRA.format(139), 139, 0, "a rank on node-c was ended by a signal: Segmentation fault"),
        (
            INTEL.format(0, "9 (Killed)") + INTEL.format(1, "11 (Segmentation fault)"),
            255,
            0,
            "rank 1 on node-c was ended by a signal: Segmentation fault",
        ),
        (
            INTEL.format(0, "9 (Killed)") + INTEL.format(1, "9 (Killed)"),
            255,
            0,
            "a rank on node-c was ended by a signal: Killed",
        ),
        (INTEL.format(3, "9 (Killed)"), 255, 1, f"rank 3 on node-c was ended by a signal: {NO_MEMORY}"),
        (OOM.format("task 3: Out Of Memory"), 137, 0, f"rank 3 on node-b was ended by a signal: {NO_MEMORY}"),
        (OOM.format("tasks 1-3,5: Killed"), 137, 0, f"ranks 1-3,5 on node-b were ended by a signal: {NO_MEMORY}"),
        (
            "srun: error: b: task 3: Segmentation fault (core dumped)\n",
            139,
            0,
            "rank 3 on b was ended by a signal: Segmentation fault",
        ),
        (
            OWN + "srun: error: node-b: task 1: Exited with exit code 1\nsrun: error: node-a: task 0: Killed\n",
            1,
            0,
            "rank 1 on node-b: out of memory: x",
        ),
        ("srun: error: Node failure on node-b\nsrun: error: node-a: task 0: Killed\n", 137, 0, "host node-b is lost"),
        ("srun: error: node-b: task 3: Killed\n", 137, 0, "rank 3 on node-b was ended by a signal: Killed"),
        ("train: out of memory: x\n--\n", 1, 0, "out of memory: x"),
        ("", 139, 0, "the launcher was ended by a signal: Segmentation fault"),
        ("", 213, 0, "the launcher has ended with status 213, but the run is not done"),  # a daemon did not start
        ("", 1, 0, "the launcher has ended with status 1, but the run is not done"),
    ],
)
def test_what_died(tail, status, kills, line):
    assert what_died(tail.encode(), status, kills) == line
    assert memory_kills() >= 0
