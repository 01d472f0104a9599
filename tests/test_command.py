"""How commands begin and end: the project's environment from anywhere, one line for a mistake, exit statuses."""

import json
import os
import re
import runpy
import select
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import PROJECT, call, run, start

from bin import launch
from mpi.agree import AgreedError
from nptrain.errors import InputError, TrainingError

COMMANDS = sorted(path.name for path in (PROJECT / "bin").iterdir() if path.is_file() and not path.suffix)
MEASURED = ["kernels", "step", "inference", "allreduce", "data", "roofline", "tiles"]  # by bin/bench

HEAD = f"""
import sys
sys.path.insert(0, {str(PROJECT / "bin")!r})
from launch import enter_environment, run

enter_environment("script.py")
sys.path[0] = {str(PROJECT)!r}
from mpi.agree import AgreedError
from mpi.world import connect
from nptrain.errors import InputError, TrainingError
from nptrain.world import Solo

def main(argv, world):
    BODY

sys.exit(run("script.py", main, world=connect() or Solo()))
"""


def script(folder, body):
    """A command whose main() is `body`."""
    path = folder / "script.py"
    path.write_text(HEAD.replace("BODY", body))
    return path


@pytest.mark.parametrize(
    ("body", "status", "errors"),
    [
        ("pass", 0, ""),
        ("raise InputError('x: found y, expected z')", 2, "script.py: x: found y, expected z\n"),
        ("raise TrainingError('the loss is nan')", 1, "script.py: the loss is nan\n"),
        ("raise MemoryError('7 TiB')", 1, "script.py: out of memory: 7 TiB\n"),
        ("raise MemoryError", 1, "script.py: out of memory: the system gives no more\n"),
        ("raise OSError(12, 'Cannot allocate memory')", 1, "script.py: out of memory: Cannot allocate memory\n"),
        (
            """raise RuntimeError("can't start new thread")""",
            1,
            "script.py: out of memory: can't start new thread: no room "
            "for its stack, or too many processes (ulimit -v, -u)\n",
        ),
        ("raise KeyboardInterrupt", 130, "script.py: interrupted\n"),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('the end')", 1, "script.py: the end\n"),
    ],
)
def test_endings_without_a_traceback(tmp_path, body, status, errors):
    done = subprocess.run([sys.executable, script(tmp_path, body)], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (status, errors, "")


def test_an_unforeseen_error_shows_its_traceback(tmp_path):
    done = subprocess.run([sys.executable, script(tmp_path, "[][0]")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("\nscript.py: a fault of the program: IndexError: list index out of range\n")


@pytest.mark.parametrize(
    ("error", "rank", "said"),
    [
        (InputError("x: found y"), 1, "train: rank 1 on node-b: x: found y\n"),
        (MemoryError("7 TiB"), 0, "train: rank 0 on node-b: out of memory: 7 TiB\n"),
        (KeyboardInterrupt(), 2, "train: rank 2 on node-b: interrupted\n"),
        (TrainingError("the loss is nan"), 0, "train: the loss is nan\n"),
        (TrainingError("the loss is nan"), 1, ""),  # of all ranks: one says it
        (AgreedError("rank 1 on node-b: x: found y", 2), 0, "train: rank 1 on node-b: x: found y\n"),
        (AgreedError(None, 2), 1, ""),
    ],
)
def test_the_line_of_a_rank_names_it_once(capsys, error, rank, said):
    ended = []
    world = SimpleNamespace(rank=rank, size=3, host="node-b", failures=(), end_all=ended.append,
                            end_together=lambda status, line: ended.append(line))  # fmt: skip

    def main(argv, world):
        raise error

    launch.run("train", main, [], world)
    assert capsys.readouterr().err == said
    if isinstance(error, TrainingError):  # should rank 0 be dead
        assert ended == [f"train: rank {rank} on node-b: the loss is nan"]


def test_too_few_addresses_are_refused_before_a_library_hangs():
    words = ["bash", "-c", 'ulimit -v 600000; exec "$@"', "bash", PROJECT / "bin" / "train", "--list-recipes"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "train: ulimit -v: found 614 MB, expected at least 700, or unlimited\n"


def test_a_reader_that_has_gone_is_no_error(tmp_path):
    path = script(tmp_path, "for _ in range(100_000): print('a long line of output, more than a pipe holds')")
    process = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 1


def test_another_interpreter_is_exchanged_for_the_environments(tmp_path):
    environment = PROJECT / ".venv"
    if Path(sys.prefix).resolve() != environment.resolve():
        pytest.skip("these tests run in another environment than the project's .venv")
    plain = Path(sys.base_prefix) / "bin" / "python3"
    path = script(tmp_path, "import numpy; print(sys.prefix, *sys.argv[1:])")
    done = subprocess.run([plain, path, "a b", "--c"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{environment} a b --c\n"


def test_without_an_environment_the_command_says_how_to_make_it(tmp_path):
    plain = Path(sys.base_prefix) / "bin" / "python3"
    (tmp_path / "bin").mkdir()
    for name in ("train", "launch.py"):
        shutil.copy(PROJECT / "bin" / name, tmp_path / "bin")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [plain, "-S", tmp_path / "bin" / "train"]  # -S: none of that interpreter's packages either
    done = subprocess.run(words, capture_output=True, text=True, env=clean)
    assert done.returncode == 2
    assert done.stderr == f"train: no environment in {tmp_path}/.venv: run `make setup` first\n"


def test_commands_work_from_any_folder(tmp_path):
    done = subprocess.run([PROJECT / "bin" / "train", "--list-recipes"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "photos", "resnet50-448nodes", "resnet50-64nodes-cyclic", "cifar10", "cifar10-cyclic", "digits"]  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_name_in_bin_starts_its_command(name, monkeypatch):
    path, started = PROJECT / "bin" / name, []
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env python3\n")
    monkeypatch.setitem(sys.modules, "launch", SimpleNamespace(launch=started.append))
    runpy.run_path(str(path))
    assert started == [name]


def test_every_command_has_its_name_in_bin():
    assert sorted(path.stem for path in (PROJECT / "bin" / "commands").glob("[a-z]*.py")) == COMMANDS


@pytest.mark.parametrize("words", [[name] for name in COMMANDS] + [["bench", what] for what in MEASURED])
def test_help_fits_into_80_columns(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    output, errors = call(*words, "--help")
    assert errors == ""
    assert output.startswith(f"usage: {' '.join(words)} ")
    assert max(map(len, output.splitlines())) <= 80
    for group in re.split(r"\n\n(?=\S)", output):
        assert group.count("\n") < 24, group  # a screen


def test_what_bench_measures():
    _, errors = call("bench", "x", status=2)
    assert re.findall(r"\w+", errors.rpartition("choose from")[2]) == MEASURED


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["train", "--bucket-mb", "5"], 5.0),
        (["train", "--bucket-mb", "5", "--bucket-mib", "2", "--bucket-mb", "8"], 8.0),
        (["plan", "--bucket-mb", "33.554432"], 32.0),  # of 1e6 bytes
        (["bench", "allreduce", "--bucket-mb", "1,4", "--bucket-mb", "all"], ["1,4", "all"]),
    ],
)
def test_the_old_name_of_a_flag_works_and_says_once_the_new_one(words, found, capsys):
    name, *rest = words
    args = import_module(f"bin.commands.{name}").parser().parse_args(rest)
    assert args.bucket_mib == found
    assert "renamed" not in args
    prog = " ".join(words[: 1 + (name == "bench")])
    assert capsys.readouterr() == ("", f"{prog}: --bucket-mb is now called --bucket-mib\n")


@pytest.mark.parametrize(("flag", "value", "most"), [("workers", 2**31, 2**31 - 1), ("seed", 2**63, 2**63 - 1)])
def test_numbers_have_a_limit(flag, value, most):
    _, errors = call("train", f"--{flag}", value, "--list-recipes", status=2)
    assert errors.endswith(f"argument --{flag}: found {value}, expected at most {most}\n")


@pytest.mark.ranks
def test_a_wrong_flag_is_one_message_of_all_ranks():
    _, errors = run("train", "--no-such-flag", ranks=3, status=2)
    assert errors.count("unrecognized arguments: --no-such-flag") == 1
    assert errors.count("usage:") == 1


@pytest.mark.ranks
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_launcher_ends_all_ranks(tmp_path, stop):
    body = """import json, os, signal
    pids = world.allgather(os.getpid())
    if world.rank == 0:
        print(json.dumps(pids), flush=True)
    signal.pause()"""
    process = start(script(tmp_path, body), ranks=2)
    ranks = [os.pidfd_open(pid) for pid in json.loads(process.stdout.readline())]
    process.send_signal(stop)
    process.communicate(timeout=30)
    assert process.returncode != 0
    for rank in ranks:  # MPICH's launcher does not wait for the ranks that it has ended
        assert select.select([rank], [], [], 5) == ([rank], [], []), "it has not ended"
        os.close(rank)
