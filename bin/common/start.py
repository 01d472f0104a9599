"""What a run starts from: new weights, given weights, a snapshot of Caffe's, or its own newest checkpoint."""

import os

from bin.common.data_sets import expect_same_classes
from bin.common.weights import SCORING, Origin, skipped_layers
from mpi.agree import raise_together
from nptrain.caffe.model import read_caffemodel, unmerged
from nptrain.data.classes import first_difference
from nptrain.errors import InputError, printable, within
from nptrain.recipes.changes import HEAD
from nptrain.run.checkpoint import (
    Checkpoint,
    expect_manifests,
    fill_arena,
    latest,
    load,
    load_snapshot,
    load_start_of,
    progress_of,
)
from nptrain.run.metrics import forget_after, set_aside
from nptrain.run.run_folder import RunFolder, classes_of, recipe_of

OF_A_START = ("resume", "run_dir", "time_limit", "dry_run", "allow_other_bits")  # arguments that are not the run's
RECIPE_FLAGS = ("depth", "crop_size", "precision", "workers", "batch_size", "classes")  # fields that have a flag
# flags that change results, apart from those of the recipe
CHANGE_BITS = ("kernels", "precision", "dtype", "winograd", "reproducible", "compress")


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
    kept["assignments"] = [text for text in kept.get("assignments") or [] if not _is_told(args, text)]
    parser.set_defaults(**kept)
    again = parser.parse_silently(argv)
    again.run_dir, again.resume = args.resume, True
    return again


def _is_told(args, assignment):
    """Whether a flag that is given now sets the field of a FIELD=VALUE of an earlier start, which would win."""
    field = assignment.partition("=")[0]
    return field in RECIPE_FLAGS and getattr(args, field) is not None


def load_start(args, recipe, phases, folder, arena, names=None, data=None, newest=None,
               versions=None):  # fmt: skip
    """Fill the arena with what the run in `folder`, a RunFolder, starts from. Returns (the Checkpoint that the run
    continues from, or None; lines for the log). Raises InputError before anything is changed. `names` are those of the
    data's classes, or None; `data` describes the data sets (`RunFolder.describe`). `newest` is the run's Newest
    snapshot, or None; if the Checkpoint is unsaved, it is that one, and the arena is as it was. `versions` are those of
    this process (`versions.versions`).
    """
    if not args.resume:
        folder.expect_new()
        return _load_first(args, recipe, recipe.phase(phases[0]), folder, arena, names)
    expect_same_classes("the data", names, classes_of(folder.path), f"the run in {folder.path}")
    arguments = folder.expect_same(recipe, args.seed, data or {})
    for flag in ("weights", "weights_run", "snapshot"):
        setattr(args, flag, arguments.get(flag))
    lines = [f"--{flag}: {new} from here on; the run had {arguments[flag]}"
             for flag, new in vars(args).items()
             if flag in CHANGE_BITS and arguments.get(flag, new) != new]  # fmt: skip
    lines += folder.expect_made_with(versions or {}, args.allow_other_bits)
    checkpoint, names = _latest(recipe, folder, newest, lines), [phase.name for phase in recipe.phases]
    if checkpoint and checkpoint.unsaved:
        lines.append(f"goes on from the snapshot of phase {checkpoint.phase}, iteration {checkpoint.iteration}, on "
                     f"{newest.host}")  # fmt: skip
        if args.compress != "none":
            lines.append(f"--compress {args.compress}: what rounding had left over is lost: other bits from here on")
        lines += forget_after(folder.metrics, checkpoint, names, newest.snapshot.lines)
        return checkpoint, lines
    if checkpoint:
        checkpoint = load(checkpoint, arena)
        return checkpoint, lines + forget_after(folder.metrics, checkpoint, names)
    checkpoint, first_lines = _load_first(args, recipe, recipe.phase(phases[0]), folder, arena, names)
    lines += set_aside(folder.metrics)
    forget_after(folder.metrics, None, phases)  # an iteration that was being written
    return checkpoint, lines + first_lines


def _latest(recipe, folder, newest, lines):
    """The newest whole Checkpoint in a RunFolder, or an unsaved one if the Newest snapshot is newer; None if there is
    neither.
    """
    order = [phase.name for phase in recipe.phases]
    try:
        saved = latest(recipe, folder.checkpoints, lines.append)
        if not saved:
            expect_manifests(folder.checkpoints)
    except InputError as error:
        if not newest:
            raise
        saved = lines.append(str(error))
    if not newest:
        return saved
    phase, iteration = newest.snapshot.phase, newest.snapshot.iteration
    if saved and (order.index(saved.phase), saved.iteration) >= (order.index(phase), iteration):
        return saved
    prefix = recipe.phase(phase).snapshot_prefix
    return Checkpoint(folder.checkpoints, phase, iteration, newest.snapshot.progress, prefix, unsaved=True)


def files_of(weights):
    """The files that --weights names: one, or several with commas between them, as for `caffe train`."""
    return [weights] if os.path.exists(weights) else str(weights).split(",")


def origin_of(args):
    """The Origin of the weights that a run starts from; of a run that is resumed, what its recipe took from them. None
    if it starts from none.
    """
    if not args.resume:
        return Origin.of(files_of(args.weights), args.weights_run) if args.weights else None
    folder = RunFolder(args.run_dir or f"runs/{args.recipe}")
    recipe = recipe_of(folder.path) if args.recipe else None
    if not recipe or not folder.arguments().get("weights"):
        return None
    fields = {field: getattr(recipe, field) for field in SCORING}
    return Origin(folder.arguments()["weights"], fields, recipe.classes, None)


def load_given(paths, arena, classes, names, run=None):
    """Fill the arena with the weights in the files `paths`, to be trained on `classes` classes, which are called
    `names` (None: not known). `run` as in `Origin.of`. Returns lines for the log.

    The classifier keeps its new weights if that of the files is for other classes: in their number, or in their names.
    """
    where, blobs, lines = ",".join(map(str, paths)), {}, []
    for path in paths:
        blobs |= unmerged(read_caffemodel(path))
    head = next((values for name, _, values in arena.export() if name == HEAD), None)
    if head is not None:
        origin = Origin.of(paths, run)
        reason = other_classes(origin, classes, names)
        if reason:
            lines.append(f"{where}: {reason}: a new classifier is trained")
            blobs[HEAD] = head
        elif not (origin.names and names):
            unnamed = "the data" if origin.names else where
            lines.append(f"{where}: that its {classes} classes are those of the data is not checked: no names of "
                         f"classes in {unnamed}")  # fmt: skip
    return [*lines, *skipped_layers(where, fill_arena(arena, blobs, where))]


def other_classes(origin, classes, names):
    """Why the classifier of an Origin is not one for `classes` classes of these `names`, or None."""
    if origin.classes != classes:
        return f"it has {origin.classes or 'no'} classes, the data {classes}"
    difference = origin.names and names and first_difference(names, origin.names)
    if not difference:
        return None
    label, found, before = difference
    return f"its class {label} is {printable(before, 100)!r}, the data's {printable(found, 100)!r}"


def _load_first(args, recipe, phase, folder, arena, names):
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
        lines = load_given(files_of(args.weights), arena, recipe.classes, names, args.weights_run)
        return None, [f"phase {phase.name}: starts from the weights in {args.weights}", *lines]
    if phase is not recipe.phases[0]:
        return None, [f"phase {phase.name}: {load_start_of(phase, recipe, folder.checkpoints, arena)}"]
    return None, []
