"""How a run has ended: end.json, by which a supervisor knows that it is done, or that it cannot go on."""

import json
from contextlib import suppress
from pathlib import Path

from nptrain.errors import InputError
from nptrain.files import read_small, write_small, writing
from nptrain.run.checkpoint import of_manifest, verify

NAME = "end.json"


def write_end(folder, checkpoint=None, error=None):
    """Write that the run in a folder is done, with its last Checkpoint, None if it saved none; or by which error it has
    ended.
    """
    path, manifest = Path(folder) / NAME, checkpoint and str(checkpoint.manifest.relative_to(folder))
    write_small(path, json.dumps({"error": error} if error else {"manifest": manifest}).encode() + b"\n")


def forget_end(folder):
    """The run in a folder goes on, or begins anew."""
    path = Path(folder) / NAME
    with writing(path):
        path.unlink(missing_ok=True)


def stamp(folder):
    """What changes when a run in a folder ends; None if none has."""
    with suppress(OSError):
        found = (Path(folder) / NAME).stat()
        return found.st_ino, found.st_mtime_ns
    return None


def error_of(folder):
    """The error by which the run in a folder has ended, or None."""
    error = _read(folder).get("error")
    return error if isinstance(error, str) else None


def is_done(folder):
    """Whether the run in a folder is done, and its last checkpoint is whole."""
    entry = _read(folder)
    if "manifest" not in entry:
        return False
    with suppress(InputError, OSError, TypeError):
        return entry["manifest"] is None or verify(of_manifest(Path(folder) / entry["manifest"])) is None
    return False


def _read(folder):
    with suppress(OSError, ValueError, InputError):
        entry = json.loads(read_small(Path(folder) / NAME))
        return entry if isinstance(entry, dict) else {}
    return {}
