"""The project's mpirun: its defaults, and signals, on launchers that only say what they are given."""

import shutil
import signal
import subprocess
import sys

import pytest
from commands import PROJECT

WORDS = """#!/bin/sh
printf '%s\\n' "$*" "$PRTE_MCA_hwloc_default_binding_policy $I_MPI_PIN ${PATH%%:*}"
"""
WAITS = f"""#!{sys.executable}
import os, signal, sys
def end(number, _):
    print(signal.Signals(number).name, flush=True)
    if number != signal.SIGUSR1 or "stays" not in sys.argv:
        sys.exit(75 if number == signal.SIGUSR1 else 1)
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
    signal.signal(number, end)
print(os.getpid(), flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def installed(tmp_path):
    """A function: the project's mpirun beside a launcher, whose file and text are given."""

    def of(name, text):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
        return shutil.copy(PROJECT / "mpi" / "mpirun.py", tmp_path / "mpirun")

    return of


@pytest.mark.parametrize(
    ("launcher", "words", "given"),
    [
        ("mpirun.openmpi", ["-n", "2", "x"], "--output :raw -n 2 x"),
        ("mpirun.openmpi", ["--output", "tag", "x"], "--output tag x"),
        ("mpiexec.hydra", ["-n", "2", "x"], "-n 2 x"),
    ],
)
def test_defaults(installed, tmp_path, monkeypatch, launcher, words, given):
    monkeypatch.setenv("I_MPI_PIN", "on")
    monkeypatch.delenv("PRTE_MCA_hwloc_default_binding_policy", raising=False)
    done = subprocess.run([installed(launcher, WORDS), *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{given}\nnone on {tmp_path}\n", "")


@pytest.mark.parametrize(
    ("words", "sent", "got", "status"),
    [
        ([], [signal.SIGTERM], "SIGUSR1", 75),
        ([], [signal.SIGINT], "SIGUSR1", 130),
        ([], [signal.SIGHUP], "SIGUSR1", 75),
        (["stays"], [signal.SIGINT, signal.SIGINT], "SIGUSR1 SIGTERM", 130),
    ],
)
def test_a_signal_becomes_one_that_launchers_pass_on(installed, words, sent, got, status):
    command = [installed("mpirun.openmpi", WAITS), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip().isdigit()
    found = []
    for at, number in enumerate(sent):
        if at:
            signal.sigtimedwait([], 0.25)  # a second one that comes at once counts as the first
        process.send_signal(number)
        found.append(process.stdout.readline().strip())
    assert (" ".join(found), process.wait(30)) == (got, status)


def test_if_it_is_killed_so_is_the_launcher(installed):
    process = subprocess.Popen([installed("mpirun.openmpi", WAITS)], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.kill()
    assert process.stdout.read() == "SIGTERM\n"  # and then it has ended
