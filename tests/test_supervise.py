"""bin/supervise: what it starts again, what it leaves, and that nothing is lost by deaths of ranks and launchers."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from commands import call

from bin.commands import supervise
from bin.common import looks
from bin.common.post_mortem import Position
from bin.common.supervised import Attempt, Command
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


LINE = "print('train: rank 1 on b: {}', file=sys.stderr); sys.exit(2)"


def test_a_mistake_after_an_iteration_is_tried_again(fake):
    calls, errors = fake(f"done(0); {LINE.format('EIO')}", LINE.format("memory"), f"done(1); {DONE}")
    assert len(calls) == 3
    for line in ("rank 1 on b: EIO; phase 1, iteration 0 was", "rank 1 on b: memory; phase 1, iteration 0 was"):
        assert f"supervise: {line}" in errors


def test_the_same_mistake_twice_is_kept(fake):
    calls, errors = fake(f"done(0); {LINE.format('EIO')}", f"done(1); {LINE.format('EIO')}", status=2)
    assert len(calls) == 2
    assert errors.splitlines()[-1].endswith("; gives up after 1 restart; go on with --resume run")


def test_too_many_bad_records_are_so_in_another_start_too(fake):
    """A new start would count from 0, after the iteration in which they were found."""
    line = "--max-bad-records: found 3 on all ranks, expected at most 2; the last: x"
    calls, errors = fake(f"done(0); {LINE.format(line)}", DONE, status=2)
    assert len(calls) == 1
    assert "gives up after 0 restarts" in errors


def test_a_run_whose_folder_is_gone_is_not_begun_again(fake):
    gone = "import shutil; shutil.rmtree('run')"
    assert len(fake(f"done(0); {gone}; sys.exit(2)", status=2)[0]) == 1
    calls, _ = fake("", f"done(0); {DIES}", f"{gone}; {DIES}", LINE.format("x"), status=2)
    assert [call[-1] for call in calls[1:]] == ["--snapshot-folder", "--resume", "--resume"]


def test_a_folder_that_gives_no_answer(fake, monkeypatch, tmp_path):
    """The run goes on, is killed if it logs nothing, and is looked for again."""
    monkeypatch.setattr(looks, "LIMIT", 0.1)
    stat, calls = Path.stat, tmp_path / "calls"

    def stat_of_a_dead_server(path, **options):
        while path.name == "metrics.jsonl" and calls.read_text().count("\n") < 2:
            time.sleep(0.01)
        if path.name == "run.json":
            raise OSError(errno.ESTALE, "Stale file handle")
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_of_a_dead_server)
    calls, errors = fake("signal.pause()", DONE, flags=["--stall", 1])
    assert "supervise: nothing was logged for 1 s; " in errors
    assert calls[1][-1] == "--resume", "the folder is in doubt"


def test_errors_that_pass(fake, monkeypatch):
    """A full disk below the errors, a program that cannot be read for a moment: the run goes on."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    turn, popen = iter(range(9)), subprocess.Popen

    def stale(*words, **options):
        if next(turn) == 1:
            raise OSError(errno.ESTALE, "Stale file handle")
        return popen(*words, **options)

    monkeypatch.setattr(supervise, "tell", full)
    monkeypatch.setattr(subprocess, "Popen", stale)
    calls, errors = fake(DIES, DONE)
    assert len(calls) == 2
    assert "trying again" in errors


def test_what_cannot_be_known():
    def fails():
        raise PermissionError

    assert (looks.look(lambda: 1, 2), looks.look(fails, 2)) == (1, 2)


HYDRA = "=   PID 12 RUNNING AT node-c\n=   EXIT CODE: 11\n"


def test_what_hydra_says_to_stdout(fake):
    _, errors = fake(f"done(0); print({HYDRA!r}, flush=True); os._exit(11)", DONE)
    assert "supervise: a rank on node-c was ended by a signal: Segmentation fault; " in errors


def test_a_stall_before_much_output(fake):
    stacks = "print('x\\n' * (1 << 17), file=sys.stderr)"
    _, errors = fake(f"print('train: stalled: rank 1 on b', file=sys.stderr); {stacks}; os._exit(124)", DONE)
    assert "supervise: rank 1 on b; there was no iteration yet; " in errors


def test_a_time_limit_counts_from_the_first_start(fake):
    calls, _ = fake(DIES, DONE, words=("--run-dir", "run", "--time-limit", "1:00"))
    assert calls[1][-2] == "--time-limit"
    assert 40 < int(calls[1][-1]) < 60
    assert Command(["train", "--run-dir", "x", "--time-limit=9"]).words(False, 10)[-1] == "0"


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
