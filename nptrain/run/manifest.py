"""The manifest of a checkpoint: what its files are, with their sizes and checksums, and a checksum of itself.

It is read as strictly as it is written, so that a changed bit is found in it as in the files.
"""

import hashlib
import json
from math import isfinite
from pathlib import Path

from nptrain.errors import InputError, reason
from nptrain.files import read_small, retried, write_small

FIELDS = {"phase": str, "iteration": int, "losses": list, "files": dict, "prefix": str, "sha256": str}
OPTIONAL = {"losses", "prefix", "sha256"}  # versions before this one wrote no losses, and no checksum


def write_manifest(path, entry, files):
    """Write `entry`, a dictionary of FIELDS, with sizes and checksums of `files`; replaced whole or not at all. Raises
    InputError if it cannot be written, OSError if the files cannot be read.
    """
    sizes = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}
    entry = {**entry, "files": sizes}
    write_small(path, json.dumps({**entry, "sha256": _own(entry)}, indent=2).encode() + b"\n")


def read_manifest(path):
    """The entry of a manifest. Raises InputError, in one line, where it is damaged or is no manifest."""
    path = Path(path)
    try:
        entry = json.loads(read_small(path), parse_constant=_refuse)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: damaged: not a manifest") from None
    problem = _problem(entry)
    if problem:
        raise InputError(f"{path}: damaged: {problem}")
    if path.name != f"phase{entry['phase']}_iter_{entry['iteration']}.json":
        raise InputError(f"{path}: damaged: it is of phase {entry['phase']}, iteration {entry['iteration']}")
    return entry


def _problem(entry):
    """What is wrong in a manifest's entry, or None."""
    if not isinstance(entry, dict):
        return "not a manifest"
    for name in (*FIELDS, *entry):
        if name not in FIELDS or (name not in entry and name not in OPTIONAL):
            return f"{name}: {'an unknown field' if name in entry else 'missing'}"
        if name in entry and type(entry[name]) is not FIELDS[name]:
            return f"{name}: not a value of its kind"
    if "sha256" in entry and entry["sha256"] != _own({k: v for k, v in entry.items() if k != "sha256"}):
        return "its checksum is another one"
    if entry["iteration"] < 0 or not all(type(x) is float and isfinite(x) for x in entry.get("losses", ())):
        return "numbers that it cannot have"
    kinds = sorted(name.rpartition(".")[2] for name in entry["files"])
    if kinds != ["caffemodel", "solverstate"]:
        return f"files: found {', '.join(entry['files']) or 'none'}, expected a .caffemodel and a .solverstate"
    for name, file in entry["files"].items():
        whole = isinstance(file, dict) and set(file) == {"bytes", "sha256"} and Path(name).name == name
        if not whole or type(file["bytes"]) is not int or type(file["sha256"]) is not str:
            return f"files: {name}: not a size and a checksum"
    return None


def _own(entry):
    """The checksum of a manifest's other fields."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def _refuse(constant):
    raise ValueError(constant)


def sha256(path):
    """The checksum of a file."""

    def read():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return retried(read, path)
