"""Imports run one way, kernels <- nptrain <- bin -> mpi, within nptrain as docs/design.md says. Files, functions and
signatures stay small.
"""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
ROOMS = {"kernels", "nptrain", "mpi", "bin"}
ALLOWED = {"kernels": {"kernels"}, "nptrain": {"nptrain", "kernels"}, "mpi": {"mpi"}, "bin": ROOMS}
LLVM = (
    "cache.py",
    "registers.py",
    "emit.py",
    "emit_bf16.py",
    "vector.py",
    "pairs.py",
    "tiles.py",
)  # what the CPU is, and code for it

# What each folder or file of nptrain may import of the others; each knows only those above it.
INSIDE = {
    "errors": set(),
    "world": set(),
    "files": {"errors"},
    "caffe": {"errors", "files"},
    "data": {"caffe", "errors", "files"},
    "network": {"errors"},
    "recipes": {"data", "network", "errors"},
    "reduction": set(),
    "caffe_net": {"caffe", "network", "recipes", "errors"},
    "export": {"network", "errors", "files"},
    "update": {"recipes", "errors"},
    "run": {"caffe", "recipes", "errors", "files"},
    "report": {"data", "recipes", "run", "errors", "files"},
    "inspect": {"caffe", "data", "export", "run", "report", "errors", "files"},
    "step": {"recipes", "reduction", "update", "world", "errors"},
    "evaluate": {"data", "network"},
    "same_state": {"errors"},
    "recovery": {"recipes", "run", "step", "errors"},
    "train": {
        *("caffe_net", "data", "evaluate", "network", "recipes", "recovery", "run", "same_state", "step", "world"),
        "errors",
    },
    "plan": {"network", "recipes", "reduction", "report", "errors"},
    "bench": {"data", "network", "recipes", "reduction", "report", "step", "world", "errors"},
}
LONG = {  # functions of more than 40 lines, and why
    "kernels/conv_backward_weights.py _outer_for": "a kernel that is compiled for each kind of convolution",
    "kernels/pair_weight_gradient.py _outer_for": "the same",
    "kernels/convolve.py _pointwise_for": "the same",
    "kernels/convolve.py _convolve_for": "a kernel that is compiled for each kind of convolution",
    "kernels/convolve.py _convolve": "the same",
    "kernels/pair_weight_gradient.py _outer_pairs": "the same",
    "kernels/tiles.py product_tile": "the innermost loops, which compile as one",
}
WIDE = {  # functions of more than ten arguments, outside of kernels, and why
    "nptrain/data/loader.py __init__": "all that decides what a batch is, by name only",
}
KERNELS = {"network", "bench", "plan"}  # the only ones that import kernels (plan: their sizes); others are handed them


def sources(room):
    return [
        p for p in (PROJECT / room).rglob("*") if p.suffix == ".py" or (room == "bin" and p.is_file() and not p.suffix)
    ]


def imported(path):
    """The modules that a file imports, anywhere in it, with dots."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module in ROOMS)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms(room):
    files = sources(room)
    assert len(files) > 3
    for path in files:
        names = {name.split(".")[0] for name in imported(path)}
        assert names & ROOMS <= ALLOWED[room], path
        assert ("mpi4py" in names) <= (room == "mpi"), path
        assert ("llvmlite" in names) <= (path.name in LLVM), path
        assert ("torch" in names) <= (path.name in ("torch_step.py", "model.py")), path
        assert ("onnx" in names) <= (path.name == "onnx_file.py"), path
        assert ("matplotlib" in names) <= (path.name.endswith("plot.py")), path


@pytest.mark.parametrize("owner", INSIDE)
def test_folders_of_nptrain(owner):
    place = PROJECT / "nptrain" / owner
    for path in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
        names = set(imported(path))
        others = {name.split(".")[1] for name in names if name.startswith("nptrain.")} - {owner}
        assert others <= INSIDE[owner], path
        assert any(name.split(".")[0] == "kernels" for name in names) <= (owner in KERNELS), path


def test_every_part_of_nptrain_has_its_place():
    parts = {path.stem for path in (PROJECT / "nptrain").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__pycache__"} == INSIDE.keys()
    assert not any(INSIDE[below] & {owner} for owner, known in INSIDE.items() for below in known), "a circle"


@pytest.mark.parametrize("room", [*sorted(ROOMS), "tests"])
def test_files_are_small(room):
    for path in sources(room):
        if path.name != "caffe_pb2.py":
            assert len(path.read_text().splitlines()) <= 300, path


def functions(room):
    """(its place and name, its ast node) of every function."""
    for path in sources(room):
        if path.name != "caffe_pb2.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    yield f"{path.relative_to(PROJECT)} {node.name}", node


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_functions_are_short(room):
    """Without their docstrings."""
    for place, node in functions(room):
        first = node.body[0]
        length = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node) is not None:
            length -= first.end_lineno - first.lineno + 1
        assert length <= 40 or place in LONG, f"{place} has {length} lines"


@pytest.mark.parametrize("room", sorted(ROOMS - {"kernels"}))
def test_signatures_are_narrow(room):
    for place, node in functions(room):
        a = node.args
        count = sum(map(len, (a.posonlyargs, a.args, a.kwonlyargs))) + sum(map(bool, (a.vararg, a.kwarg)))
        assert count <= 10 or place in WIDE, f"{place} has {count} arguments"
