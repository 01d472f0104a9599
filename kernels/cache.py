"""Where compiled kernels are kept on disk. Importing this tells Numba, so it comes before anything is compiled."""

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numba
from llvmlite.binding import get_host_cpu_name

ROOM = 32 << 20  # bytes that must be free; all kernels take about 10 MB
SHARED_MEMORY = "/dev/shm"  # the last choice: it is gone when the host starts again


class NoCacheError(Exception):
    """There is no folder for compiled kernels."""

    exit_status = 1


def cache_folder():
    """The folder (a Path) of compiled kernels: below `NPTRAIN_CACHE`, or else below the user's cache folder. Each kind
    of CPU, set of versions and state of the kernels' sources has a folder of its own. Raises RuntimeError for a user
    without a home.
    """
    base = os.environ.get("NPTRAIN_CACHE")
    if not base:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nptrain"
    return Path(base) / _name()


def usable_folder():
    """`cache_folder()`, or if that cannot be written, a temporary folder with a copy of what is in it. Returns (the
    folder, None or a line that says so). Raises NoCacheError.

    Numba itself would write beside the sources then, or end with a traceback.
    """
    wanted = "no home folder"
    try:
        wanted = Path(numba.config.CACHE_DIR or cache_folder())  # NUMBA_CACHE_DIR, if it is set, has precedence
        problem = _problem(wanted)
        if problem is None:
            return wanted, None
    except RuntimeError:
        problem = "HOME is not set"
    for base in _temporary():
        folder = base / _name()
        if isinstance(wanted, Path) and not any(folder.glob("*")):
            _copy(wanted, folder)
        if _problem(folder) is None:
            return folder, f"compiled kernels go to {folder}: {wanted}: {problem} (NPTRAIN_CACHE names another folder)"
    raise NoCacheError(f"no folder for compiled kernels: {wanted}: {problem}; expected one in NPTRAIN_CACHE that can "
                       f"be written, with {ROOM >> 20} MiB")  # fmt: skip


def _name():
    cpu = os.environ.get("NUMBA_CPU_NAME") or get_host_cpu_name()
    key = hashlib.sha256(os.environ.get("NUMBA_CPU_FEATURES", "").encode())
    for package in ("numba", "llvmlite", "numpy"):
        key.update(importlib.metadata.version(package).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):  # Numba itself looks at the file of the caller alone
        key.update(source.read_bytes())
    return f"{cpu}-{key.hexdigest()[:16]}"


def _problem(folder):
    """Why kernels cannot be kept in a folder, which is made if it is missing; None if they can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
        free = os.statvfs(folder)
    except OSError as error:
        return error.strerror
    return None if free.f_bavail * free.f_frsize >= ROOM else f"less than {ROOM >> 20} MiB are free"


def _temporary():
    """Folders for temporary files that belong to this user alone: nobody else can put kernels there."""
    with suppress(OSError):  # no folder for temporary files can be written
        yield _own(Path(tempfile.gettempdir()))
    with suppress(OSError):
        yield _own(Path(SHARED_MEMORY))


def _own(base):
    folder = base / f"nptrain-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="nptrain-", dir=base))
    return folder


def _copy(old, new):
    """Copy a cache, completely or not at all: other ranks may do the same at this moment."""
    with suppress(OSError, shutil.Error):
        part = tempfile.mkdtemp(dir=new.parent)
        try:
            shutil.copytree(old, part, dirs_exist_ok=True)
            os.rename(part, new)
        finally:
            shutil.rmtree(part, ignore_errors=True)


folder, note = usable_folder()
numba.config.CACHE_DIR = str(folder)
