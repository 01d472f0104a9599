"""What a run starts from: new weights, given weights, a snapshot of Caffe's, or its own newest checkpoint."""

import os

from bin.common.weights import skipped_layers
from mpi.agree import raise_together
from nptrain.errors import InputError, within
from nptrain.run.checkpoint import (
    Checkpoint,
    latest,
    load,
    load_caffemodels,
    load_snapshot,
    load_start_of,
    progress_of,
)
from nptrain.run.metrics import forget_after
from nptrain.run.run_folder import RunFolder

OF_A_START = ("resume", "run_dir", "time_limit", "dry_run")  # arguments that are not the run's
# flags that change results, apart from those of the recipe
CHANGE_BITS = ("kernels", "dtype", "winograd", "reproducible", "compress")


def run_arguments(parser, argv, args, world):
    """With --resume RUN, the arguments of that run, and those that are given now in their place; otherwise `args`,
    which the parser found in `argv`. Raises AgreedError if there is no such run. All ranks call it.
    """
    if not isinstance(args.resume, str):
        return args
    before = {}
    with raise_together(world, InputError):
        if args.run_dir:
            raise InputError("--run-dir: found together with --resume RUN, expected one of them")
        if world.rank == 0:
            before = RunFolder(args.resume).arguments()
    kept = {name: value for name, value in world.bcast(before).items() if name in vars(args) and name not in OF_A_START}
    parser.set_defaults(**kept)
    again = parser.parse_silently(argv)
    again.run_dir, again.resume = args.resume, True
    return again


def load_start(args, recipe, phases, folder, arena, data):
    """Fill the arena with what the run in `folder`, a RunFolder, starts from. Returns (the Checkpoint that the run
    continues from, or None; lines for the log). Raises InputError before anything is changed. `data` describes the data
    sets (`RunFolder.describe`).
    """
    if not args.resume:
        folder.expect_new()
        return _load_first(args, recipe, recipe.phase(phases[0]), folder, arena)
    arguments = folder.expect_same(recipe, args.seed, data)
    args.weights, args.snapshot = arguments.get("weights"), arguments.get("snapshot")
    lines = [f"--{flag}: {new} from here on; the run had {arguments[flag]}"
             for flag, new in vars(args).items()
             if flag in CHANGE_BITS and arguments.get(flag, new) != new]  # fmt: skip
    checkpoint = latest(recipe, folder.checkpoints, lines.append)
    if checkpoint:
        checkpoint = load(checkpoint, arena)
        forget_after(folder.metrics, checkpoint, [phase.name for phase in recipe.phases])
        return checkpoint, lines
    forget_after(folder.metrics, None, phases)
    checkpoint, first_lines = _load_first(args, recipe, recipe.phase(phases[0]), folder, arena)
    return checkpoint, lines + first_lines


def files_of(weights):
    """The files that --weights names: one, or several with commas between them, as for `caffe train`."""
    return [weights] if os.path.exists(weights) else str(weights).split(",")


def _load_first(args, recipe, phase, folder, arena):
    """As `load_start`, for the first `phase` of a run that has no checkpoint."""
    if args.snapshot:
        state, model = load_snapshot(args.snapshot, arena)
        if state.iteration >= phase.max_iter:
            raise InputError(f"--snapshot: {args.snapshot} is at iteration {state.iteration}, expected less than "
                             f"max_iter ({phase.max_iter}) of phase {phase.name}")  # fmt: skip
        with within(args.snapshot):
            progress = progress_of(state, policy=phase.lr_policy)
        start = Checkpoint(folder.checkpoints, phase.name, state.iteration, progress)
        return start, [f"{args.snapshot}: iteration {state.iteration}, weights from {model}"]
    if args.weights:
        skipped = load_caffemodels(files_of(args.weights), arena)
        return None, [f"phase {phase.name}: starts from the weights in {args.weights}",
                      *skipped_layers(args.weights, skipped)]  # fmt: skip
    if phase is not recipe.phases[0]:
        return None, [f"phase {phase.name}: {load_start_of(phase, recipe, folder.checkpoints, arena)}"]
    return None, []
