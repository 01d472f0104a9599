"""Running the project's commands: as their users do, in a process each, or in this process, which is faster."""

import importlib
import io
import os
import subprocess
import sys
import threading
import warnings
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import numba
import pytest

from bin import launch
from nptrain.world import Solo

PROJECT = Path(__file__).parent.parent
MPIRUN = Path(os.environ.get("NPTRAIN_MPIRUN", Path(sys.prefix) / "bin" / "mpirun"))
HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # by Python, in a process
NARROW = ["--set", "depth=18", "--set", "width=16"]  # 0.7 million weights instead of 23.5
TINY = ["--recipe", "digits", *NARROW, "--classes", "5", "--batch-size", "2", "--seed", "3",
        "--set", "display=1", "--set", "test_interval=0", "--bucket-mib", "1"]  # fmt: skip


def launcher(ranks, mpirun=MPIRUN):
    """The words before a command that start it on so many ranks; none for 0. Skips where there is no launcher."""
    if ranks and not mpirun.exists():
        pytest.skip("needs mpirun in the environment, or its path in NPTRAIN_MPIRUN")
    return [str(mpirun), "-n", str(ranks)] if ranks else []


def across(hosts, each, remote):
    """The launcher's flags for `each` ranks on every host of the file `hosts`, which `remote` reaches, not ssh."""
    version = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True).stdout
    if "Open MPI" in version:
        return ["--hostfile", hosts, "--map-by", f"ppr:{each}:node:oversubscribe", "--prtemca", "plm_ssh_agent", remote]
    return ["-f", hosts, "-ppn", str(each), "-iface", "eth0", "-launcher", "ssh", "-launcher-exec", remote]


def start(command, *arguments, ranks=0, **options):
    """Start bin/COMMAND, under mpirun if `ranks`; returns the process, its output in pipes."""
    words = [*launcher(ranks), sys.executable, PROJECT / "bin" / command, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in words], env=os.environ, **pipes, **options)


def run(command, *arguments, ranks=0, status=0, timeout=240, **options):
    """Run bin/COMMAND to its end; returns (output, errors). Fails unless it ends with `status`, in time."""
    process = start(command, *arguments, ranks=ranks, **options)
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == status, output + errors
    return output, errors


def call(command, *arguments, status=0, cwd="."):
    """Run a command on one rank to its end in this process; returns (output, errors), as `run` does. Fails unless it
    ends with `status`. What a process has only once is as before: threads, their cores, the working directory.
    """
    main, words = importlib.import_module(f"bin.commands.{command}").main, [str(word) for word in arguments]
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors, as_before(cwd):
        found = launch.run(command, main, words, Solo())
    assert found == status, output.getvalue() + errors.getvalue()
    return output.getvalue(), errors.getvalue()


@contextmanager
def as_before(cwd="."):
    """Afterwards threads are as many, and on the cores, as before. Python warnings come out on stderr, as they would
    from a process; pytest would keep them.
    """
    threads, cores, running = numba.get_num_threads(), os.sched_getaffinity(0), set(threading.enumerate())
    try:
        with chdir(cwd), warnings.catch_warnings(record=True) as warned:
            warnings.resetwarnings()
            yield
        for found in warned:
            if not issubclass(found.category, HIDDEN):
                sys.stderr.write(warnings.formatwarning(found.message, found.category, found.filename, found.lineno))
        assert set(threading.enumerate()) <= running, "a thread of the command has not ended"
    finally:
        numba.set_num_threads(threads)
        for task in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):  # a thread that has just ended
                os.sched_setaffinity(int(task), cores)
