"""The folder of a run: run.json with the whole recipe, versions and hosts; metrics; checkpoints."""

import json
import os
import secrets
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from nptrain.errors import InputError, reason
from nptrain.files import clear_temporary, read_small, write_small, writing
from nptrain.recipes.recipe import from_dict, to_dict
from nptrain.run.end import forget_end
from nptrain.run.versions import expect_made_with

MOST = 64 << 20  # bytes of a run.json, which has a line for each of thousands of ranks
# arguments that name what a run reads
FILES = ("data", "train_data", "val_data", "weights", "weights_run", "snapshot", "config")


class RunFolder:
    """The paths of a run's files, and its description, run.json."""

    def __init__(self, path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.description = self.path / "run.json"

    @property
    def begun(self):
        """Whether a run in the folder has finished an iteration or a test."""
        return self.metrics.exists() and self.metrics.stat().st_size > 0

    def expect_new(self):
        """Raise InputError if the folder contains a run already; one that was never begun may be replaced."""
        if self.begun or (self.description.exists() and any(self.checkpoints.glob("*.json"))):
            raise InputError(
                f"--run-dir: {self.path} contains a run already; continue it with --resume or choose another"
            )

    def arguments(self):
        """The arguments of the run in the folder, paths by `found_from`. Raises InputError if there is none."""
        return self._read()["arguments"]

    def identity(self, resume):
        """The identity of the run in the folder, which its snapshots have; a new one for a new run."""
        known = self._read().get("id") if resume else None
        return known if isinstance(known, str) and known.isalnum() else secrets.token_hex(8)

    def _read(self):
        if not self.description.exists():
            raise InputError(f"--resume: {self.description} does not exist, expected a run to continue")
        with _expect_description(self.description):
            before = _read_json(self.description)
            given = before["arguments"]
            paths = {flag: found_from(before.get("directory"), given[flag]) for flag in FILES if given.get(flag)}
            return {"data": {}, **before, "recipe": from_dict(before["recipe"]),
                    "arguments": {**given, **paths, "seed": int(given["seed"])}}  # fmt: skip

    def expect_same(self, recipe, seed, data):
        """Raise InputError unless the folder contains a run of this recipe, seed and data, to be resumed. Returns the
        arguments with which it began. `data` is as in `describe`; data sets that the run did not have are not compared.
        """
        before = self._read()
        old, old_seed = to_dict(before["recipe"]), before["arguments"]["seed"]
        for flag, facts in data.items():
            was = before["data"].get(flag, facts)
            for name, found in facts.items():
                if was.get(name, found) != found:
                    raise InputError(f"--{flag.replace('_', '-')}: the {name}: found {found}, expected {was[name]}, as "
                                     f"in the run in {self.path}")  # fmt: skip
        if seed != old_seed:
            raise InputError(f"--seed: found {seed}, expected {old_seed}, as in the run in {self.path}")
        new = to_dict(recipe) | {"precision": old["precision"]}  # may change, as weights stay float32
        for field, (was, is_now) in _differences(old, new):
            raise InputError(f"{field}: found {is_now!r}, expected {was!r}, as in the run in {self.path}")
        return before["arguments"]

    def expect_made_with(self, versions, allowed):
        """Compare what this process is made with, `versions.versions`, with that of the run in the folder. Returns the
        lines, and raises what `versions.expect_made_with` does.
        """
        before = self._read().get("versions")
        return expect_made_with(before if isinstance(before, dict) else {}, versions, self.path, allowed)

    def describe(self, recipe, hosts, arguments, versions, classes=None, data=None, identity=None):
        """Write run.json. `versions` are those of `versions.versions`; `classes` are the names of the classes, None if
        the data have none; `data` is {name of the argument: {fact: value}} of the data sets; `identity` is that of the
        run.
        """
        entry = {"id": identity, "recipe": to_dict(recipe), "classes": classes, "data": data or {},
                 "arguments": arguments, "directory": os.getcwd(), "versions": versions,
                 "hosts": hosts}  # fmt: skip
        with writing(self.checkpoints):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        forget_end(self.path)
        self.clear_temporary(recipe)
        write_small(self.description, json.dumps(entry, indent=2).encode() + b"\n")

    def clear_temporary(self, recipe):
        """Remove what writers have left that died in the middle of a file; the lock keeps others away."""
        prefixes = [Path(phase.snapshot_prefix) for phase in recipe.phases if phase.snapshot_prefix]
        places = [
            (self.path, "*"),
            (self.checkpoints, "*"),
            *((p.parent, f"{escape(p.name)}_iter_*") for p in prefixes),
        ]
        self._remove_half()
        for folder, name in places:
            with writing(folder):
                clear_temporary(folder, name)

    def _remove_half(self):
        """Remove weights and states whose manifest was being written: what marks it as half goes, too."""
        for marker in self.checkpoints.glob(".phase*_iter_*.json.*.tmp"):
            name = marker.name[1:].partition(".json.")[0]
            with writing(self.checkpoints):
                if not (self.checkpoints / f"{name}.json").exists():
                    for suffix in ("caffemodel", "solverstate"):
                        (self.checkpoints / f"{name}.{suffix}").unlink(missing_ok=True)

    def discard_unused(self):
        """Remove the files of a run that was never begun, and their folder if it is empty then."""
        with suppress(OSError):
            if not self.begun:
                self.description.unlink(missing_ok=True)
                self.metrics.unlink(missing_ok=True)
                self.checkpoints.rmdir()


def found_from(directory, path):
    """Where the file or folder is that a run was given as `path`: in the working `directory` in which the run began
    (None: not known), if it is still there, else as the path says.
    """
    there = os.path.join(directory or "", path)
    return there if directory not in (None, os.getcwd()) and os.path.exists(there) else path


def recipe_of(path):
    """The recipe of the run in a folder, or None if there is no run."""
    description = RunFolder(path).description
    return recipe_in(description) if description.is_file() else None


def recipe_in(description):
    """The recipe in a run.json. Raises InputError if it cannot be read, or is none."""
    with _expect_description(description):
        return from_dict(_read_json(description)["recipe"])


def classes_of(path):
    """The names of the classes of the run in a folder; None if they have none, or there is no run."""
    description = RunFolder(path).description
    if not description.is_file():
        return None
    with _expect_description(description):
        names = _read_json(description).get("classes")
        if names is not None and not (names and all(isinstance(name, str) for name in names)):
            raise ValueError
        return names


def _read_json(description):
    return json.loads(read_small(description, MOST))


@contextmanager
def _expect_description(path):
    """Raise InputError for an exception of the block that means that `path` is not a run.json, or cannot be read."""
    try:
        yield
    except InputError as error:
        raise error if str(error).startswith(f"{path}: ") else InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: not the description of a run") from None


def _differences(old, new, prefix=""):
    """(dotted field, (old, new)) wherever two dictionaries differ."""
    for field in sorted({*old, *new}):
        a, b = old.get(field), new.get(field)
        if field == "phases" and a and b and len(a) == len(b):
            for p, q in zip(a, b, strict=True):
                yield from _differences(p, q, f"{q['name']}.")
        elif a != b and field not in ("description", "records"):
            yield prefix + field, (a, b)
