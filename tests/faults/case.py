"""One run of the small job, and what is done to it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from commands import PROJECT, call, launcher
from images import make_dataset
from processes import iterations, processes
from short_runs import arguments

from tests.faults.fault import Missed

ITERATIONS, EACH = 24, 6  # of the job, and between its checkpoints; it is tested after 12 and 24
JOB = ("--batch-size", "4", "--set", f"1.max_iter={ITERATIONS}", "--set", f"1.snapshot={EACH}", "--set",
       "test_interval=12", "--phase", "1", "--workers", "4", "--threads", "1", "--reproducible")  # fmt: skip
HOOK = Path(__file__).parent / "hook"
TRAIN = PROJECT / "bin" / "train"
PAUSE = 0.005  # s between looks


class Reference:
    """The undisturbed run, on one rank in this process, if it is not in the folder already; its bits are those of any
    number of ranks.
    """

    def __init__(self, folder, iterations=ITERATIONS):
        self.folder, self.data = folder / "whole", folder / "data"
        self.job = (*JOB, "--set", f"1.max_iter={iterations}")
        if (self.folder / "end.json").exists():
            return
        make_dataset(self.data / "train", 41, width=36, height=34)
        make_dataset(self.data / "val", 60, width=40, height=33)
        call("train", *arguments(self.data, self.folder, *self.job))

    def copy_of_part(self, folder):
        """Copy the run as it was after its checkpoint before the last."""
        shutil.copytree(self.folder, folder)
        for path in (folder / "checkpoints").glob(f"phase1_iter_{ITERATIONS}.*"):
            path.unlink()
        (folder / "end.json").unlink()
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(lines[: ITERATIONS - EACH + 1]))  # with one test


class Case:
    """A run in `folder`, of `fault`. `seen` is its folder as it is seen from here, which may be on a disk of its own;
    `moments` are the times at which the fault was injected; `hosts` is the file with its hosts' names, if it has any.
    """

    def __init__(self, fault, folder, reference, rng):
        self.fault, self.folder, self.reference, self.rng = fault, folder, reference, rng
        self.run_dir, self.temporary, self.data = folder / "run", folder / "tmp", folder / "data"
        self.seen, self.moments, self.process, self.starts = self.run_dir, [], None, 0
        self.outer, self.inner, self.launcher = [], [], launcher(fault.ranks)  # words before supervise, before mpirun
        self.mode = []  # flags of the launcher
        self.always = False  # whether bin/supervise also resumes
        self.kept = folder / "kept"  # snapshots
        self.temporary.mkdir(parents=True)
        shutil.copytree(reference.data, self.data)

    def words(self, resume=False):
        """The command line of the job."""
        fault = self.fault
        kept = ["--snapshot-folder", self.kept, *fault.flags]
        flags = arguments(self.data, self.run_dir, *self.reference.job, *kept)
        if resume:
            flags = ["--resume", self.run_dir, *(fault.flags if fault.before else ())]
        words = [*self.inner, *self.launcher, *self.mode, sys.executable, TRAIN, *flags]
        if fault.by == "supervise" and (self.always or not (resume and self.starts)):
            words = [sys.executable, PROJECT / "bin" / "supervise", *fault.more, "--", *words]
        return [str(word) for word in (*self.outer, *words)]

    def start(self, resume=False, hooks=()):
        """Start the job; its output goes to files. `hooks` are faults for hook/sitecustomize.py."""
        environment = {**os.environ, "TMPDIR": str(self.temporary), "OMP_WAIT_POLICY": "passive"}
        if hooks:
            marked = [{"mark": str(self.folder / f"struck{turn}"), **hook} for turn, hook in enumerate(hooks)]
            environment |= {"PYTHONPATH": str(HOOK), "NPTRAIN_FAULTS": json.dumps(marked)}
        words, self.starts = self.words(resume), self.starts + 1
        with open(self.folder / "output", "w") as output, open(self.folder / "errors", "w") as errors:
            self.process = subprocess.Popen(words, stdout=output, stderr=errors, stdin=subprocess.DEVNULL,
                                            cwd=self.folder, env=environment, start_new_session=True)  # fmt: skip

    @property
    def said(self):
        """What the job has written."""
        return "".join((self.folder / name).read_text(errors="replace") for name in ("output", "errors"))

    @property
    def iterations(self):
        return iterations(self.seen)

    def processes(self):
        return processes(self.run_dir)

    def wait_for(self, condition, limit=60):
        """Wait until condition() is true. Raises Missed if the job ends before, AssertionError after `limit` s."""
        end = time.monotonic() + limit
        while not condition():
            if self.process.poll() is not None:
                raise Missed(f"the fault was not injected; the run said: {self.said[-2000:]}")
            assert time.monotonic() < end, f"it hangs: nothing for {limit} s; it said: {self.said[-3000:]}"
            time.sleep(PAUSE)

    def strike(self, at):
        """Inject the fault a moment after iteration `at` was logged."""
        self.wait_for(lambda: self.iterations >= at)
        time.sleep(self.rng.uniform(0, 0.03))
        if self.process.poll() is not None:
            raise Missed("the run has ended before")
        self.moments.append(time.time())
        self.fault.act(self)

    def finish(self):
        """Wait for the end of the job. Returns its exit status."""
        try:
            return self.process.wait(self.fault.limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"it hangs: no end within {self.fault.limit:.0f} s; it said: {self.said[-3000:]}"
            ) from None

    def kill(self):
        """End what is left of the job."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.processes().values():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue

    def gaps(self):
        """For each time that the fault was injected, the longest time in s until another iteration was logged, before
        the next one was injected.
        """
        times = [datetime.fromisoformat(entry["time"]).timestamp() for entry in entries(self.seen) if "loss" in entry]
        found = []
        for moment, after in zip(self.moments, [*self.moments[1:], float("inf")], strict=False):
            stops = [moment, *(at for at in times if moment < at <= after)]
            if len(stops) > 1:
                found.append(max(b - a for a, b in pairwise(stops)))
        return found

    def lost_in_restarts(self):
        """What bin/supervise's restarts have computed again: from the lines of the supervisor and of the runs."""
        logged = [int(n) + 1 for n in re.findall(r"supervise: .*iteration (\d+) was the last one logged", self.said)]
        return [max(0, n - at) for n, at in zip(logged, self.resumed()[-len(logged) :], strict=False)] if logged else []

    def resumed(self):
        """The iterations at which starts have resumed."""
        return [int(n) for n in re.findall(r"resumes at phase 1, iteration (\d+)", self.said)]


def entries(folder):
    """The entries of a run's metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
