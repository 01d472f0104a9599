"""Train a ResNet by a recipe or by Caffe's solver file, on one rank or many.

bin/train --recipe photos --data data --epochs 30
mpirun -n 2 bin/train --recipe resnet50-448nodes --train-data DIR
mpirun -n 2 bin/train --solver solver.prototxt
"""

import os
from contextlib import nullcontext
from functools import partial

import numpy as np

from bin.common.agreement import agree_on_cpus, agree_on_files, agreed_arguments, data_facts
from bin.common.arguments import Parser, add_renamed, expect_at_least, expect_positive
from bin.common.beginning import beginning
from bin.common.caffe_files import SolverFiles, add_caffe_arguments, check_caffe_flags, prepare_snapshots, printed
from bin.common.chosen import Choice, add_recipe_arguments, check_recipe_flags
from bin.common.config import Config
from bin.common.data_sets import MOST, RunData, add_data_arguments, name_data_sets, read_once
from bin.common.dry_run import dry_run
from bin.common.ending import end, finish, holding, seconds
from bin.common.known_sum import expect_known_sum
from bin.common.memory import expect_memory, naming_need
from bin.common.prepare import add_arguments, instructions, kernels_and_cores, tell
from bin.common.recovery import add_recovery_arguments, find_snapshot, keep_snapshots, watchdog
from bin.common.start import load_start, origin_of, run_arguments
from bin.common.weights import weights_of
from mpi.agree import raise_together
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.errors import InputError
from nptrain.network.resnet import ResNet
from nptrain.plan.needs import value_bytes
from nptrain.recipes import photos
from nptrain.recipes.published import RECIPES
from nptrain.run.best import read_tests
from nptrain.run.caffe_log import CaffeLog, open_log
from nptrain.run.log import Log
from nptrain.run.metrics import forget_after
from nptrain.run.run_folder import RunFolder
from nptrain.run.stop import Stop
from nptrain.run.versions import versions
from nptrain.run.writers import CsvWriter, TensorBoardWriter
from nptrain.step import BUCKET_BYTES, worker_range
from nptrain.train import Options, Trainer


def parser():
    p = Parser(prog="train", description=__doc__)
    add_recipe_arguments(p)
    data = p.add_argument_group("data")
    add_data_arguments(data)
    data.add_argument("--max-bad-records", metavar="N", type=int, default=0,
                      help="damaged training records that all ranks together may replace (%(default)s)")  # fmt: skip
    run = p.add_argument_group("run")
    run.add_argument("--run-dir", metavar="DIR", help="folder of the run (runs/RECIPE, or runs/SOLVER)")
    run.add_argument("--phase", metavar="NAMES", help="phases to run, e.g. 1 or 1,2 (all)")
    run.add_argument("--weights", "-weights", metavar="FILE",
                     help="start from the weights of a run, of a .caffemodel, or of A,B: of both")  # fmt: skip
    run.add_argument("--resume", metavar="RUN", nargs="?", default=False, const=True,
                     help="continue a run, with its flags; without RUN, that of --run-dir")  # fmt: skip
    run.add_argument("--allow-other-bits", action="store_true",
                     help="continue a run also with versions that give other bits")  # fmt: skip
    run.add_argument("--iterations", metavar="N", type=int, help="end each phase at iteration N, at unchanged rates")
    run.add_argument("--time-limit", metavar="H:MM:SS", type=seconds,
                     help="save and end after this time, or so many seconds, with exit status 75")  # fmt: skip
    run.add_argument("--keep", metavar="N", type=int,
                     help="keep the newest N checkpoints, and the best (all)")  # fmt: skip
    run.add_argument("--early-stop", metavar="N", type=int,
                     help="end a phase after N tests without a better top-1")  # fmt: skip
    run.add_argument("--dry-run", action="store_true",
                     help="print phases, rates, memory, disk and time of the run, and end")  # fmt: skip
    run.add_argument("--csv", action="store_true", help="write metrics.csv, too")
    run.add_argument("--tensorboard", action="store_true",
                     help="write TensorBoard's files, too (requirements-tensorboard.txt)")  # fmt: skip
    run.add_argument("--seed", metavar="N", type=int,
                     help="seed of weights, order and augmentation (0, or the solver's random_seed)")  # fmt: skip
    p.set_defaults(weights_run=None)
    add_recovery_arguments(p.add_argument_group("dead and hanging ranks (docs/reliability.md)"))
    add_caffe_arguments(p)
    add_step_arguments(p.add_argument_group("step"))
    add_arguments(p.add_argument_group("kernels and cores"))
    return p


def add_step_arguments(step):
    """Add the flags that say how a step is computed."""
    step.add_argument("--workers", metavar="N", type=int, help="logical workers, divided among the ranks")
    step.add_argument("--comm-threads", metavar="N", type=int,
                      help="threads per rank that sum gradients, on cores of their own (1 from 8 cores)")  # fmt: skip
    step.add_argument("--decode-threads", metavar="N", type=int,
                      help="threads per rank that decode images (as --threads)")  # fmt: skip
    step.add_argument("--bucket-mib", metavar="X", type=float, default=BUCKET_BYTES / 2**20,
                      help="size in MiB at which a bucket of gradients is sent (%(default)s)")  # fmt: skip
    add_renamed(step, "--bucket-mb", "--bucket-mib", type=float)
    step.add_argument("--reproducible", action="store_true",
                      help="sum over workers in a fixed order: any number of ranks gives the same bits")  # fmt: skip
    step.add_argument("--check-every", metavar="N", type=int, default=0,
                      help="iterations after which ranks compare their weights (as at checkpoints)")  # fmt: skip
    step.add_argument("--compress", choices=["none", "bf16"], default="none",
                      help="format of gradients that are sent, in any --precision (none: not rounded)")  # fmt: skip
    step.add_argument("--dtype", choices=["float32", "float64"], default="float32",
                      help="float64 needs --kernels numpy (%(default)s)")  # fmt: skip


def main(argv, world):
    args = agreed_arguments(parser(), argv, world)
    args = run_arguments(parser(), argv, args, world)
    if args.list_recipes:
        recipes = {photos.NAME: photos.DESCRIPTION, **{name: r.description for name, r in RECIPES.items()}}
        for name, description in recipes.items() if world.rank == 0 else ():
            print(f"{name:24}{description}")
        return
    with watchdog(args, world) as watch:
        run(args, watch.watched_world(), watch)


def run(args, world, watch):
    """Train, or print, what the arguments say. `watch` is the Watchdog of the world."""
    text = None
    with raise_together(world, InputError):
        check_caffe_flags(args)
        name_data_sets(args)
    if args.weights and os.path.isdir(args.weights):
        args.weights_run = args.weights  # its snapshots may be anywhere
    args.weights = read_once(world, lambda: args.weights and weights_of(args.weights, tell))
    config = read_once(world, lambda: Config.read(args.config) if args.config else Config())
    with raise_together(world, InputError):
        args.recipe = args.recipe or config.name
        check_recipe_flags(args)
        files = SolverFiles.read(args.solver) if args.solver else None
    printing = args.print_solver or args.print_net
    data, origin = read_once(world, lambda: inputs(args, files or (printing and args.recipe != photos.NAME)))
    with raise_together(world, InputError):
        choice = Choice(args, config, files, data, origin)
        recipe = choice.recipe(world.size)
        args.precision = recipe.precision
        if printing:
            text = printed(args, recipe, files)
    if text is None:
        folder = RunFolder(args.run_dir or f"runs/{recipe.name}")
        held = nullcontext() if args.dry_run else holding(folder, args.resume, world)
        need = naming_need(recipe, args.threads or 1) if args.kernels == "fast" else nullcontext()
        with Stop(args.time_limit, world.rank).catching() as stop, held as hold, need:
            train(args, world, recipe, choice, folder, stop, hold, watch)
    elif world.rank == 0:
        print(text, end="")


def inputs(args, no_data):
    """(RunData, Origin of the weights to start from) that a recipe depends on, each None if there is none."""
    most = None if args.recipe == photos.NAME else MOST
    data = None if no_data or not args.train_data else RunData.read(args.train_data, args.val_data, most)
    return data, origin_of(args)


def expect_data(args):
    if not args.train_data:
        raise InputError("--data: found none, nor --train-data, expected a folder that bin/make_lmdb has made")


def train(args, world, recipe, choice, folder, stop, hold, watch):
    """Train `recipe`, the result of a Choice, in a RunFolder. `stop` is a Stop, `hold` as from `ending.holding`,
    `watch` the Watchdog of the world.
    """
    files = choice.files
    with raise_together(world, InputError):
        phases = [recipe.phase(name).name for name in args.phase.split(",")] if args.phase else None
        if files:
            recipe = files.to_run(recipe, args)
        args.seed = seed_of(args, files)
        check_flags(args)
        train_data = LmdbDataset(args.train_data, recipe.classes)
        val_data = LmdbDataset(args.val_data, recipe.classes) if args.val_data else None
        begins = world.rank == 0 and not args.dry_run
        notes = [*(files.lines() if files else ()), *(prepare_snapshots(recipe) if begins else ())]
    agree_on_files(world, solver=files and files.content(), train_data=train_data, val_data=val_data)
    data = choice.data or read_once(world, lambda: data_of_solver(args, recipe, files))
    phases = phases or [phase.name for phase in recipe.phases]
    ready = kernels_and_cores(args, world, recipe, args.comm_threads)
    if args.kernels == "fast":
        expect_memory(recipe, ready.cores.threads, world)
    expect_known_sum(world, int(args.bucket_mib * 2**20), value_bytes(recipe))
    network = ResNet.of(recipe, ready.ops, np.dtype(args.dtype))
    network.arena.initialise(args.seed)
    hosts = hosts_of(world, ready, recipe)
    if args.dry_run:
        head = [*choice.lines, *notes, *beginning(recipe, data, hosts, None)]
        sizes = len(train_data), len(val_data or ())
        return dry_run(recipe, phases, args, network, ready.cores.threads, sizes, folder.path, world, head)
    sets = {flag: dataset for flag, dataset in (("train_data", train_data), ("val_data", val_data)) if dataset}
    identity, newest = find_snapshot(args, folder, recipe, network.arena, world)
    resumed, tests, log = begin_run(args, world, recipe, phases, folder, network, hosts, [*choice.lines, *notes],
                                    (data.names, sets, identity, newest))  # fmt: skip
    for line in beginning(recipe, data, hosts, resumed):
        log.say(line)
    kept = keep_snapshots(args, identity, network.arena, world, ready.decode_initializer, log.say)
    with kept as snapshots:
        trainer = Trainer(recipe, network, watch.watched_data(train_data), watch.watched_data(val_data),
                          folder.checkpoints, world, log, args.seed,
                          options_of(args, ready, world), stop.wanted, tests, snapshots, watch,
                          partial(log_again, args, recipe, folder, hold))  # fmt: skip
        last = trainer.run(phases, args.iterations, resumed, partial(finish, trainer, folder))
    end(trainer, last, folder, stop)


def seed_of(args, files):
    """That of --seed, of the solver file, or 0."""
    return args.seed if args.seed is not None else (files.solver.seed if files else None) or 0


def hosts_of(world, ready, recipe):
    """What runs where: an entry for each rank. All ranks call it."""
    workers = worker_range(recipe.workers, world.rank, world.size)
    return world.allgather({"host": world.host, "rank": world.rank, **ready.cores.table(), "workers": list(workers)})


def options_of(args, ready, world):
    """The Options, from the flags and this rank's cores. All ranks call it."""
    return Options(
        decode_threads=args.decode_threads or ready.cores.threads, decode_initializer=ready.decode_initializer,
        comm_threads=max(1, min(world.allgather(len(ready.cores.communication)))),
        comm_initializers=ready.comm_initializers, max_bad_records=args.max_bad_records,
        check_every=args.check_every, bucket_bytes=int(args.bucket_mib * 2**20), reproducible=args.reproducible,
        compress=args.compress == "bf16", keep=args.keep, early_stop=args.early_stop)  # fmt: skip


def data_of_solver(args, recipe, files):
    """The RunData of a solver's run. Raises InputError unless it has as many classes as the net file."""
    data = RunData.read(args.train_data, args.val_data)
    data.expect_classes(recipe.classes, "--classes" if args.classes else files.net_path)
    return data


def begin_run(args, world, recipe, phases, folder, network, hosts, notes, data):
    """On rank 0, describe the run in its folder and load the weights to start from. Returns (the Checkpoint that the
    run continues from, or None; the Tests that it has made; the Log) on all ranks. `data` are the names of the classes,
    or None, {name of the argument: LmdbDataset}, the run's identity, and its Newest snapshot or None.
    """
    resumed, tests, log = None, [], Log(None)
    names, sets, identity, newest = data
    cpu = instructions(recipe)
    mixed = agree_on_cpus(world, cpu, args.reproducible)
    with raise_together(world, InputError):
        if world.rank == 0:
            facts = {flag: data_facts(dataset) for flag, dataset in sets.items()}
            made_with = versions(world.library, **cpu)
            resumed, lines = load_start(args, recipe, phases, folder, network.arena, names, facts, newest, made_with)
            caffe = caffe_log(args, recipe, args.resume)
            folder.describe(recipe, hosts, vars(args), made_with, names, facts, identity)
            tests = read_tests(folder.metrics)
            log = make_log(args, recipe, folder, caffe)
            for line in [*notes, *mixed, *lines]:
                log.say(line)
    resumed, tests = world.bcast((resumed, tests))
    if resumed and resumed.unsaved:
        newest.fill()
    return resumed, tests, log


def caffe_log(args, recipe, resume):
    """The CaffeLog of --caffe-log, or None."""
    return CaffeLog(open_log(args.caffe_log, resume), recipe.architecture.name) if args.caffe_log else None


def make_log(args, recipe, folder, caffe):
    """Rank 0's Log of the run in a RunFolder."""
    writers = [CsvWriter(folder.metrics)] if args.csv else []
    writers += [TensorBoardWriter(folder.metrics, recipe.phases)] if args.tensorboard else []
    return Log(folder.path, None, caffe, writers)


def log_again(args, recipe, folder, hold, place, tested, lines):
    """As `take_over` of a Trainer: hold the RunFolder, and make the Log of a run that goes on at a Checkpoint."""
    if hold(args.stall_timeout / 2 or float("inf")):  # the others wait meanwhile
        folder.clear_temporary(recipe)
    forget_after(folder.metrics, place, [phase.name for phase in recipe.phases], lines, tested)
    return make_log(args, recipe, folder, caffe_log(args, recipe, True))


def check_flags(args):
    """Raise InputError for values that make no sense, alone or together."""
    expect_at_least(args, 1, "iterations", "decode_threads", "keep", "early_stop")
    if args.early_stop and not args.val_data:
        raise InputError("--early-stop: expected only together with --val-data: it counts tests")
    expect_at_least(args, 0, "seed", "max_bad_records", "check_every", "stall_timeout")
    if args.dtype == "float64" and args.kernels == "fast":
        raise InputError(
            "--dtype: found float64, expected float32 with the fast kernels; float64 needs --kernels numpy"
        )
    if args.dtype == "float64" and args.precision == "bf16":
        raise InputError("--dtype: found float64 together with --precision bf16, expected one of them")
    expect_positive(args, "bucket_mib")
    if args.compress != "none" and args.reproducible:
        raise InputError(f"--compress: found {args.compress} together with --reproducible, expected one of them")
    expect_data(args)
