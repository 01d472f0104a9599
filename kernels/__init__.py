"""Numeric kernels on NumPy arrays: `fast` (Numba, blocked layout, float32) and `naive`, the NumPy twin
that defines each of them. They know shapes; no network, no files, no ranks.
"""

import hashlib
import importlib.metadata
import os
from pathlib import Path

import numba
from llvmlite.binding import get_host_cpu_name


def cache_folder():
    """Where compiled kernels are kept: in `NPTRAIN_CACHE`, or else the user's cache folder; for each kind of CPU, set
    of versions and state of the kernels' sources a folder of its own.
    """
    base = os.environ.get("NPTRAIN_CACHE")
    if not base:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nptrain"
    cpu = os.environ.get("NUMBA_CPU_NAME") or get_host_cpu_name()
    key = hashlib.sha256(os.environ.get("NUMBA_CPU_FEATURES", "").encode())
    for package in ("numba", "llvmlite", "numpy"):
        key.update(importlib.metadata.version(package).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):  # Numba looks at the calling file only, not at all
        key.update(source.read_bytes())
    return Path(base) / f"{cpu}-{key.hexdigest()[:16]}"


if not numba.config.CACHE_DIR:  # NUMBA_CACHE_DIR, which goes before
    numba.config.CACHE_DIR = str(cache_folder())
