"""Checkpoints: weights and momentum as Caffe's files, and a manifest with their sizes and checksums.

The files are phaseP_iter_N.caffemodel, .solverstate and .json. The last is the manifest, which is written last: without
it there is no checkpoint. If a phase has a snapshot_prefix, weights and momentum are PREFIX_iter_N, as Caffe names
them; the manifest is in the run's folder.
"""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from nptrain.caffe.model import read_caffemodel, unmerged, write_caffemodel
from nptrain.caffe.state import SolverState, read_solverstate, write_solverstate
from nptrain.errors import InputError
from nptrain.files import atomic_write
from nptrain.recipes.schedule import Progress


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, after `iteration` updates of `phase`. `progress` is the phase's Progress then, if the
    checkpoint was saved or loaded by this process, else None.
    """

    folder: Path
    phase: str
    iteration: int
    progress: Progress | None = None
    prefix: str | None = None

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


def save(folder, phase, iteration, arena, net, progress, prefix=None):
    """Write a checkpoint of the arena, the weights of the NetParameter `net`, and of the phase's Progress, whose last
    losses are in the manifest: Caffe's file has no field for them. Returns the Checkpoint.
    """
    saved = Checkpoint(Path(folder), phase, iteration, progress, prefix)
    saved.folder.mkdir(parents=True, exist_ok=True)
    saved.model.parent.mkdir(parents=True, exist_ok=True)
    write_caffemodel(saved.model, net, arena.export())
    learned_net = f"{prefix}_iter_{iteration}.caffemodel" if prefix else saved.model.name
    write_solverstate(saved.state, SolverState(
        iteration, learned_net, arena.export_history(),
        progress.current_step, progress.minimum_loss, progress.iter_last_event))  # fmt: skip
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in (saved.model, saved.state)}
    manifest = {"phase": phase, "iteration": iteration, "losses": progress.losses, "files": files}
    if prefix is not None:
        manifest["prefix"] = os.path.abspath(prefix)
    with atomic_write(saved.manifest) as file:
        file.write(json.dumps(manifest, indent=2).encode() + b"\n")
    return saved


def list_complete(folder, phases):
    """The checkpoints in a folder that have a manifest, in order of phase and iteration."""
    order = {phase: index for index, phase in enumerate(phases)}
    found = []
    for manifest in Path(folder).glob("phase*_iter_*.json"):
        try:
            checkpoint = from_manifest(manifest, json.loads(manifest.read_bytes()))
        except (ValueError, KeyError, TypeError):
            continue  # not a manifest
        if checkpoint.phase in order and checkpoint.manifest == manifest:
            found.append(checkpoint)
    return sorted(found, key=lambda c: (order[c.phase], c.iteration))


def from_manifest(path, entry):
    """The Checkpoint whose manifest is the file `path` with the content `entry`. Raises KeyError or TypeError if it is
    not a manifest.
    """
    return Checkpoint(Path(path).parent, entry["phase"], entry["iteration"], prefix=entry.get("prefix"))


def verify(checkpoint):
    """Compare a checkpoint's files with its manifest. Returns what is wrong, in one line, or None."""
    for name, expected in json.loads(checkpoint.manifest.read_bytes())["files"].items():
        path = checkpoint.model.parent / name
        if not path.is_file():
            return f"{path}: missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{path}: {path.stat().st_size} bytes, expected {expected['bytes']}"
        if _sha256(path) != expected["sha256"]:
            return f"{path}: its checksum is not the manifest's"
    return None


def load(checkpoint, arena):
    """Fill the arena with a checkpoint's weights, statistics and momentum. Returns it with its progress."""
    load_caffemodel(checkpoint.model, arena)
    state = read_solverstate(checkpoint.state)
    arena.load_history(state.history, checkpoint.state)
    losses = tuple(json.loads(checkpoint.manifest.read_bytes()).get("losses", ()))
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
    file of that name in the folder of the .solverstate. Returns (its SolverState, the path of the weights).
    """
    path, state = Path(path), read_solverstate(path)
    if not state.learned_net:
        raise InputError(f"{path}: found no learned_net, expected the name of a .caffemodel")
    named = Path(state.learned_net)
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
    names = [p.name for p in recipe.phases]
    previous = recipe.phases[names.index(phase.name) - 1]
    before, wanted = previous.name, previous.max_iter if phase.starts_from is None else phase.starts_from
    usable = [c for c in list_complete(folder, names) if c.phase == before and c.iteration <= wanted]
    if not usable:
        raise InputError(f"{folder}: no checkpoint of phase {before} at iteration {wanted}, where phase "
                         f"{phase.name} starts; give --weights or run phase {before}")  # fmt: skip
    chosen = usable[-1]
    problem = verify(chosen)
    if problem:
        raise InputError(problem)
    load_caffemodel(chosen.model, arena)
    note = "" if wanted == chosen.iteration else f" (the recipe says {wanted}, which this run did not reach)"
    return f"starts from the weights of phase {before} at iteration {chosen.iteration}{note}"


def latest(recipe, folder, say):
    """The newest checkpoint of a run whose files are complete, or None. Calls say(line) for each damaged one."""
    for candidate in reversed(list_complete(folder, [p.name for p in recipe.phases])):
        problem = verify(candidate)
        if problem is None:
            return candidate
        say(f"skipped a damaged checkpoint: {problem}")
    return None


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
