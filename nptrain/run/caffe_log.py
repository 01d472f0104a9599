"""A run's log in the lines of `caffe train`, for the scripts that parse them: parse_log.py, extract_seconds.py, ..."""

import os
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from nptrain.errors import InputError, reason
from nptrain.files import writing


class CaffeLog:
    """Writes the lines that the published fork prints, each behind glog's prefix: level, month and day, local time,
    process, and file and line, of which the line is always 1. Numbers have six digits, as C++ prints them.

    stream  text file, opened by `open_log`
    net     name of the network
    """

    def __init__(self, stream, net):
        self.stream, self.net = stream, net

    def begin(self, phase):
        self._write("solver.cpp", f"Solving {self.net}")
        self._write("solver.cpp", f"Learning Rate Policy: {phase.lr_policy}")

    def iteration(self, iteration, lr, loss, smoothed_loss):
        """An iteration that is displayed, counted from 0, with the losses before its update."""
        self._write("solver.cpp", f"Iteration {iteration}, loss = {smoothed_loss:g}")
        self._write("solver.cpp", f"    Train net output #0: loss = {loss:g} (* 1 = {loss:g} loss)")
        self._write("sgd_solver.cpp", f"Iteration {iteration}, lr = {lr:g}")

    def begin_test(self, iteration):
        self._write("solver.cpp", f"Iteration {iteration}, Testing net (#0)")

    def test(self, loss, top1, top5):
        """The result of the test that has begun; NaN if there is none."""
        self._write("solver.cpp", f"    Test net output #0: loss = {loss:g} (* 1 = {loss:g} loss)")
        self._write("solver.cpp", f"    Test net output #1: loss3/top-1 = {top1:g}")
        self._write("solver.cpp", f"    Test net output #2: loss3/top-5 = {top5:g}")

    def saving(self, checkpoint):
        self._write("solver.cpp", f"Snapshotting to binary proto file {checkpoint.model}")
        self._write("sgd_solver.cpp", f"Snapshotting solver state to binary proto file {checkpoint.state}")

    def end(self, phase, iteration):
        """The phase has ended at an iteration."""
        self._write("solver.cpp", f"Optimization {'Done' if iteration >= phase.max_iter else 'stopped early'}.")

    def close(self):
        if self.stream is not sys.stderr:
            with suppress(OSError):  # was said already
                self.stream.close()

    def _write(self, source, text):
        with writing(f"--caffe-log: {getattr(self.stream, 'name', 'the output')}"):
            print(glog_line(source, text), file=self.stream, flush=True)


def glog_line(source, text):
    """`text` behind glog's prefix of a line that a `source` file logs now."""
    return f"I{datetime.now():%m%d %H:%M:%S.%f} {os.getpid():5} {source}:1] {text}"


def test_lines(batches, names):
    """The lines of `caffe test`: the outputs of each batch, in the order of their names, and their means.

    batches  array (N, 3): loss, top-1 and top-5 of each batch
    names    {name of the output: its column}, those that the net has
    """
    means, losses = batches.mean(axis=0), [name for name, column in names.items() if column == 0]
    yield glog_line("caffe.cpp", f"Running for {len(batches)} iterations.")
    for number, row in enumerate(batches):
        for name, column in sorted(names.items()):
            yield glog_line("caffe.cpp", f"Batch {number}, {name} = {row[column]:g}")
    yield glog_line("caffe.cpp", f"Loss: {means[0] if losses else 0:g}")
    for name, column in sorted(names.items()):
        weighted = f" (* 1 = {means[column]:g} loss)" if name in losses else ""
        yield glog_line("caffe.cpp", f"{name} = {means[column]:g}{weighted}")


test_lines.__test__ = False  # not a test of pytest


def open_log(name, resume):
    """The stream of `--caffe-log NAME`, which a run that resumes continues; "-" is standard error. Makes missing
    folders. Raises InputError if the file cannot be written, or has something in it that is not this run's.
    """
    if name == "-":
        return sys.stderr
    path = Path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size and not resume:
            raise InputError(f"--caffe-log: {name} exists, expected a new file, or --resume to continue it")
        way = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK  # no wait at a pipe that nobody reads: an error
        stream = open(path, "a", encoding="utf-8", errors="backslashreplace",  # noqa: SIM115
                      opener=lambda name, _: os.open(name, way, 0o666))  # fmt: skip
        os.set_blocking(stream.fileno(), True)
        return stream
    except OSError as error:
        raise InputError(f"--caffe-log: {name} cannot be written: {reason(error)}") from None
