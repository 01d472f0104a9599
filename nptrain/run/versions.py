"""What a run is made with: versions and sources. A run that goes on with others may have other bits."""

import hashlib
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from nptrain.errors import InputError

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("numpy", "numba", "llvmlite", "mpi4py", "lmdb", "pillow", "protobuf")
# the parts of the project that the numbers of a run depend on
SOURCES = ("kernels", *(f"nptrain/{name}" for name in (
    "data", "network", "recipes", "reduction", "step.py", "train.py", "update.py")))  # fmt: skip
# what gives other bits if it is another, and how messages call it
OTHER_BITS = {"sources": "the sources of kernels and trainer", "instructions": "the CPU's instruction set",
              "products": "the CPU's products of bf16",
              **{name: name for name in ("numpy", "numba", "llvmlite", "pillow")}}  # fmt: skip


def versions(library, **instructions):
    """{what: text} that a run is made with: Python, packages, MPI's `library`, the CPU's `instructions` and `products`
    that kernels use, a digest of the sources that compute, and the commit of this project, or None.
    """
    try:
        commit = subprocess.run(["git", "-C", PROJECT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        commit = commit.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {**package_versions(), "mpi": library, **instructions, "sources": _digest(), "commit": commit}


def package_versions():
    """{name: version} of Python and of the packages that results may depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _digest():
    """A digest of SOURCES."""
    found = hashlib.sha256()
    for place in (PROJECT / name for name in SOURCES):
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            found.update(f"{path.relative_to(PROJECT)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def expect_made_with(before, now, run, allowed):
    """Lines that say what a run in the folder `run` goes on with that it was not made with; both are results of
    `versions`, of which what is missing or None is not compared. Raises InputError if that gives other bits, unless it
    is `allowed`.
    """
    others = {name: (was, now[name]) for name, was in before.items() if was and now.get(name) and now[name] != was}
    bits = {name: others[name] for name in OTHER_BITS if name in others}
    if bits and not allowed:
        commits = " and ".join(f"{text} {each['commit'][:10]}" for text, each in (("found commit", now), (
            "the run's is", before)) if "sources" in bits and each.get("commit"))  # fmt: skip
        found = "; ".join(f"{OTHER_BITS[name]}: found {is_now}, expected {was}" for name, (was, is_now) in bits.items())
        raise InputError(f"--resume: the run in {run} would go on with other bits: {found}"
                         f"{f' ({commits})' if commits else ''}; --allow-other-bits goes on all the same")  # fmt: skip
    return [f"{OTHER_BITS.get(name, name)}: {is_now} from here on; the run had {was}"
            for name, (was, is_now) in others.items()]  # fmt: skip
