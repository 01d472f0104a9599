"""Checkpoints: weights and momentum as Caffe's files, and a manifest with their sizes and checksums.

The files are phaseP_iter_N.caffemodel, .solverstate and .json. The last is the manifest, which is written last: without
it there is no checkpoint. If a phase has a snapshot_prefix, weights and momentum are PREFIX_iter_N, as Caffe names
them; the manifest is in the run's folder.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

from nptrain.caffe.model import read_caffemodel, unmerged, weights_into
from nptrain.caffe.state import SolverState, read_solverstate, state_into
from nptrain.errors import InputError, counted
from nptrain.files import atomic_write, temporary_of, writing
from nptrain.recipes.schedule import Progress
from nptrain.run.manifest import read_manifest, sha256, write_manifest


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, after `iteration` updates of `phase`. `progress` is the phase's Progress then, if the
    checkpoint was saved or loaded by this process, else None. An `unsaved` one was a mapped snapshot: its files may be
    missing.
    """

    folder: Path
    phase: str
    iteration: int
    progress: Progress | None = None
    prefix: str | None = None
    unsaved: bool = False

    @property
    def stem(self):
        return f"phase{self.phase}_iter_{self.iteration}"

    @property
    def model(self):
        return self._file("caffemodel")

    @property
    def state(self):
        return self._file("solverstate")

    def _file(self, kind):
        if self.prefix is None:
            return self.folder / f"{self.stem}.{kind}"
        return Path(f"{self.prefix}_iter_{self.iteration}.{kind}")

    @property
    def manifest(self):
        return self.folder / f"{self.stem}.json"


def save(folder, phase, iteration, arena, net, progress, prefix=None, copied=lambda: None):
    """Write a checkpoint of the arena, the weights of the NetParameter `net`, and of the phase's Progress, whose last
    losses are in the manifest: Caffe's file has no field for them. `folder` is made, but not the one above it. Calls
    copied() when the arena may change again, as the system has all of it. Returns the Checkpoint. Raises InputError if
    a file cannot be written; then none of them is left.
    """
    saved = Checkpoint(Path(folder), phase, iteration, progress, prefix)
    try:
        _write(saved, arena, net, copied)
    except InputError:
        ours = () if saved.manifest.exists() else (saved.model, saved.state)
        for path in (temporary_of(saved.manifest), *ours):
            with suppress(OSError):
                path.unlink()
        raise
    return saved


def _write(saved, arena, net, copied):
    phase, iteration, progress, prefix = saved.phase, saved.iteration, saved.progress, saved.prefix
    with writing(saved.model):
        saved.folder.mkdir(exist_ok=True)  # without the run's folder, should that be gone
        saved.model.parent.mkdir(parents=True, exist_ok=True)
        temporary_of(saved.manifest).touch()  # after a death, files without a manifest are known as half a checkpoint
    learned_net = f"{prefix}_iter_{iteration}.caffemodel" if prefix else saved.model.name
    with (writing(saved.model), atomic_write(saved.model) as model,
          writing(saved.state), atomic_write(saved.state) as state):  # fmt: skip
        with writing(saved.model):
            weights_into(model, net, arena.export())
        state_into(state, SolverState(
            iteration, learned_net, arena.export_history(),
            progress.current_step, progress.minimum_loss, progress.iter_last_event))  # fmt: skip
        copied()  # what takes longest comes now: that the disk has it
    entry = {"phase": phase, "iteration": iteration, "losses": list(progress.losses)}
    if prefix is not None:
        entry["prefix"] = os.path.abspath(prefix)
    with writing(saved.manifest):
        write_manifest(saved.manifest, entry, (saved.model, saved.state))


def list_complete(folder, phases, say=lambda line: None):
    """The checkpoints in a folder that have a whole manifest, in order of phase and iteration. Calls say(line) for each
    manifest that is damaged.
    """
    order = {phase: index for index, phase in enumerate(phases)}
    found = []
    for manifest in sorted(Path(folder).glob("phase*_iter_*.json")):
        try:
            checkpoint = of_manifest(manifest)
        except InputError as error:
            say(f"skipped a damaged checkpoint: {error}")
            continue
        if checkpoint.phase in order:
            found.append(checkpoint)
    return sorted(found, key=lambda c: (order[c.phase], c.iteration))


def of_manifest(path):
    """The Checkpoint of a manifest. Raises InputError where it is damaged."""
    entry = read_manifest(path)
    return Checkpoint(Path(path).parent, entry["phase"], entry["iteration"], prefix=entry.get("prefix"))


def verify(checkpoint):
    """Compare a checkpoint's files with its manifest. Returns what is wrong, in one line, or None."""
    try:
        files = read_manifest(checkpoint.manifest)["files"]
    except InputError as error:
        return str(error)
    if files.keys() != {checkpoint.model.name, checkpoint.state.name}:
        return f"{checkpoint.manifest}: files: found {', '.join(files)}, expected those of the checkpoint"
    for path in (checkpoint.model, checkpoint.state):
        expected = files[path.name]
        if not path.is_file():
            return f"{path}: missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{path}: {path.stat().st_size} bytes, expected {expected['bytes']}"
        if sha256(path) != expected["sha256"]:
            return f"{path}: its checksum is not the manifest's"
    return None


def load(checkpoint, arena):
    """Fill the arena with a checkpoint's weights, statistics and momentum. Returns it with its progress."""
    load_caffemodel(checkpoint.model, arena)
    state = read_solverstate(checkpoint.state)
    arena.load_history(state.history, checkpoint.state)
    losses = tuple(read_manifest(checkpoint.manifest).get("losses", ()))
    return replace(checkpoint, progress=progress_of(state, losses))


def progress_of(state, losses=(), policy="plateau"):
    """The Progress in a SolverState; without `losses` the smoothed loss starts again, as in Caffe. Only plateau uses
    minimum_loss and iter_last_event: for another policy they are left out, as the original does not initialise the
    latter. Raises InputError if plateau cannot use it.
    """
    if policy != "plateau":
        return Progress(losses, state.current_step)
    if state.iter_last_event < 0:
        raise InputError(
            f"iter_last_event: found {state.iter_last_event}, expected 0 or more, as lr_policy is 'plateau'"
        )
    return Progress(losses, state.current_step, state.minimum_loss, state.iter_last_event)


def load_snapshot(path, arena):
    """Fill the arena from a .solverstate, Caffe's or ours, and the weights that its learned_net names: that path, or a
    file of that name in the folder of the .solverstate. A path may have the backslashes of Windows. Returns (its
    SolverState, the path of the weights).
    """
    path, state = Path(path), read_solverstate(path)
    if not state.learned_net:
        raise InputError(f"{path}: found no learned_net, expected the name of a .caffemodel")
    named = Path(state.learned_net)
    if not named.exists():
        named = Path(state.learned_net.replace("\\", "/"))
    tried = list(dict.fromkeys((named, path.parent / named.name)))
    model = next((file for file in tried if file.is_file()), None)
    if model is None:
        raise InputError(f"{path}: learned_net: found none of {', '.join(map(str, tried))}, expected a .caffemodel")
    load_caffemodel(model, arena)
    arena.load_history(state.history, path)
    return state, model


def fill_arena(arena, blobs, where):
    """Fill the arena with {layer: blobs} from the file `where`. Returns the names of layers that the network does not
    have; they are skipped. Raises InputError if a layer of the network is missing.
    """
    missing, extra = arena.load(unmerged(blobs), where)
    if missing:
        raise InputError(f"{where}: no layer {missing[0]} ({len(missing)} of the network's layers are missing)")
    return extra


def load_caffemodel(path, arena):
    """Fill the arena with the weights and statistics of a .caffemodel. Returns and raises what `fill_arena` does."""
    return fill_arena(arena, read_caffemodel(path), path)


def load_start_of(phase, recipe, folder, arena):
    """Load the weights that a phase of the recipe starts from: the checkpoint of the phase before at the recipe's
    iteration or, if a shortened run did not reach it, the newest one before it. Returns a line that names it. Raises
    InputError if there is none, or if it is damaged.
    """
    before, wanted = _start_of(phase, recipe)
    usable = _usable(list_complete(folder, [p.name for p in recipe.phases]), before, wanted)
    if not usable:
        raise InputError(f"{folder}: no checkpoint of phase {before} at iteration {wanted}, where phase "
                         f"{phase.name} starts; give --weights or run phase {before}")  # fmt: skip
    chosen = usable[-1]
    problem = verify(chosen)
    if problem:
        raise InputError(f"{problem}; phase {phase.name} starts from it: give --weights, or train phase {before} again "
                         "in another --run-dir")  # fmt: skip
    load_caffemodel(chosen.model, arena)
    note = "" if wanted == chosen.iteration else f" (the recipe says {wanted}, which this run did not reach)"
    return f"starts from the weights of phase {before} at iteration {chosen.iteration}{note}"


def starts_a_phase(recipe, phase, iteration):
    """Whether a phase of the recipe starts from the checkpoint of another one, `phase`, at an iteration."""
    starts = (_start_of(later, recipe) for later in recipe.phases[1:])
    return any(name == phase.name and 0 <= wanted - iteration < (phase.snapshot or phase.max_iter)
               for name, wanted in starts)  # fmt: skip


def _start_of(phase, recipe):
    """(name of the phase before, its iteration whose weights a phase starts from)."""
    previous = recipe.phases[[p.name for p in recipe.phases].index(phase.name) - 1]
    return previous.name, previous.max_iter if phase.starts_from is None else phase.starts_from


def _usable(checkpoints, phase, wanted):
    """Of these, those of a phase up to an iteration; its newest one is what the next phase starts from."""
    return [c for c in checkpoints if c.phase == phase and c.iteration <= wanted]


def remove_older(recipe, folder, keep, best):
    """Remove a run's checkpoints but for the newest `keep`, what a phase starts from, and that at `best`, (phase,
    iteration). Returns those that were removed. Raises InputError if a file cannot be removed.
    """
    checkpoints = list_complete(folder, [phase.name for phase in recipe.phases])
    kept = {*checkpoints[-keep:], *(c for c in checkpoints if (c.phase, c.iteration) == best)}
    for phase in recipe.phases[1:]:
        kept |= {*_usable(checkpoints, *_start_of(phase, recipe))[-1:]}
    removed = [c for c in checkpoints if c not in kept]
    for old in removed:
        for path in (old.manifest, old.model, old.state):  # without a manifest it is none any more
            with writing(path):
                path.unlink(missing_ok=True)
    return removed


def latest(recipe, folder, say):
    """The newest checkpoint of a run whose files are complete, or None if none was ever written. Calls say(line) for
    each damaged one. Raises InputError if there are checkpoints, and all are damaged.
    """
    damaged = []
    for candidate in reversed(list_complete(folder, [p.name for p in recipe.phases], damaged.append)):
        problem = verify(candidate)
        if problem is None:
            for line in damaged:
                say(line)
            return candidate
        damaged.append(f"skipped a damaged checkpoint: {problem}")
    if damaged:
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        first = damaged[0].partition(": ")[2]
        raise InputError(f"--resume: all checkpoints are damaged: {first}{more}; remove {folder} to begin anew, or "
                         "give another --run-dir")  # fmt: skip
    return None


def expect_manifests(folder):
    """Raise InputError if there are weights or states in a folder without their manifests, unless their writer died."""
    lost = _without_manifest(folder)
    if lost:
        more = f" and {counted(len(lost) - 1, 'other file')}" if len(lost) > 1 else ""
        raise InputError(f"{lost[0]}{more}: found no manifest, expected {lost[0].stem}.json: bring the manifests back; "
                         "or start in another --run-dir by --snapshot or --weights from such a file; or remove them to "
                         "begin anew")  # fmt: skip


def _without_manifest(folder):
    """The weights and states in a folder that have no manifest, newest first, without those whose writer has died."""
    found = []
    for path in Path(folder).glob("phase*_iter_*"):
        name = re.fullmatch(r"phase.+_iter_(\d+)\.(caffemodel|solverstate)", path.name)
        if name and not any(path.parent.glob(f".{escape(path.stem)}.json.*.tmp")):
            found.append((int(name[1]), path))
    return [path for _, path in sorted(found, reverse=True)]
