"""Short training runs: their data, their command line, and what they leave behind."""

import json
from pathlib import Path

from commands import TINY
from images import make_dataset

SHORT = ["--set", "1.max_iter=12", "--set", "1.snapshot=4", "--set", "2.max_iter=3", "--set", "2.starts_from=8",
         "--set", "test_interval=6", "--workers", "3"]  # fmt: skip


def make_data(folder):
    """Two LMDBs of small images, /train and /val; val's 7 records fill no batch of 2 evenly. Returns the folder."""
    make_dataset(folder / "train", 41, width=36, height=34)
    make_dataset(folder / "val", 7, width=40, height=33)
    return folder


def arguments(data, run_dir, *more):
    return [*TINY, "--train-data", data / "train", "--val-data", data / "val", "--run-dir", run_dir, *more]


def move_snapshot(run, stem, prefix):
    """Make the checkpoint `stem` of a run one of a recipe with a snapshot prefix."""
    manifest = run / "checkpoints" / f"{stem}.json"
    entry = json.loads(manifest.read_text())
    for kind in ("caffemodel", "solverstate"):
        moved = f"{prefix}_iter_{entry['iteration']}.{kind}"
        manifest.with_suffix(f".{kind}").rename(moved)
        entry["files"][Path(moved).name] = entry["files"].pop(f"{stem}.{kind}")
    del entry["sha256"]
    manifest.write_text(json.dumps({**entry, "prefix": str(prefix)}))


def metrics(run_dir):
    """The lines of a run's metrics, without the times in them."""
    entries = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    clocks = ("time", "images_per_s", "hidden", "spans", "sums")
    return [{k: v for k, v in e.items() if k not in clocks and not k.endswith("_s")} for e in entries]
