"""A training that bin/supervise runs: its command line, and one attempt at it."""

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from mpi.mpirun import TWICE, Launcher
from nptrain.errors import InputError, reason
from nptrain.run.run_folder import RunFolder

TAIL = 1 << 15  # bytes of the end of its errors that are kept
GRACE = 30  # s that a launcher has to end after a rank has said that it has stalled
LOOK = 0.5  # s between looks at which processes there are
STALLED = b"train: stalled: "
PR_SET_CHILD_SUBREAPER = 36  # of <linux/prctl.h>


class Command:
    """The words of a launcher with bin/train; `folder` is that of the run. Raises InputError if they are another's."""

    def __init__(self, words):
        words = words[1:] if words[:1] == ["--"] else words
        at = next((at for at, word in enumerate(words) if Path(word).name == "train"), None)
        if at is None:
            raise InputError("-- COMMAND: found no bin/train, expected one, with its launcher before it")
        self.launcher, self.train = words[: at + 1], words[at + 1 :]
        folder = self._value("--resume") or self._value("--run-dir")
        if not folder and self._value("--recipe"):
            folder = f"runs/{self._value('--recipe')}"
        if not folder:
            raise InputError("--run-dir: found none, expected the folder of the run, which is looked at here")
        self.folder = Path(folder)

    def _value(self, flag):
        """What follows a flag, or None."""
        for word, after in zip(self.train, [*self.train[1:], "--"], strict=True):
            if word.startswith(f"{flag}="):
                return word.partition("=")[2]
            if word == flag and not after.startswith("-"):
                return after
        return None

    def words(self, resume=False):
        """The words to start it, with snapshots; with `resume`, to go on with what there is."""
        given, more = {word.partition("=")[0] for word in self.train}, []
        if "--snapshot-folder" not in given:
            more.append("--snapshot-folder")
        description = RunFolder(self.folder).description
        if resume and "--resume" not in given and description.exists():
            more.append("--resume")
        return [*self.launcher, *self.train, *more]


class Attempt:
    """One start of these words. `tail` is the end of what they wrote to their standard error, which is passed on, and
    `signals` are those that were passed on; `why` says why it was killed here, or is None. Raises InputError if it
    cannot be started.
    """

    def __init__(self, words):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the launcher become children of this process
        self.tail, self.why, self._others = b"", None, descendants()
        try:
            self.launcher = Launcher(words, stderr=-1)  # subprocess.PIPE
        except OSError as error:
            raise InputError(f"{words[0]}: cannot be started: {reason(error)}") from None
        self._seen = descendants()
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    @property
    def signals(self):
        return self.launcher.signals

    def _pass_on(self):
        pipe = self.launcher.process.stderr.fileno()
        while chunk := os.read(pipe, 1 << 16):
            self.tail = (self.tail + chunk)[-TAIL:]
            with suppress(OSError):
                os.write(sys.__stderr__.fileno(), chunk)

    def wait(self, folder, stall):
        """Wait for the end, and end what is left on this host. It is killed after `stall` seconds without a new line in
        the metrics of the run in a folder (0: never), after a rank has said that it has stalled, and after a second
        SIGINT. Returns the exit status.
        """
        metrics, size, since, told = RunFolder(folder).metrics, None, time.monotonic(), None
        looked = since
        while self.launcher.process.poll() is None:
            time.sleep(0.05)
            now, found = time.monotonic(), metrics.stat().st_size if metrics.exists() else 0
            if now - looked > LOOK:
                self._seen, looked = self._seen | descendants(), now
            if found != size:
                size, since = found, now
            told = told or (now if STALLED in self.tail else None)
            if stall and now - since > stall:
                self.why = f"nothing was logged for {stall} s"
            if self.why or (told and now - told > GRACE) or self._interrupted_twice():
                self.launcher.process.kill()
        self._end_orphans()
        for pid in self._seen - self._others:  # what an Open MPI that was killed has left
            shutil.rmtree(Path(tempfile.gettempdir(), f"ompi.{pid}"), ignore_errors=True)
        self._reader.join(5)
        if self.tail and not self.tail.endswith(b"\n"):  # what follows begins on a line of its own
            with suppress(OSError):
                os.write(sys.__stderr__.fileno(), b"\n")
        return self.launcher.status()

    def _interrupted_twice(self):
        moments = [at for number, at in self.signals if number == signal.SIGINT]
        return moments and moments[-1] - moments[0] > TWICE

    def rest(self, seconds):
        """Wait, but not longer than until a signal comes. Returns whether none came."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.signals:
            time.sleep(0.05)
        return not self.signals

    def _end_orphans(self):
        """Kill what the launcher has left: a rank that lives would hold the run's folder."""
        end = time.monotonic() + 10
        while (left := descendants() - self._others) and time.monotonic() < end:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)


def descendants():
    """The process ids below this one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, new = set(), {os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new}
        found |= new
    return found
