"""The log of a run: metrics.jsonl for programs, and a progress line or lines of text for people."""

import json
import os
import sys
import time
from datetime import datetime
from math import isfinite, nan
from pathlib import Path
from statistics import harmonic_mean

from nptrain.files import write_small, writing
from nptrain.run.metrics import MetricsFile

TOP5_CLASSES = 6  # the fewest of which top-5 says anything


class Log:
    """Rank 0's log of a run. On the other ranks `folder` is None, and nothing is written. `caffe` is a CaffeLog that is
    told the same, or None. `writers` are more places for the lines of metrics.jsonl, with `write(entry)` and `close()`.
    """

    def __init__(self, folder, stream=None, caffe=None, writers=()):
        self.file = MetricsFile(Path(folder) / "metrics.jsonl") if folder else None
        self.stream = stream or sys.stdout
        self.columns = terminal_columns(self.stream)
        self.line_open, self.caffe, self.writers, self.speeds = False, caffe, writers, []

    def begin(self, phase, start, stop, epoch=None):
        """A phase begins at iteration `start` and runs to `stop`. `epoch` is that of an iteration: images of a step, as
        a part of the data set; None if it is not known.
        """
        self.phase, self.start, self.stop, self.began, self.epoch = phase, start, stop, time.monotonic(), epoch
        if self.caffe:
            self.caffe.begin(phase)

    def end(self, iteration):
        """The phase has ended at an iteration."""
        if self.caffe:
            self.caffe.end(self.phase, iteration)

    def iteration(self, iteration, lr, loss, images_per_s, data_wait_s, smoothed_loss, **times):
        """Log an iteration: `loss` is the mean over all workers, `times` are rank 0's. People see the smoothed loss,
        every `display` iterations, and the speed since they saw it last; on a terminal, in every iteration. Returns the
        entry of metrics.jsonl, on all ranks.
        """
        seconds = rounded({"data_wait_s": data_wait_s, **times})
        entry = self._write("not a finite number", phase=self.phase.name, iteration=iteration, lr=lr, loss=loss,
                            images_per_s=round(images_per_s, 3), **seconds)  # fmt: skip
        if self.file:
            self.speeds.append(images_per_s)
            self._show_iteration(iteration, lr, loss, smoothed_loss)
        return entry

    def _show_iteration(self, iteration, lr, loss, smoothed_loss):
        last = iteration + 1 == self.stop
        display = self.phase.display and iteration % self.phase.display == 0
        if self.caffe and display:
            self.caffe.iteration(iteration, lr, loss, smoothed_loss)
        if self.columns or display or last:
            done = iteration + 1 - self.start
            left = duration((time.monotonic() - self.began) / done * (self.stop - iteration - 1))
            epochs = [f"epoch {(iteration + 1) * self.epoch:.2f}/{self.stop * self.epoch:.2f}"] if self.epoch else []
            speed = f"{harmonic_mean(self.speeds):.1f} images/s"
            self._show([f"phase {self.phase.name}", f"{iteration + 1}/{self.stop}", *epochs,
                        f"loss {smoothed_loss:.4f}", f"{left} left", speed, f"lr {lr:.4g}"], last)  # fmt: skip
            self.speeds.clear()

    def begin_test(self, iteration):
        """A test after `iteration` updates begins."""
        if self.caffe:
            self.caffe.begin_test(iteration)

    def test(self, iteration, result, why):
        """Log the result of a test after `iteration` updates; `why` it has none, if its loss is not finite. Returns the
        entry of metrics.jsonl, on all ranks.
        """
        loss, top1, top5 = (result[name] for name in ("loss", "top1", "top5"))
        said = f"loss {loss:.4f}, top-1 {top1:.2%}"
        if result.get("classes", TOP5_CLASSES) >= TOP5_CLASSES:
            said += f", top-5 {top5:.2%}"
        if not isfinite(loss):
            top1, top5, said = nan, nan, f"no result: {why}"
        entry = self._write(why, phase=self.phase.name, iteration=iteration, test_loss=loss, top1=top1, top5=top5)
        self.say(f"phase {self.phase.name}  test after {iteration} iterations: {said}")
        if self.caffe:
            self.caffe.test(loss, top1, top5)
        return entry

    def best(self, test, weights):
        """A Test is the best so far; `weights` is the file of its checkpoint, or None if none was saved there."""
        if self.file:
            path = self.file.path.with_name("best.json")
            entry = {**test._asdict(), "weights": weights and str(weights)}
            write_small(path, json.dumps(entry, indent=2).encode() + b"\n")

    def saving(self, checkpoint):
        """A Checkpoint begins to be written."""
        if self.caffe:
            self.caffe.saving(checkpoint)

    def saved(self, checkpoint):
        """A Checkpoint was saved."""
        self.say(f"saved {checkpoint.model}")

    def say(self, text):
        """Print a line, below the progress line if there is one."""
        if self.file:
            self._print(("\n" if self.line_open else "") + text + "\n")
            self.line_open = False

    def expect_there(self):
        """Raise InputError, on rank 0, unless metrics.jsonl is where the run has written it."""
        if self.file:
            self.file.expect_there()

    def close(self):
        if self.file:
            self.file.close()
        for other in (self.caffe, *self.writers):
            if other:
                other.close()

    def _write(self, why, **entry):
        """A line of JSON, which knows no NaN or infinity: null stands for them, and the field "why" says why."""
        lost = [name for name, value in entry.items() if isinstance(value, float) and not isfinite(value)]
        if lost:
            entry |= {**dict.fromkeys(lost), "why": why}
        entry["time"] = datetime.now().astimezone().isoformat(timespec="milliseconds")
        if self.file:
            self.file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        for writer in self.writers:
            writer.write(entry)
        return entry

    def _show(self, fields, last):
        """Print a progress line; on a terminal, the first of its fields that fit, in place of the line before."""
        if not self.columns:
            self._print("  ".join(fields) + "\n")
            return
        width = self.columns - 1
        while len(fields) > 1 and len("  ".join(fields)) > width:
            fields = fields[:-1]
        self._print("\r" + "  ".join(fields)[:width].ljust(width) + ("\n" if last else ""))
        self.line_open = not last

    def _print(self, text):
        with writing("the output"):
            print(text, end="", file=self.stream, flush=True)


def rounded(value):
    """`value` with the floats in its dictionaries and lists rounded: seconds to 0.1 ms."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def terminal_columns(stream):
    """The width of the terminal that shows a stream; None for a file or a pipe.

    An MPI launcher gives its ranks pseudo-terminals and passes on their output: under a launcher, the terminal is that
    of the launcher's own output.
    """
    try:
        if not stream.isatty():
            return None
        if "PMIX_RANK" not in os.environ and "PMI_RANK" not in os.environ:
            return os.get_terminal_size(stream.fileno()).columns
        with open(f"/proc/{os.getppid()}/fd/1") as launcher:
            return os.get_terminal_size(launcher.fileno()).columns or None
    except OSError:
        return None


def duration(seconds):
    """75 -> '1:15', 3700 -> '1:01:40'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
