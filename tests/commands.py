"""Running the project's commands as their users do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
MPIRUN = Path(sys.prefix) / "bin" / "mpirun"
TINY = ["--recipe", "digits", "--set", "depth=18", "--classes", "5", "--batch-size", "2", "--seed", "3",
        "--set", "display=1", "--set", "test_interval=0"]  # fmt: skip


def start(command, *arguments, ranks=0, **options):
    """Start bin/COMMAND, under mpirun if `ranks`; returns the process, its output in pipes."""
    launcher = []
    if ranks:
        if not MPIRUN.exists():
            pytest.skip(f"needs {MPIRUN.name} in the environment")
        launcher = [MPIRUN, "-n", str(ranks)]
    words = [*launcher, sys.executable, PROJECT / "bin" / command, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in words], env=os.environ, **pipes, **options)


def run(command, *arguments, ranks=0, status=0, timeout=240):
    """Run bin/COMMAND to its end; returns (output, errors). Fails unless it ends with `status`, in time."""
    process = start(command, *arguments, ranks=ranks)
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == status, output + errors
    return output, errors
