"""Runs that are told to end: by signals at any moment, on one rank and on three, or by a time limit."""

import os
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import MPIRUN, PROJECT, call, launcher
from short_runs import arguments, metrics

from bin import launch
from bin.common.ending import resume_command, seconds
from nptrain.run.stop import TRY_AGAIN, Stop, Stopped

SHORT = ["--set", "1.max_iter=6", "--set", "1.snapshot=2", "--set", "2.max_iter=2", "--set", "2.starts_from=4",
         "--set", "test_interval=3", "--workers", "3"]  # fmt: skip
LONGER = [*SHORT, "--set", "1.max_iter=40", "--set", "1.snapshot=9", "--set", "2.starts_from=36", "--set",
          "test_interval=20"]  # fmt: skip
TRIALS = int(os.environ.get("NPTRAIN_STOPS", "0"))  # random moments for each signal and number of ranks


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of both phases that nothing ends, whose bits do not depend on the number of ranks."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    call("train", *arguments(data, folder, *SHORT, "--reproducible"))
    return folder


def expect_same(folder, whole):
    """The same lines, of tests up to rounding: their sums depend on the number of ranks; and the same bits."""
    ours, expected = metrics(folder), metrics(whole)
    assert ours == [{**e, "test_loss": pytest.approx(e["test_loss"])} if "top1" in e else e for e in expected]
    for kind in ("caffemodel", "solverstate"):
        for path in (whole / "checkpoints").glob(f"*.{kind}"):
            assert (folder / "checkpoints" / path.name).read_bytes() == path.read_bytes(), path.name


def signal_at(monkeypatch, place, turn, number):
    """This process gets a signal when it calls the function `place` for the `turn`-th time."""
    owner, _, name = place.rpartition(".")
    owner = pkgutil.resolve_name(owner)
    function, turns = getattr(owner, name), iter(range(1, turn + 1))

    def calling(*args, **named):
        if next(turns, None) == turn:
            os.kill(os.getpid(), number)
        return function(*args, **named)

    monkeypatch.setattr(owner, name, calling)


@pytest.mark.parametrize(
    ("place", "turn", "number", "status", "ended"),
    [
        ("nptrain.network.resnet.ResNet.forward", 8, signal.SIGINT, 130, ("1", 3)),  # in the second worker's pass
        ("nptrain.run.checkpoint.save", 2, signal.SIGUSR1, 75, ("1", 5)),
    ],
)
def test_a_signal_ends_a_run_which_goes_on_to_the_same_bits(
    data, tmp_path, whole, monkeypatch, place, turn, number, status, ended
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at(patch, place, turn, number)
        _, errors = call("train", *arguments(data, folder, *SHORT, "--reproducible"), status=status)
    name, (phase, iteration) = signal.Signals(number).name, ended
    last = f"train: {name}: ended at phase {phase}, iteration {iteration}; go on with: bin/train --resume {folder}\n"
    assert errors.endswith(last)
    assert (folder / "checkpoints" / f"phase{phase}_iter_{iteration}.json").exists()
    assert [entry["iteration"] for entry in metrics(folder) if "loss" in entry][-1] == iteration - 1
    output, _ = call("train", "--resume", folder)
    assert f"resumes at phase {phase}, iteration {iteration}\n" in output
    expect_same(folder, whole)


def test_a_time_limit_ends_a_run_but_not_the_next_start(data, tmp_path):
    short = [*SHORT, "--phase", "1", "--iterations", "3"]
    _, errors = call("train", *arguments(data, tmp_path / "run", *short, "--time-limit", "0:00"), status=75)
    assert "train: --time-limit: ended at phase 1, iteration 1; go on with: bin/train --resume " in errors
    call("train", "--resume", tmp_path / "run")
    assert len(metrics(tmp_path / "run")) == 4  # three iterations and a test


def test_before_the_first_iteration_it_ends_at_once_and_leaves_nothing(data, tmp_path, monkeypatch):
    signal_at(monkeypatch, "nptrain.network.resnet.ResNet.forward", 1, signal.SIGTERM)
    _, errors = call("train", *arguments(data, tmp_path / "run", *SHORT, "--kernels", "numpy"), status=75)
    assert errors == "train: SIGTERM before the first iteration\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_batch_system_may_try_again_from_the_first_moment_on(monkeypatch, number):
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    monkeypatch.setattr(launch, "enter_environment", lambda _: None)
    monkeypatch.setattr(launch, "run", lambda *_: os.kill(os.getpid(), number))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("MPLBACKEND", "agg")
    try:
        with pytest.raises(SystemExit) as caught:
            launch.launch("train")
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert caught.value.code == launch.TRY_AGAIN == TRY_AGAIN


def test_a_second_interrupt_ends_at_once(monkeypatch, capfd):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Stop().catching() as stop:
        assert not stop.wanted()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.cause == (75, "SIGTERM")
        for now[0] in (1.0, 1.1):  # timeout(1) sends it twice
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.wanted()
        assert stop.cause == (130, "SIGINT")
        now[0] = 2.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    line = "the run ends after this iteration"
    said = [f"SIGTERM: {line}", f"SIGINT: {line}; a second one ends it at once"]
    assert capfd.readouterr().err.splitlines() == said


def test_only_rank_0_says_why():
    with Stop(rank=3).catching(), pytest.raises(Stopped) as caught:
        os.kill(os.getpid(), signal.SIGUSR1)
    assert (caught.value.line, caught.value.exit_status) == (None, 75)


def test_a_time_limit_is_seconds_or_a_clock():
    assert [seconds(text) for text in ("0", "90", "1:30", "2:00:05", "100:00:00")] == [0, 90, 90, 7205, 360000]
    for text in ("", "1h", "1:60", "1:2:3:4", "-1", "1.5"):
        _, errors = call("train", f"--time-limit={text}", status=2)
        assert errors.endswith(f"argument --time-limit: found {text}, expected seconds or H:MM:SS\n")


def test_the_command_to_go_on_names_the_ranks():
    assert resume_command("runs/my photos", 4).endswith("-n 4 bin/train --resume 'runs/my photos'")


@pytest.fixture
def mpirun(tmp_path):
    """This project's launcher, as it is installed beside an MPI's own."""
    launcher(1)
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(PROJECT / "mpi" / "mpirun.py", folder / "mpirun")
    own = [name for name in ("mpirun.openmpi", "mpiexec.hydra") if (MPIRUN.parent / name).exists()]
    if not own:
        pytest.skip("needs the launcher of an MPI that is installed in the environment")
    (folder / own[0]).write_text(f'#!/bin/sh\nexec {MPIRUN.parent / own[0]} "$@"\n')
    (folder / own[0]).chmod(0o755)
    return folder / "mpirun"


def process(words, ranks, mpirun):
    words = [*([mpirun, "-n", ranks] if ranks > 1 else []), sys.executable, PROJECT / "bin" / "train", *words]
    return subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.ranks
def test_the_launcher_s_signal_ends_three_ranks_at_one_iteration(data, tmp_path, whole, mpirun):
    folder = tmp_path / "run"
    running = process(arguments(data, folder, *SHORT, "--reproducible", "--threads", "1"), 3, mpirun)
    for line in running.stdout:
        if line.startswith("phase 1  2/6"):
            running.send_signal(signal.SIGTERM)
    errors = running.stderr.read()
    assert running.wait(60) == 75, errors
    assert f"; go on with: mpirun -n 3 {PROJECT / 'bin' / 'train'} --resume {folder}\n" in errors
    assert "resumes at phase 1, iteration" in call("train", "--resume", folder)[0]
    expect_same(folder, whole)


@pytest.fixture(scope="module")
def longer(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("longer") / "run"
    call("train", *arguments(data, folder, *LONGER, "--reproducible"))
    return folder


def iterations(folder):
    """The iterations that a run has done, by its metrics; 0 if there are none."""
    path = folder / "metrics.jsonl"
    return sum('"loss"' in line for line in path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.ranks
@pytest.mark.skipif(not TRIALS, reason="takes minutes: NPTRAIN_STOPS=10 runs it")
@pytest.mark.parametrize("trial", range(TRIALS or 1))
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_signals_at_random_moments_lose_nothing(data, tmp_path, longer, mpirun, number, ranks, trial):
    """A run is started again, by --resume as soon as there is something to resume, until it has ended by itself."""
    folder, moment = tmp_path / "run", random.Random(f"{number} {ranks} {trial}")
    for end in (moment.uniform(1, 12), moment.uniform(1, 12), None):
        before = iterations(folder)
        new = arguments(data, folder, *LONGER, "--reproducible", "--threads", 1)
        running = process(["--resume", folder] if before else new, ranks, mpirun)
        if end:
            time.sleep(end)
            running.send_signal(number)
        output, errors = running.communicate(timeout=200)
        ended = {130 if number == signal.SIGINT else 75} if end else set()
        ended |= {-number} if not output else set()  # before Python has started
        assert running.returncode in {0, *ended}, errors
        assert iterations(folder) >= before
    expect_same(folder, longer)
