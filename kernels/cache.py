"""Where compiled kernels are kept on disk. Importing this tells Numba, so it comes before anything is compiled."""

import hashlib
import importlib.metadata
import os
from pathlib import Path

import numba
from llvmlite.binding import get_host_cpu_name


def cache_folder():
    """The folder (a Path) of compiled kernels: below `NPTRAIN_CACHE`, or else below the user's cache folder. Each kind
    of CPU, set of versions and state of the kernels' sources has a folder of its own.
    """
    base = os.environ.get("NPTRAIN_CACHE")
    if not base:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nptrain"
    cpu = os.environ.get("NUMBA_CPU_NAME") or get_host_cpu_name()
    key = hashlib.sha256(os.environ.get("NUMBA_CPU_FEATURES", "").encode())
    for package in ("numba", "llvmlite", "numpy"):
        key.update(importlib.metadata.version(package).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):  # Numba itself looks at the file of the caller alone
        key.update(source.read_bytes())
    return Path(base) / f"{cpu}-{key.hexdigest()[:16]}"


if not numba.config.CACHE_DIR:  # NUMBA_CACHE_DIR, if it is set, has precedence
    numba.config.CACHE_DIR = str(cache_folder())
