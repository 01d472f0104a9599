"""What all tests share: how threads wait, and the data of short runs."""

import os
import subprocess
import sys
from pathlib import Path

# Ranks and other programs share the cores with the tests: a thread that waits for others must not spin meanwhile,
# and plain NumPy's matrices are so small that its threads would mostly wait. To be set before either is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from ranks import Ranks
from short_runs import make_data

COMPILE = """
from dataclasses import replace
from nptrain.network.compile import compile_kernels
from nptrain.recipes.check import PRECISIONS
from nptrain.recipes.published import get_recipe
for precision in PRECISIONS:
    compile_kernels(replace(get_recipe("digits"), precision=precision))
"""


def pytest_sessionstart(session):
    """Where several processes run the tests, one compiles the kernels before they start."""
    if getattr(session.config.option, "numprocesses", None):
        subprocess.run([sys.executable, "-c", COMPILE], cwd=Path(__file__).parent.parent, check=True)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The folder of two small LMDBs, /train and /val, which no test changes."""
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def on_ranks():
    """A function: so many ranks, which run one command after another (`Ranks.call`)."""
    running = {}

    def of(size):
        if size not in running or not running[size].usable:
            running[size] = Ranks(size)
        return running[size]

    yield of
    for each in running.values():
        each.release()
    for each in running.values():
        each.close()


LONGEST = ("test_ranks", "test_compile", "test_golden", "test_bench_parallel", "test_compressed_sum", "test_train",
           "test_stop", "test_report", "test_gradients")  # files, by CPU time  # fmt: skip


def pytest_collection_modifyitems(items):
    """What runs on ranks has the mark, which make test-mpi looks for. The longest files come first: at the end of two
    processes, neither then waits long for the other.
    """
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    for item in items:
        if "on_ranks" in item.fixturenames:
            item.add_marker("ranks")
