"""bin/supervise: what it starts again, what it leaves, and that nothing is lost by deaths of ranks and launchers."""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from commands import call

from bin.commands import supervise
from bin.common.hosts_left import words_left
from bin.common.post_mortem import Position, memory_kills, what_died
from bin.common.supervised import Attempt, Command
from nptrain.errors import InputError
from nptrain.run.end import error_of, is_done, write_end

FAKE = f"""#!{sys.executable}
import json, os, signal, sys
from pathlib import Path
here = Path(__file__).parent
with open(here / "calls", "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
turn = len((here / "calls").read_text().splitlines()) - 1
def done(iteration):
    with open("run/metrics.jsonl", "a") as file:
        print(json.dumps({{"phase": "1", "iteration": iteration, "loss": 1.0}}), file=file)
def end(**entry):
    Path("run/new").write_text(json.dumps(entry))
    os.replace("run/new", "run/end.json")
os.makedirs("run", exist_ok=True)
Path("run/run.json").touch()
exec(json.loads((here / "acts").read_text())[turn])
"""
DIES = "os.kill(os.getpid(), signal.SIGKILL)"
DONE = "end(manifest=None)"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A function: supervise a program that does in each start what it is told; returns (its arguments, the errors)."""
    monkeypatch.setattr(supervise, "LONGEST", 0)
    before = {number: signal.getsignal(number) for number in (1, 2, 10, 15)}
    (tmp_path / "train").write_text(FAKE)
    (tmp_path / "train").chmod(0o755)

    def run(*acts, status=0, flags=(), words=("--run-dir", "run")):
        (tmp_path / "acts").write_text(json.dumps(acts))
        _, errors = call("supervise", *flags, "--", tmp_path / "train", *words, status=status, cwd=tmp_path)
        return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()], errors

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def test_it_starts_again_until_the_run_is_done(fake):
    calls, errors = fake(DIES, f"done(0); {DIES}", "done(1)", f"done(2); {DONE}; sys.exit(3)")
    assert calls == [["--run-dir", "run", "--snapshot-folder"]] + 3 * [
        ["--run-dir", "run", "--snapshot-folder", "--resume"]
    ]
    first, second, third, last = errors.splitlines()
    assert (
        "supervise: the launcher was ended by a signal: Killed; there was no iteration yet; starts again in 0" in first
    )
    assert "phase 1, iteration 0 was the last one logged" in second
    assert "the launcher has ended with status 0, but the run is not done; phase 1, iteration 1 was" in third
    assert last == "supervise: the run is done; its launcher has ended with status 3"


def test_what_a_launcher_that_was_killed_has_left_is_removed(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "ompi.1").mkdir()  # another's
    fake(f"os.makedirs(here / f'ompi.{{os.getpid()}}/0'); {DIES}", DONE)
    assert [path.name for path in tmp_path.glob("ompi.*")] == ["ompi.1"]


@pytest.mark.parametrize("status", [130, 75, 2])
def test_an_orderly_end_and_a_mistake_are_kept(fake, status):
    calls, errors = fake(f"sys.exit({status})", status=status)
    assert (len(calls), errors) == (1, "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_launcher_that_ends_with_0_when_told_is_not_believed(fake, number, status):
    act = f"signal.signal(signal.SIGUSR1, lambda *_: os._exit(0)); os.kill(os.getppid(), {int(number)}); signal.pause()"
    assert len(fake(act, status=status)[0]) == 1


def test_a_signal_before_the_next_start(fake, monkeypatch):
    rest = Attempt.rest
    monkeypatch.setattr(Attempt, "rest", lambda *each: os.kill(os.getpid(), signal.SIGTERM) or rest(*each))
    assert len(fake("done(0)", "done(1)", status=75)[0]) == 1


def test_it_gives_up_where_nothing_goes_on(fake):
    calls, errors = fake(f"done(0); {DIES}", *6 * [DIES], status=137, flags=["--tries", 3])
    assert len(calls) == 3
    assert errors.splitlines()[-1].endswith("; gives up after 2 restarts; go on with --resume run")


def test_it_gives_up_at_the_same_error_of_the_training(fake):
    act = "end(error='the loss is nan'); sys.exit(1)"
    calls, errors = fake(f"done(0); {act}", f"done(1); {act}", status=1)
    assert len(calls) == 2
    assert "supervise: the loss is nan; phase 1, iteration 1 was" in errors.splitlines()[-1]


def test_it_starts_again_only_so_often(fake):
    calls, _ = fake(*(f"done({turn}); {DIES}" for turn in range(9)), status=137, flags=["--restarts", 4])
    assert len(calls) == 5


def test_an_end_of_an_earlier_start_does_not_count(fake):
    assert len(fake(DONE)[0]) == 1
    assert len(fake("", DIES, DONE)[0]) == 3


def test_a_run_that_hangs_is_killed_with_what_it_started(fake, monkeypatch):
    hangs = "import subprocess; subprocess.Popen(['sleep', '300'], start_new_session=True); signal.pause()"
    start = time.monotonic()
    _, errors = fake(f"done(0); {hangs}", DONE, flags=["--stall", 1])
    assert "supervise: nothing was logged for 1 s; phase 1, iteration 0" in errors
    assert time.monotonic() - start < 20
    monkeypatch.setattr("bin.common.supervised.GRACE", 0)
    _, errors = fake("", "", f"print('train: stalled: rank 1 on b', file=sys.stderr, flush=True); {hangs}", DONE)
    assert "supervise: rank 1 on b; phase 1, iteration 0 was" in errors


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--", "mpirun", "-n", "2"], "-- COMMAND: found no bin/train, expected one, with its launcher before it"),
        (["--", "bin/train", "--solver", "x"], "--run-dir: found none, expected the folder of the run"),
        (["--", "./none/train", "--recipe", "digits"], "./none/train: cannot be started: No such file or directory"),
    ],
)
def test_a_command_that_is_no_training(words, problem):
    _, errors = call("supervise", *words, status=2)
    assert problem in errors
    assert errors.count("\n") == 1


def test_the_folder_of_a_command():
    for words, folder in (
        ("mpirun -n 2 bin/train --recipe digits", "runs/digits"),
        ("train --recipe digits --run-dir=x", "x"),
        ("-- train --resume runs/y --csv", "runs/y"),
        ("train --resume --run-dir z", "z"),
    ):
        assert Command(words.split()).folder == Path(folder)


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


def test_where_a_run_is(tmp_path):
    assert Position.of(tmp_path) == (None, None)
    line = json.dumps({"phase": "2", "iteration": 7, "loss": 1.0, "spans": ["x" * 100] * 3})
    test = json.dumps({"phase": "2", "iteration": 8, "test_loss": 1.0})
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n" * 1000 + f"{test}\n{line[:50]}")
    assert Position.of(tmp_path) == ("2", 7)


def test_a_run_is_done_if_its_last_checkpoint_is_whole(tmp_path):
    assert not is_done(tmp_path)
    for content in ("", "[]", '{"manifest": 3}', '{"manifest": "checkpoints/phase1_iter_2.json"}', '{"error": "x"}'):
        (tmp_path / "end.json").write_text(content)
        assert not is_done(tmp_path)
    assert error_of(tmp_path) == "x"
    write_end(tmp_path)
    assert is_done(tmp_path)


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
