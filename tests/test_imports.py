"""Imports run one way: kernels <- nptrain <- bin -> mpi. And files stay small."""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
ROOMS = {"kernels", "nptrain", "mpi", "bin"}
ALLOWED = {"kernels": {"kernels"}, "nptrain": {"nptrain", "kernels"}, "mpi": {"mpi"}, "bin": ROOMS}


def sources(room):
    return [
        p for p in (PROJECT / room).rglob("*") if p.suffix == ".py" or (room == "bin" and p.is_file() and not p.suffix)
    ]


def imported(path):
    """The top-level modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module.split(".")[0]


LLVM = ("__init__.py", "registers.py", "vector.py", "tiles.py")  # what the CPU is, and code for it


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms(room):
    files = sources(room)
    assert len(files) > 3
    for path in files:
        names = set(imported(path))
        assert names & ROOMS <= ALLOWED[room], path
        assert ("mpi4py" in names) <= (room == "mpi"), path
        assert ("llvmlite" in names) <= (path.name in LLVM), path
        assert ("torch" in names) <= (path.name == "torch_step.py"), path
        assert ("matplotlib" in names) <= (path.name.endswith("plot.py")), path


@pytest.mark.parametrize("room", [*sorted(ROOMS), "tests"])
def test_files_are_small(room):
    for path in sources(room):
        if path.name != "caffe_pb2.py":
            assert len(path.read_text().splitlines()) <= 300, path
