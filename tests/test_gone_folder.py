"""A run whose folder or metrics are removed, renamed or replaced notices it, and never ends with "done"."""

import shutil

import pytest
from commands import call
from short_runs import arguments, metrics

from nptrain.run.log import Log

BRIEF = ["--phase", "1", "--workers", "1", "--kernels", "numpy", "--set", "1.snapshot=1"]


def remove(folder):
    while folder.exists():  # a checkpoint may be written meanwhile
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("happens", "what"),
    [
        ("remove(folder)", "run"),
        ("folder.rename(folder.with_name('elsewhere'))", "run"),
        ("(folder / 'metrics.jsonl').unlink()", "run/metrics.jsonl"),
        ("folder.rename(folder.with_name('elsewhere')), shutil.copytree(folder.with_name('elsewhere'), folder)",
         "run/metrics.jsonl"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("at", [1, 3])
def test_a_folder_that_is_gone_ends_the_run(data, tmp_path, monkeypatch, happens, what, at):
    """After an iteration, or after the last line: a run never ends with "done" without what it names."""
    folder, ending = tmp_path / "run", Log.end if at == 3 else Log.iteration
    place, name = ("end", at) if at == 3 else ("iteration", at)

    def gone(self, iteration, *args, **named):
        result = ending(self, iteration, *args, **named)
        if iteration == name:
            eval(happens, {"folder": folder, "shutil": shutil, "remove": remove})
        return result

    monkeypatch.setattr(Log, place, gone)
    output, errors = call("train", *arguments(data, folder, *BRIEF, "--iterations", "3"), status=2)
    assert errors == (
        f"train: {tmp_path}/{what}: removed, renamed or replaced while the run wrote to it; go on with --resume, and "
        "the folder where it is now\n"
    )
    assert "done" not in output
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"run", "elsewhere"}
    assert ("run" in left) == ("metrics" in what)


def test_a_run_whose_metrics_are_gone_goes_on(data, tmp_path, monkeypatch):
    """Also before its first checkpoint: nothing of it may be taken for a run that was never begun."""
    folder, iteration = tmp_path / "run", Log.iteration

    def gone(self, at, *args, **named):
        if at == 1:
            (folder / "metrics.jsonl").unlink(missing_ok=True)
        return iteration(self, at, *args, **named)

    for snapshot in (1, 9):
        remove(folder)
        words = [*BRIEF, "--set", f"1.snapshot={snapshot}", "--iterations", "3"]
        with monkeypatch.context() as patch:
            patch.setattr(Log, "iteration", gone)
            call("train", *arguments(data, folder, *words), status=2)
        call("train", "--resume", folder)
        assert [entry["iteration"] for entry in metrics(folder) if "loss" in entry] == [*range(snapshot % 9, 3)]


def test_a_folder_that_was_renamed_goes_on(data, tmp_path, monkeypatch):
    folder, iteration = tmp_path / "run", Log.iteration

    def renamed(self, at, *args, **named):
        if at == 1 and folder.exists():
            folder.rename(tmp_path / "elsewhere")
        return iteration(self, at, *args, **named)

    monkeypatch.setattr(Log, "iteration", renamed)
    call("train", *arguments(data, folder, *BRIEF, "--iterations", "3"), status=2)
    call("train", "--resume", tmp_path / "elsewhere")
    assert [entry["iteration"] for entry in metrics(tmp_path / "elsewhere") if "loss" in entry] == [0, 1, 2]
