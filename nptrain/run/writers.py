"""More places for the lines of metrics.jsonl: a table, metrics.csv, and TensorBoard's event files.

Both are written anew from metrics.jsonl when a run goes on, as that has lost what came after the checkpoint by then.
"""

import csv
import io
from datetime import datetime
from pathlib import Path

from nptrain.errors import InputError
from nptrain.files import writing
from nptrain.run.metrics import MetricsFile, read_entries

COLUMNS = (
    *("time", "phase", "iteration", "lr", "loss", "images_per_s", "data_wait_s", "data_s", "forward_s", "backward_s"),
    *("update_s", "gradient_wait_s", "communication_s", "hidden", "test_loss", "top1", "top5"),
)
CURVES = {"lr": "train/lr", "loss": "train/loss", "images_per_s": "train/images_per_s", "test_loss": "test/loss",
          "top1": "test/top1", "top5": "test/top5"}  # fmt: skip


class CsvWriter:
    """metrics.csv beside a metrics.jsonl: a line for each of its lines, with COLUMNS; what it has not is empty."""

    def __init__(self, metrics):
        path, entries = Path(metrics).with_suffix(".csv"), read_entries(metrics)
        with writing(path):
            path.unlink(missing_ok=True)
        self.file = MetricsFile(path)
        self.write({column: column for column in COLUMNS})
        for entry in entries:
            self.write(entry)

    def write(self, entry):
        text = io.StringIO()
        csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n").writerow(entry)
        self.file.write(text.getvalue().encode())

    def close(self):
        self.file.close()


class TensorBoardWriter:
    """Event files in the folder `tensorboard` beside a metrics.jsonl, with CURVES. A step is an iteration; those of the
    phases before a phase are added. Raises InputError without the package tensorboardX.

    phases  of the recipe
    """

    def __init__(self, metrics, phases):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError("--tensorboard: the package tensorboardX is not installed; install it by "
                             ".venv/bin/python -m pip install -r requirements-tensorboard.txt") from None  # fmt: skip
        self.folder, at = Path(metrics).with_name("tensorboard"), 0
        self.offsets = {}
        for phase in phases:
            self.offsets[phase.name], at = at, at + phase.max_iter
        with writing(self.folder):
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
            self.writer = SummaryWriter(str(self.folder))
        for entry in read_entries(metrics):
            self._add(entry)

    def write(self, entry):
        self._add(entry)
        with writing(self.folder):
            self.writer.flush()

    def _add(self, entry):
        step = self.offsets[entry["phase"]] + entry["iteration"]
        when = datetime.fromisoformat(entry["time"]).timestamp() if "time" in entry else None  # of an older version
        with writing(self.folder):
            for field, curve in CURVES.items():
                if entry.get(field) is not None:
                    self.writer.add_scalar(curve, entry[field], step, when)

    def close(self):
        self.writer.close()
