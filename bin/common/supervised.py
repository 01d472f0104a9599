"""A training that bin/supervise runs: its command line, and one attempt at it."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentTypeError
from contextlib import suppress
from pathlib import Path

from bin.common.ending import SUPERVISED, seconds
from bin.common.looks import Growth, look
from mpi.mpirun import TWICE, Launcher
from nptrain.errors import InputError, reason
from nptrain.files import retried
from nptrain.run.run_folder import RunFolder

TAIL = 1 << 15  # bytes of the end of an output that are kept
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

    def begun(self):
        """Whether there is a run in the folder, or may be one."""
        return look(RunFolder(self.folder).description.exists, True)

    def words(self, resume=False, passed_s=0):
        """The words to start it, with snapshots; with `resume`, to go on with what there is. Of a --time-limit, so many
        seconds have passed.
        """
        given, more = {word.partition("=")[0] for word in self.train}, []
        if "--snapshot-folder" not in given:
            more.append("--snapshot-folder")
        if resume and "--resume" not in given:
            more.append("--resume")
        limit = self._value("--time-limit") if passed_s else None
        if limit:
            with suppress(ArgumentTypeError):  # the training says so; of two values the last one counts
                more += ["--time-limit", str(max(0, int(seconds(limit) - passed_s)))]
        return [*self.launcher, *self.train, *more]


class Attempt:
    """One start of these words. Their output is passed on, and `signals` are; `why` says why it was killed here, or is
    None. Raises InputError if it cannot be started.
    """

    def __init__(self, words):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the launcher become children of this process
        self.why, self._others, self._stalled = None, descendants(), b""
        kept = None if os.isatty(1) else subprocess.PIPE  # on a terminal a training shows its progress in a line
        try:
            options = {"stdout": kept, "stderr": subprocess.PIPE, "env": {**os.environ, SUPERVISED: "1"}}
            signals = []
            self.launcher = retried(lambda: Launcher(words, signals, **options), words[0])
        except OSError as error:
            raise InputError(f"{words[0]}: cannot be started: {reason(error)}") from None
        self._seen = descendants()
        pipes = [(pipe, to) for pipe, to in zip((self.launcher.process.stdout, self.launcher.process.stderr),
                                                (sys.__stdout__, sys.__stderr__), strict=True) if pipe]  # fmt: skip
        self._tails = {to: b"" for _, to in pipes}
        self._readers = [threading.Thread(target=self._pass_on, args=each, daemon=True) for each in pipes]
        for reader in self._readers:
            reader.start()

    @property
    def signals(self):
        return self.launcher.signals

    @property
    def tail(self):
        """The line of the first rank that has stalled, and the end of each output."""
        return self._stalled + b"\n".join(self._tails.values())

    def _pass_on(self, pipe, to):
        line = b""
        with pipe:
            while chunk := os.read(pipe.fileno(), 1 << 16):
                self._tails[to] = (self._tails[to] + chunk)[-TAIL:]
                *lines, line = (line + chunk).split(b"\n")
                line = line[-TAIL:]
                found = next((each for each in lines if STALLED in each), None) if not self._stalled else None
                if found:
                    self._stalled = found[found.index(STALLED) :] + b"\n"
                with suppress(OSError):
                    os.write(to.fileno(), chunk)
        if line and to is sys.__stderr__:  # what follows begins on a line of its own
            with suppress(OSError):
                os.write(to.fileno(), b"\n")

    def wait(self, folder, stall):
        """Wait for the end, and end what is left on this host. It is killed after `stall` seconds without a new line in
        the metrics of the run in a folder (0: never), after a rank has said that it has stalled, and after a second
        SIGINT. Returns the exit status.
        """
        looked, told = time.monotonic(), None
        with Growth(RunFolder(folder).metrics) as metrics:
            while self.launcher.process.poll() is None:
                time.sleep(0.05)
                now = time.monotonic()
                if now - looked > LOOK:
                    self._seen, looked = self._seen | descendants(), now
                told = told or (now if self._stalled else None)
                if stall and now - metrics.since > stall:
                    self.why = f"nothing was logged for {stall} s"
                if self.why or (told and now - told > GRACE) or self._interrupted_twice():
                    self.launcher.process.kill()
        self._end_orphans()
        for pid in self._seen - self._others:  # what an Open MPI that was killed has left
            shutil.rmtree(Path(tempfile.gettempdir(), f"ompi.{pid}"), ignore_errors=True)
        for reader in self._readers:
            reader.join(5)
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
