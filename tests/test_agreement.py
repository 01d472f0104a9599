"""Ranks started differently: the run ends at once, with one line that names the rank and its host."""

import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from commands import MPIRUN, PROJECT, TINY
from images import make_dataset

from mpi.agree import AgreedError, expect_same
from nptrain.caffe_net.net import to_text, train_val
from nptrain.caffe_net.solver import write_solver
from nptrain.errors import InputError
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override

HOST = socket.gethostname()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """LMDBs: /a, /same (its records again), and /other, as many records of the same names."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "a", 5, width=36, height=34)
    make_dataset(folder / "same", 5, width=36, height=34)
    make_dataset(folder / "other", 5, width=40, height=34)
    return folder


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


def started(first, second, status):
    """Run two command lines as ranks 0 and 1; returns (output, errors). Fails unless they end with `status`."""
    if not MPIRUN.exists():
        pytest.skip("needs mpirun in the environment")
    words = [MPIRUN, "-n", "1", sys.executable, *first, ":", "-n", "1", sys.executable, *second]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


def differing(first, second):
    """What bin/train says where ranks 0 and 1 have other arguments."""
    train = [PROJECT / "bin" / "train", *TINY]
    return started([*train, *first], [*train, *second], status=2)[1]


def differing_lightly(folder, first, second, project=PROJECT, status=2):
    """The same of a command that only compares, and loads no kernels; rank 1's `project` may be another one."""
    script = folder / "train"
    script.write_text(LIGHT)
    return started([script, PROJECT, *first], [script, project, *second], status)


def one_line(errors, line):
    """Assert that `line` is the first of the errors and the only one of ours: the launcher adds its own."""
    assert errors.splitlines()[0] == f"train: rank 1 on {HOST}: {line}"
    assert errors.count("train:") == 1


@pytest.mark.ranks
def test_other_arguments():
    errors = differing(["--batch-size", "16", "--threads", "1"], ["--batch-size", "8", "--threads", "2"])
    one_line(errors, "--batch-size is 8, rank 0 has 16")


@pytest.mark.ranks
def test_a_data_set_missing_on_one_host(data):
    errors = differing(["--train-data", data / "a"], ["--train-data", data / "none"])
    one_line(errors, f"{data}/none: not an LMDB: {data}/none/data.mdb cannot be read: No such file or directory")


@pytest.mark.ranks
def test_a_wrong_flag_on_one_rank(tmp_path):
    _, errors = differing_lightly(tmp_path, [], ["--no-such-flag"])
    one_line(errors, "unrecognized arguments: --no-such-flag")


@pytest.mark.ranks
def test_other_sources(tmp_path, data):
    for room in ("bin", "kernels", "mpi", "nptrain"):
        shutil.copytree(PROJECT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "nptrain" / "update.py", "a") as file:
        file.write("# another version\n")
    same_data = ["--train-data", data / "a"]
    _, errors = differing_lightly(tmp_path, same_data, same_data, tmp_path)
    assert errors.startswith(f"train: rank 1 on {HOST}: nptrain/update.py is ")
    assert ", rank 0 has " in errors.splitlines()[0]


@pytest.mark.ranks
def test_other_data(tmp_path, data):
    _, errors = differing_lightly(tmp_path, ["--train-data", data / "a"], ["--train-data", data / "other"])
    assert errors.startswith(f"train: rank 1 on {HOST}: the first image in --train-data is 40x34 of class ")
    assert errors.count("train:") == 1


@pytest.mark.ranks
def test_the_same_data_in_another_place(tmp_path, data):
    places = (["--train-data", data / name] for name in ("a", "same"))
    assert differing_lightly(tmp_path, *places, status=0) == ("agreed\n" * 2, "")


@pytest.mark.ranks
def test_another_net_file(tmp_path, data):
    """Under the same solver, each found beside its own."""
    commands = []
    for name, eps in (("one", "0.00001"), ("other", "0.001")):
        recipe = override(get_recipe("resnet50-448nodes"), ["crop_size=32", "test_resize=36", f"bn_eps={eps}"])
        (tmp_path / name).mkdir()
        (tmp_path / name / "solver.prototxt").write_text(write_solver(recipe.phases[0], "net.prototxt"))
        net = train_val(recipe, recipe.phases[0], str(data / "a"))
        (tmp_path / name / "net.prototxt").write_text(to_text(net))
        commands.append([PROJECT / "bin" / "train", "--solver", tmp_path / name / "solver.prototxt"])
    _, errors = started(*commands, status=2)
    assert errors.startswith(f"train: rank 1 on {HOST}: the content of --solver is ")


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
