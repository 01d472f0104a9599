"""Ranks started differently: the run ends at once, with one line that names the rank and its host."""

import json
import re
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from commands import MPIRUN, PROJECT, TINY
from images import make_dataset

from mpi.agree import AgreedError, expect_same
from nptrain.caffe_net.solver import write_solver
from nptrain.caffe_net.writer import to_text, train_val
from nptrain.errors import InputError
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override

HOST = socket.gethostname()


def started(first, second, status):
    """Run two command lines as ranks 0 and 1; returns (output, errors). Fails unless they end with `status`."""
    if not MPIRUN.exists():
        pytest.skip("needs mpirun in the environment")
    words = [MPIRUN, "-n", "1", sys.executable, *first, ":", "-n", "1", sys.executable, *second]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.mark.ranks
def test_a_run_ends_at_once_with_one_line():
    train = [PROJECT / "bin" / "train", *TINY]
    first, second = (["--batch-size", size, "--threads", threads] for size, threads in ((16, 1), (8, 2)))
    _, errors = started([*train, *first], [*train, *second], status=2)
    assert errors.splitlines()[0] == f"train: rank 1 on {HOST}: --batch-size is 8, rank 0 has 16"
    assert errors.count("train:") == 1  # the launcher adds lines of its own


IN_TURN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from bin.commands import train
from mpi.agree import AgreedError
from mpi.world import connect

world = connect()
for words in json.loads(sys.argv[2]):
    try:
        train.main(words, world)
    except AgreedError as error:
        if error.line is not None:
            print(json.dumps(error.line) + "\\n", end="", flush=True)  # in one piece: ranks share their output
"""
DIGEST = r"[0-9a-f]{12}"


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    """{name: (words of rank 0, words of rank 1, a regular expression for what bin/train says)}."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "a", 5, width=36, height=34)
    make_dataset(folder / "other", 5, width=40, height=34)
    for name, eps in (("one", "0.00001"), ("two", "0.001")):  # net files of the same solver, each beside its own
        recipe = override(get_recipe("resnet50-448nodes"), ["crop_size=32", "test_resize=36", f"bn_eps={eps}"])
        (folder / name).mkdir()
        (folder / name / "solver.prototxt").write_text(write_solver(recipe.phases[0], "net.prototxt"))
        (folder / name / "net.prototxt").write_text(to_text(train_val(recipe, recipe.phases[0], str(folder / "a"))))
    data, none = ([*TINY, "--train-data", str(folder / name)] for name in ("a", "none"))
    solver, other = (["--solver", str(folder / name / "solver.prototxt")] for name in ("one", "two"))
    missing = rf"{folder}/none: not an LMDB: {folder}/none/data\.mdb cannot be read: No such file or directory"
    return {
        "compression": (["--compress", "bf16"], [], "--compress is none, rank 0 has bf16"),
        "a data set missing on one host": (data, none, missing),
        "a wrong flag on one rank": ([], ["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        "other data": (data, [*TINY, "--train-data", str(folder / "other")],
                       rf"the first image in --train-data is 40x34 of class 0, {DIGEST}, "
                       rf"rank 0 has 36x34 of class 0, {DIGEST}"),
        "another net file": (solver, other, rf"the content of --solver is {DIGEST}, rank 0 has {DIGEST}"),
    }  # fmt: skip


@pytest.mark.ranks
def test_ranks_that_differ_are_named_with_the_difference(tmp_path, differences):
    """One after another on the same two ranks: the second one says it."""
    script = tmp_path / "train"
    script.write_text(IN_TURN)
    ranks = ([script, PROJECT, json.dumps([case[rank] for case in differences.values()])] for rank in (0, 1))
    output, _ = started(*ranks, status=0)
    lines = [json.loads(line) for line in output.splitlines()]
    for (name, (*_, expected)), line in zip(differences.items(), lines, strict=True):
        assert re.fullmatch(f"rank 1 on {HOST}: {expected}", line), name


LIGHT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from bin.common.agreement import agree_on_files, agreed_arguments
from bin.common.arguments import Parser
from bin.launch import run
from nptrain.data.lmdb_dataset import LmdbDataset

def main(argv, world):
    parser = Parser(prog="train")
    parser.add_argument("--train-data")
    args = agreed_arguments(parser, argv, world)
    agree_on_files(world, train_data=LmdbDataset(args.train_data), val_data=None)
    print("agreed\\n", end="")  # in one piece: ranks share their output

sys.exit(run("train", main))
"""


def light(folder, project=PROJECT):
    """A command that only compares, and loads no kernels, on the same data in two places; rank 1's `project` may be
    another one. Returns both ranks' command lines.
    """
    script = folder / "train"
    script.write_text(LIGHT)
    data = [make_dataset(folder / name, 5, width=36, height=34) for name in ("a", "same")]
    return [[script, sources, "--train-data", path] for sources, path in zip((PROJECT, project), data, strict=True)]


@pytest.mark.ranks
def test_the_same_data_in_another_place(tmp_path):
    assert started(*light(tmp_path), status=0) == ("agreed\n" * 2, "")


@pytest.mark.ranks
def test_other_sources(tmp_path):
    for room in ("bin", "kernels", "mpi", "nptrain"):
        shutil.copytree(PROJECT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "nptrain" / "update.py", "a") as file:
        file.write("# another version\n")
    _, errors = started(*light(tmp_path, tmp_path), status=2)
    assert errors.startswith(f"train: rank 1 on {HOST}: nptrain/update.py is ")
    assert ", rank 0 has " in errors.splitlines()[0]


class Three:
    """A world whose ranks 1 and 2 have facts of their own; `rank` is this one."""

    size = 3

    def __init__(self, rank, *facts):
        self.rank, self.host, self.facts = rank, "node0", facts
        self.asked = 0

    def allgather(self, value):
        """Digests first, then hosts and facts."""
        self.asked += 1
        if self.asked > 1:
            return [(f"node{rank}", facts) for rank, facts in enumerate(self.facts)]
        found = []
        for facts in self.facts:
            probe = SimpleNamespace(allgather=lambda digest: found.append(digest) or [digest])
            expect_same(probe, facts, InputError)
        return found

    def bcast(self, value):
        return self.facts[0]


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ([{"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": 1, "b": 3}], "rank 2 on node2: b is 3, rank 0 has 2"),
        ([{"a": 1}, {"a": 2}, {"a": 3}], "rank 1 on node1: a is 2, rank 0 has 1"),
        ([{"a": 1}, {}, {"a": 1}], "rank 1 on node1: a is missing, rank 0 has 1"),
        ([{"a": 1}, {"a": 1, "b": 0}, {"a": 1}], "rank 1 on node1: b is 0, rank 0 has missing"),
    ],
)
def test_the_first_rank_that_differs_is_named_with_its_first_difference(facts, line):
    for rank, said in ((0, line), (2, None)):
        with pytest.raises(AgreedError) as raised:
            expect_same(Three(rank, *facts), facts[rank], InputError)
        assert (raised.value.line, raised.value.exit_status) == (said, InputError.exit_status)


def test_ranks_that_agree_go_on():
    facts = {"b": 2, "a": 1}
    expect_same(Three(1, *[facts] * 3), facts, InputError)
