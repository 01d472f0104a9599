"""What is known before a run begins: whether it fits into memory, and what --dry-run prints."""

import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from commands import call
from short_runs import SHORT, arguments

from bin.common import dry_run, memory
from nptrain.recipes.published import get_recipe

MEMINFO = "MemTotal: 9000 kB\nMemAvailable:    5000 kB\nSwapFree:  100 kB\nHugePages_Total:       0\n"


@pytest.mark.parametrize(
    ("group", "path", "files", "found"),
    [
        ("0::/", ".", {}, 5100 * 1024),
        ("0::/", ".", {"memory.max": "max", "memory.current": "7", "memory.stat": "inactive_file 3"}, 5100 * 1024),
        ("0::/a/b", "a/b", {"memory.max": "1000", "memory.current": "700", "memory.stat": "x 1\ninactive_file 3"}, 303),
        ("0::/a/b", "a", {"memory.max": "1000", "memory.current": "700", "memory.stat": "inactive_file 3"}, 303),
        ("0::/a/b", "a", {"memory.max": "600", "memory.current": "700", "memory.stat": "inactive_file 3"}, 0),
        ("4:memory:/a\n1:cpu:/b", "memory/a",
         {"memory.limit_in_bytes": "1000", "memory.usage_in_bytes": "700", "memory.stat": "total_inactive_file 9"},
         309),
    ],
)  # fmt: skip
def test_memory_is_that_of_the_host_or_of_the_control_group(tmp_path, group, path, files, found):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"{group}\n")
    folder = tmp_path / "groups" / path
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
    assert memory.available_bytes(tmp_path / "proc", tmp_path / "groups") == found


def test_a_run_that_does_not_fit_is_refused_with_flags_that_help(data, tmp_path, monkeypatch):
    recipe = replace(get_recipe("digits"), depth=18, classes=5, workers=3, batch_size=8)
    threads = len(os.sched_getaffinity(0))
    need, half = (memory.needed_bytes(replace(recipe, batch_size=batch), threads) for batch in (8, 4))
    short = arguments(data, tmp_path / "run", *SHORT, "--set", "width=64", "--batch-size", "8")
    for found, advice in (
        (half, f"--batch-size 4 --set iter_size=2 needs {half / 1e9:.1f} GB"),
        (1, "a smaller --crop-size or --set depth=18 needs less"),
    ):
        monkeypatch.setattr(memory, "available_bytes", lambda found=found: found)
        _, errors = call("train", *short, status=2)
        what = f"this process needs {need / 1e9:.1f} GB, found {found / 1e9:.1f} GB available"
        assert errors == f"train: memory of {os.uname().nodename}: {what}; {advice}\n"
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(data, tmp_path):
    output, errors = call("train", *arguments(data, tmp_path / "run", *SHORT, "--set", "width=64", "--dry-run"))
    lines = output.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("phase  iterations"))
    assert [line.split() for line in lines[at + 1 : at + 3]] == [
        ["1", "12", "6", "1.76", "2", "3"], ["2", "3", "6", "0.44", "1", "1"]]  # fmt: skip
    assert lines[at + 3].startswith("phase 1: lr 0.001 at 0, ")
    assert lines[at + 4].startswith("phase 2: lr 0.0005 at 0, ")
    assert [line.split(":")[0] for line in lines[at + 5 :]] == ["memory", "disk", "time"]
    assert f"disk: 4 checkpoints of 0.09 GB in {tmp_path}/run: 0.4 GB, of " in output
    assert (errors, list(tmp_path.iterdir())) == ("", [])


def test_what_it_counts():
    phase = replace(get_recipe("digits").phases[0], max_iter=100, snapshot=30, test_interval=40, warmup_iter=10)
    assert (dry_run.checkpoints(phase, 100), dry_run.checkpoints(phase, 90)) == (4, 3)
    assert dry_run.checkpoints(replace(phase, snapshot=0, snapshot_after_train=False), 100) == 0
    assert (dry_run.tests(phase, 100, (1, 5)), dry_run.tests(phase, 100, (1, 0))) == (3, 0)
    fixed = replace(phase, lr_policy="multistep", gamma=0.1, stepvalue=(60, 80), base_lr=0.5, warmup_start_lr=0.1)
    assert [*dry_run.rates(fixed, 100)] == [
        "0.1 at 0", "0.5 at 10", "0.5 at 25", "0.5 at 50", "0.05 at 60", "0.05 at 75", "0.005 at 80", "0.005 at 99"
    ]  # fmt: skip


def test_a_disk_that_is_too_small_is_said(tmp_path, monkeypatch):
    recipe = get_recipe("digits")
    chosen = [(phase, phase.max_iter) for phase in recipe.phases]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert dry_run.disk(recipe, chosen, None, tmp_path / "run").endswith("free: NOT ENOUGH; --keep N keeps fewer")
