"""PyTorch in a process of its own, which computes only on request.

In our process, its threads would compete with ours, and its memory would be counted as ours.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from numba import get_num_threads

from nptrain.errors import InputError

PROJECT = Path(__file__).resolve().parents[2]
TORCH = "2.13.0"


def check_installed():
    """Raise InputError if PyTorch is missing."""
    if find_spec("torch") is None:
        raise InputError(f"--against torch: PyTorch is not installed: {pip()} install torch=={TORCH}")


class Rival:
    """PyTorch's training step or inference in `mode` "eager" or "compile", with as many threads as ours, in a
    `precision`, "float32" or "bf16" (autocast). A call runs it
    once and returns the seconds; `memory_mb` is then the peak memory of the process. A context manager. Raises
    InputError if PyTorch is missing or fails.

    group  environment variables by which processes that train together find each other (None: a single one)
    cores  cores that the process may use (None: those of the calling thread, which may be pinned to one)
    """

    def __init__(self, mode, training, batch, crop_size, precision="float32", group=None, cores=None):
        check_installed()
        self.mode, self.memory_mb = mode, None
        settings = {"mode": mode, "training": training, "batch": batch, "crop_size": crop_size, "precision": precision,
                    "ranks": group["WORLD_SIZE"] if group else 1, "threads": get_num_threads()}  # fmt: skip
        here = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores or here)  # the new process inherits it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nptrain.bench.torch_step", json.dumps(settings)], cwd=PROJECT,
            env={**os.environ, **{name: str(value) for name, value in (group or {}).items()}},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
        os.sched_setaffinity(0, here)

    def __call__(self):
        try:
            self._process.stdin.write("again\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline() or '{"error": "it ended without an answer"}')
        except BrokenPipeError:
            answer = {"error": "it has ended"}
        if "error" in answer:
            raise InputError(f"--against torch, mode {self.mode}: {answer['error']}")
        self.memory_mb = answer["memory_mb"]
        return answer["seconds"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._process.communicate(timeout=10)  # it ends when its input ends
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def pip():
    """The environment's pip, as a relative path if possible."""
    path = Path(sys.executable).with_name("pip")
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
