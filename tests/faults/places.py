"""Where a faulty run runs: on small disks, with little memory, on two hosts. Where a machine does not permit that,
NotPermitted says why.
"""

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from commands import MPIRUN, across
from hosts import TCP, on_node_a

from tests.faults.fault import NotPermitted

HOLD = """
while [ $# -gt 0 ]; do mount -t tmpfs -o size=$1 none "$2" || exit 1; shift 2; done
echo ready
read end
"""


def small_disk(size, where="run"):
    """A place: the case's folder `where`, or an absolute path, is a disk of its own of a size, as 40m, in memory."""

    @contextmanager
    def around(case):
        target = Path(where) if where.startswith("/") else case.folder / where
        if not where.startswith("/"):
            target.mkdir(exist_ok=True)
        with _holder([size, f"{target}/"]) as holder:
            case.outer = ["nsenter", "--target", holder.pid, "--user", "--preserve-credentials", "--mount",
                          f"--wd={case.folder}"]  # fmt: skip
            case.seen = Path(f"/proc/{holder.pid}/root{case.run_dir}")
            yield

    return around


@contextmanager
def _holder(words):
    """A process that holds a namespace with these mounts."""
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", HOLD, "sh", *map(str, words)]
    try:
        holder = subprocess.Popen(words, stdin=-1, stdout=-1, stderr=-1, text=True)
    except OSError as error:
        raise NotPermitted(f"unshare: {error.strerror}") from None
    with holder:
        if holder.stdout.readline() != "ready\n":
            raise NotPermitted(f"mount: {holder.stderr.read().strip()}")
        yield holder
        holder.stdin.close()


def in_shell(script):
    """A place: the launcher is started by a shell, which runs this script with its words as arguments."""

    @contextmanager
    def around(case):
        case.inner = ["bash", "-c", script, "bash"]
        yield

    return around


@contextmanager
def with_ulfm(case):
    """A place: Open MPI's ULFM, with which ranks survive others."""
    if not (MPIRUN.parent / "mpirun.openmpi").exists():
        raise NotPermitted("needs Open MPI")
    case.mode = ["--with-ft", "ulfm"]
    yield


def preloaded(source):
    """A place: a C library, compiled from this source, stands before the system's."""

    @contextmanager
    def around(case):
        library = case.folder / "preloaded.so"
        if not shutil.which("cc"):
            raise NotPermitted("no C compiler")
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-xc", "-", "-o", library, "-ldl"], input=source, text=True, check=True
        )
        case.inner = ["env", f"LD_PRELOAD={library}"]
        yield

    return around


@contextmanager
def two_hosts(case):
    """A place: a rank on each of two hosts."""
    tried = subprocess.run(on_node_a(case.folder, "true"), cwd=case.folder, capture_output=True, text=True, timeout=60)
    if tried.returncode:
        raise NotPermitted(f"namespaces: {tried.stderr.strip()}")
    (case.folder / "hosts").write_text("10.77.0.1\n10.77.0.2\n")
    case.outer = on_node_a(case.folder, "env", *(f"{name}={value}" for name, value in TCP.items()))
    case.launcher = [*case.launcher, *across("hosts", 1, case.folder / "remote")]
    yield


MEMORY = Path("/sys/fs/cgroup/memory")  # of cgroups, version 1; of version 2 it is one of the other paths
GROUPS = ((MEMORY, "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))


def little_memory(megabytes):
    """A place: the launcher and its ranks may have so much memory together; `case.limit` is the file that says so."""

    @contextmanager
    def around(case):
        group = None
        for root, name in GROUPS:
            try:
                group = root / f"nptrain-faults-{os.getpid()}"
                group.mkdir()
                case.limit = group / name
                case.limit.write_text(str(megabytes << 20))
                break
            except OSError as error:
                problem = error
                if group.is_dir():
                    group.rmdir()
        else:
            raise NotPermitted(f"cgroup: {problem.strerror}")
        case.inner = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
        try:
            yield
        finally:
            case.kill()
            _remove(group)

    return around


def _remove(group):
    """Remove a control group, as soon as its processes have ended."""
    end = time.monotonic() + 30
    while True:
        try:
            return group.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
