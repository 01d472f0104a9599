"""Caffe's files in bin/train: a recipe from a solver and its net file, and both printed from a recipe."""

import argparse
import os
import sys
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

from bin.common.arguments import expect_not_both
from nptrain.caffe_net.net import NetFile, read_net, understand
from nptrain.caffe_net.solver import Solver, read_solver, recipe_of, snapshot_prefix, write_solver
from nptrain.caffe_net.writer import to_text, train_val
from nptrain.errors import InputError

SOURCES = ("train_lmdb", "val_lmdb")  # data sources of a printed net, unless flags give them

# flags of `caffe train` that have no meaning here, and what to do instead
INSTEAD = {
    "gpu": "leave it out: everything is computed on the CPU",
    "engine": "leave it out: --kernels and --winograd choose among the kernels here",
    "level": "leave it out: layers are chosen by their phase alone",
    "stage": "leave it out: layers are chosen by their phase alone",
    "sigint_effect": "leave it out: an interrupted run ends, and --resume continues from its newest snapshot",
    "sighup_effect": "leave it out: a run ends with its terminal, and --resume continues from its newest snapshot",
}

# flags of glog, with which programs of Caffe are often called: those with a value, and switches, which may have one
GLOG_VALUES = ("v", "vmodule", "log_dir", "log_link", "minloglevel", "stderrthreshold", "logbuflevel", "logbufsecs",
               "max_log_size", "log_backtrace_at", "logfile_mode")  # fmt: skip
GLOG_SWITCHES = ("logtostderr", "alsologtostderr", "colorlogtostderr", "log_prefix", "drop_log_memory",
                 "stop_logging_if_full_disk")  # fmt: skip


class _Glog(argparse.Action):
    """A flag of glog: accepted, and noted on the terminal."""

    def __call__(self, parser, namespace, value, flag=None):
        print(f"{parser.prog}: {flag} has no effect: it is for the log of Caffe", file=sys.stderr)


def add_glog_arguments(parser):
    """Accept glog's flags, with one dash or two."""
    for name in GLOG_VALUES:
        parser.add_argument(f"--{name}", f"-{name}", action=_Glog, dest=argparse.SUPPRESS, help=argparse.SUPPRESS)
    for name in (*GLOG_SWITCHES, *(f"no{name}" for name in GLOG_SWITCHES)):
        parser.add_argument(f"--{name}", f"-{name}", action=_Glog, dest=argparse.SUPPRESS, nargs="?",
                            help=argparse.SUPPRESS)  # fmt: skip


def add_caffe_arguments(parser):
    """Add the flags of `caffe train`, and those that print its files."""
    caffe = parser.add_argument_group("Caffe's files (docs/caffe.md)")
    caffe.add_argument("--solver", "-solver", metavar="FILE",
                       help="solver.prototxt, with its net file, instead of a recipe")  # fmt: skip
    caffe.add_argument("--snapshot", "-snapshot", metavar="FILE",
                       help="continue from a .solverstate and the weights that it names")  # fmt: skip
    caffe.add_argument("--print-solver", action="store_true", help="print a phase as a solver.prototxt and exit")
    caffe.add_argument("--print-net", action="store_true", help="print the net file of a phase and exit")
    caffe.add_argument("--caffe-log", metavar="FILE",
                       help="also write the lines of Caffe's log; - is standard error")  # fmt: skip
    for flag in INSTEAD:
        caffe.add_argument(f"--{flag}", f"-{flag}", help=argparse.SUPPRESS)
    add_glog_arguments(caffe)


def check_caffe_flags(args):
    """Raise InputError for flags of `caffe train` that have no meaning here, and for flags that exclude each other."""
    for flag, instead in INSTEAD.items():
        if getattr(args, flag) is not None:
            raise InputError(f"--{flag}: {instead}")
    expect_not_both(args, ("solver", "recipe"), ("weights", "snapshot"), ("weights", "resume"),
                ("snapshot", "resume"), ("print_solver", "print_net"))  # fmt: skip


@dataclass(frozen=True)
class SolverFiles:
    """A solver file and the net file that it names."""

    solver: Solver
    net_path: Path
    net: NetFile

    @classmethod
    def read(cls, path):
        """Read both. Raises InputError if one is missing, or asks for something that cannot be done here."""
        solver = read_solver(path)
        net_path = find(solver.net, path, f"{path}: net")
        return cls(solver, net_path, understand(read_net(net_path), net_path))

    def content(self):
        """The bytes of both files, which must be the same on all ranks."""
        return self.solver.path.read_bytes() + self.net_path.read_bytes()

    def recipe(self, ranks=1):
        """The Recipe of both files. Every rank is a worker, as under `mpiexec -n N caffe train`."""
        return recipe_of(self.solver, self.net, ranks)

    def to_run(self, recipe, args):
        """The recipe to train: `recipe`, which is that of these files as the flags changed it, with the snapshot prefix
        that Caffe would use. Sets args.train_data and args.val_data from the net file where they are not given.
        """
        net, tests = self.net, any(phase.test_iter for phase in recipe.phases)
        if (tests or args.val_data) and not net.test:
            flag = "--val-data" if args.val_data else f"{self.solver.path}: test_iter"
            raise InputError(f"{flag}: {self.net_path} has no TEST data layer; bin/evaluate tests weights without one")
        args.train_data = args.train_data or self._source(net.train, recipe, "--train-data")
        if tests and not args.val_data:
            args.val_data = self._source(net.test, recipe, "--val-data")
        phases = (replace(phase, snapshot_prefix=snapshot_prefix(phase, self.solver.path, recipe.workers))
                  for phase in recipe.phases)  # fmt: skip
        return replace(recipe, phases=tuple(phases))

    def _source(self, layer, recipe, flag):
        """The folder that a DataLayer names, which `flag` would override. In the fork, %# is the rank, and %* the
        number of ranks, which are workers here. A data set for each rank is refused: workers share one.
        """
        where = f"{self.net_path}: source"
        if "%#" in layer.source:
            raise InputError(f"{where}: found {layer.source!r}, a data set for each rank, expected one for all; "
                             f"{flag} names it")  # fmt: skip
        return str(find(layer.source.replace("%*", str(recipe.workers)), self.net_path, where))

    def test_note(self, recipe):
        return test_note(self.net, self.net_path, recipe)

    def lines(self):
        """Lines for the log about both files."""
        notes = [*self.solver.notes, *(f"{self.net_path}: {note}" for note in self.net.notes)]
        return [f"net file: {self.net_path}", *notes]


def test_note(net, path, recipe):
    """A line for the user on how images are tested by `recipe`, if the NetFile `net` in the file `path` has no TEST
    data layer; else None.
    """
    if net.test:
        return None
    size = "not resized" if recipe.test_resize is None else f"resized to {recipe.test_resize} (the shorter side)"
    reason = "as the TRAIN layer says" if net.says_test_resize else "which the net file does not say"
    return (f"{path} has no TEST data layer: test images are {size}, {reason}, and cropped to "
            f"{recipe.crop_size} (--set test_resize=N)")  # fmt: skip


def find(name, beside, what):
    """The Path of a file or folder whose `name` stands in the file `beside`: relative to the working directory, or to
    the folder of `beside`, or the last part of the name in that folder; the first that exists. Raises InputError, which
    lists the paths tried.
    """
    folder = Path(beside).parent
    tried = list(dict.fromkeys((Path(name), folder / name, folder / Path(name).name)))
    for path in tried:
        if name and path.exists():
            return path
    raise InputError(f"{what}: found none of {', '.join(map(str, tried))}")


def printed(args, recipe, files):
    """The text that --print-solver or --print-net asks for, of the phase that --phase names, or of the first."""
    phase = recipe.phase(args.phase) if args.phase else recipe.phases[0]
    if args.print_solver:
        net = "train_val.prototxt" if phase is recipe.phases[0] else f"train_val_{phase.name}.prototxt"
        seed = files.solver.seed if files and args.seed is None else args.seed
        stem = Path(args.solver).stem if args.solver else f"{recipe.name}_phase{phase.name}"
        prefix = phase.snapshot_prefix or ""
        if not prefix or prefix.endswith("/"):  # which Caffe would refuse, or call the files _iter_N
            prefix += stem
        return write_solver(replace(phase, snapshot_prefix=prefix), files.solver.net if files else net, seed)
    train, val = SOURCES
    if files:
        train, val = files.net.train.source, files.net.test and files.net.test.source
    elif not (phase.test_interval or phase.test_initialization):
        val = None  # the phase has no tests
    return to_text(train_val(recipe, phase, args.train_data or train, args.val_data or val))


def prepare_snapshots(recipe):
    """Make the folders of the recipe's snapshot prefixes, before a run computes for hours. Raises InputError if one of
    them cannot be written. Returns lines for the log about snapshots that exist already.
    """
    lines = []
    for prefix in (Path(phase.snapshot_prefix) for phase in recipe.phases if phase.snapshot_prefix):
        try:
            prefix.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"snapshot_prefix: {prefix.parent} cannot be made: {error.strerror}") from None
        if not os.access(prefix.parent, os.W_OK):
            raise InputError(f"snapshot_prefix: {prefix.parent} cannot be written")
        count = len(list(prefix.parent.glob(f"{escape(prefix.name)}_iter_*.caffemodel")))
        if count:
            lines.append(
                f"found {count} snapshots {prefix}_iter_*; those of the same iterations are replaced, as in Caffe"
            )
    return lines
