"""Mapped snapshots: written beside the step, checked when they are read, and runs that go on from them."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from commands import call
from short_runs import arguments, metrics

from bin.common import ending
from kernels import naive
from nptrain.errors import InputError, TrainingError
from nptrain.network.arena import Arena
from nptrain.network.layers import Architecture, layers
from nptrain.recipes.schedule import Progress
from nptrain.run import snapshot
from nptrain.run.end import is_done
from nptrain.run.saver import Saver
from nptrain.run.snapshot import BLOCK, HEAD, ROW, SEAL, Snapshot, SnapshotFile, layout, make_folder, newest, place
from nptrain.run.snapshots import Snapshots, files_of, find
from nptrain.train import Trainer
from nptrain.world import Solo

SHORT = ["--set", "1.max_iter=6", "--set", "1.snapshot=4", "--set", "2.max_iter=2", "--set", "2.starts_from=4",
         "--set", "test_interval=3", "--workers", "2", "--threads", "1"]  # fmt: skip
PROGRESS = Progress((1.5, float(np.float32(0.1))), 2, float(np.float32(1.1)), 7)


def arena(seed=1, classes=5):
    made = Arena(layers(Architecture(18), classes), naive)
    made.initialise(seed)
    for array, seed in ((made.history, 2), (made.statistics, 3), (made.factors, 4)):
        array[:] = np.random.default_rng(seed).standard_normal(array.size)
    return made


def state(arena):
    return [a.tobytes() for a in (arena.weights, arena.history, arena.statistics, arena.factors)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file with snapshots of iterations 5 and 6, and the arena of the latter."""
    source, path = arena(), tmp_path_factory.mktemp("snapshots") / "run.snapshot"
    file = SnapshotFile(path, source)
    for iteration in (5, 6):
        source.weights += 1
        line = {"phase": "1", "iteration": iteration - 1, "loss": 0.1}
        file.write(Snapshot("run", layout(source), "1", iteration, PROGRESS, (line,)))
    return path, source


def read(path, target, run="run", phases=("1", "2")):
    """(the Found or None, the lines that are said)."""
    said = []
    return newest([path], run, target, phases, said.append), said


def test_the_newest_is_read_as_it_was_written(written):
    path, source = written
    target = arena(9)
    found, said = read(path, target)
    assert said == []
    assert (found.snapshot.phase, found.snapshot.iteration, found.snapshot.progress) == ("1", 6, PROGRESS)
    assert found.snapshot.lines == ({"phase": "1", "iteration": 5, "loss": 0.1},)
    found.fill(target)
    assert state(target) == state(source)


@pytest.mark.parametrize("place", [0, SEAL, SEAL + 40, HEAD, HEAD + 5_000_001, -70_000])
def test_a_changed_bit_is_found_and_the_one_before_is_taken(written, tmp_path, place):
    copy = shutil.copy(written[0], tmp_path)
    with open(copy, "r+b") as file:
        half = os.path.getsize(copy) // 2  # the second slot has iteration 6
        file.seek(half + place if place >= 0 else 2 * half + place)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 16]))
    found, said = read(copy, arena())
    assert found.snapshot.iteration == 5
    assert len(said) == 1
    assert said[0].startswith(f"skipped a snapshot: {copy}: ")


@pytest.mark.parametrize("distance", [1, 7, 509, ROW - 1, ROW, 2 * ROW, 5 * ROW + 3, BLOCK // 8 - 1, BLOCK // 8])
def test_swapped_words_are_found(written, tmp_path, distance):
    copy = shutil.copy(written[0], tmp_path)
    words = np.memmap(copy, np.uint64, "r+")
    first = words.size // 2 + HEAD // 8
    one, other = first, first + distance
    assert words[one] != words[other]
    words[[one, other]] = words[[other, one]]
    words.flush()
    found, said = read(copy, arena())
    assert found.snapshot.iteration == 5
    assert said == [f"skipped a snapshot: {copy}: damaged, or of another version: its checksum is another one"]


def test_one_of_an_earlier_version_is_passed_over(written, tmp_path, monkeypatch):
    """Whose blocks had plain sums."""

    def plain(seal, block):
        whole = block[: block.size // 8 * 8]
        seal.update(np.add.reduce(whole.view(np.uint64)).tobytes() + block[whole.size :].tobytes())

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "_add_block", plain)
        SnapshotFile(tmp_path / "old", written[1]).write(Snapshot("run", layout(written[1]), "1", 6, PROGRESS))
    found, said = read(tmp_path / "old", arena())
    assert found is None
    assert said == [f"skipped a snapshot: {tmp_path}/old: damaged, or of another version: its checksum is another one"]


def test_one_whose_writer_died_in_it_is_passed_over_in_silence(written, tmp_path):
    copy = shutil.copy(written[0], tmp_path)
    with open(copy, "r+b") as file:
        file.seek(os.path.getsize(copy) // 2)
        file.write(bytes(SEAL))
    found, said = read(copy, arena())
    assert (found.snapshot.iteration, said) == (5, [])


def test_what_is_foreign_is_passed_over_with_a_line(written, tmp_path):
    path, _ = written
    for found, said in (
        read(path, arena(), run="other"),
        read(path, arena(classes=6)),
        read(path, arena(), phases=("2",)),
    ):
        assert found is None
        assert len(said) == 2
        assert "of another " in said[0]
    for content in (b"", b"x", bytes(9), b"y" * 70, b"\xff" * (2 * HEAD)):
        (tmp_path / "file").write_bytes(content)
        assert read(tmp_path / "file", arena())[0] is None


def test_a_file_needs_room_and_a_folder_of_the_user_s_own(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match=r"x: cannot be written: No space left on device: make room"):
        SnapshotFile(tmp_path / "x", arena())
    assert list(tmp_path.iterdir()) == []
    make_folder(place(tmp_path))
    place(tmp_path).chmod(0o777)
    with pytest.raises(InputError, match="--snapshot-folder: others can write to"):
        make_folder(place(tmp_path))


def test_old_files_go_when_there_is_a_newer_snapshot(tmp_path):
    folder, source = tmp_path / "folder", arena()

    def run(error):
        before = files_of(folder, "run")
        with Snapshots(folder, "run", source, Solo()) as snapshots:
            assert len(files_of(folder, "run")) == len(before) + 1
            for iteration in (1, 2):
                snapshots.begin("1", iteration, PROGRESS)
                snapshots.wait()
            assert len(files_of(folder, "run")) == 1
            assert not {*before} & {*files_of(folder, "run")}
            assert find(folder, "run", source, ["1"], Solo(), print).snapshot.iteration == 2
            raise error

    for error, left in ((KeyError, 1), (OSError, 1), (TrainingError, 0)):  # what cannot go on must not come back
        with pytest.raises(error):
            run(error)
        assert len(files_of(folder, "run")) == left
    with Snapshots(folder, "run", source, Solo()), Snapshots(folder, "other", source, Solo()) as other:
        late = SnapshotFile(folder / "run.late.snapshot", source)  # of an earlier start, whose process still lives
        late.write(Snapshot("run", layout(source), "1", 1, PROGRESS))
        other.remove()
        assert len(files_of(folder, "run")) == 2
    assert list(folder.iterdir()) == []
    second = SimpleNamespace(local_rank=1)
    with Snapshots(folder, "run", source, second) as snapshots:
        snapshots.begin("1", 1, PROGRESS)
        assert list(folder.iterdir()) == []
        second.local_rank = 0  # the lowest rank of the host has died
        snapshots.take_over()
        snapshots.begin("1", 2, PROGRESS)
        snapshots.wait()
        assert find(folder, "run", source, ["1"], Solo(), print).snapshot.iteration == 2
    assert list(folder.iterdir()) == []


class Died(Exception):
    """In place of a SIGKILL."""

    exit_status = 137


def dies(monkeypatch, owner, name, turn, after=False):
    """The process "dies" when it calls a function for the `turn`-th time, before or after what it does."""
    function, turns = getattr(owner, name), iter(range(1, turn + 1))

    def calling(*args, **named):
        last = next(turns, None) == turn
        if last and not after:
            raise Died
        result = function(*args, **named)
        if last:
            raise Died
        return result

    monkeypatch.setattr(owner, name, calling)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    call("train", *arguments(data, folder, *SHORT))
    return folder


@pytest.mark.parametrize(
    ("owner", "name", "turn", "after", "at"),
    [
        (Trainer, "_step", 3, True, ("1", 2)),  # died after the update, before its line and its snapshot
        (Trainer, "_test", 1, True, ("1", 3)),
        (Saver, "begin", 1, False, ("1", 4)),  # the checkpoint was due
        (Saver, "save", 1, False, ("1", 6)),  # the phase's last
        (Trainer, "_step", 8, False, ("2", 1)),
    ],
)
def test_a_run_that_died_goes_on_from_its_last_whole_iteration(
    data, tmp_path, monkeypatch, whole, owner, name, turn, after, at
):
    folder, kept = tmp_path / "run", tmp_path / "kept"
    with monkeypatch.context() as patch:
        dies(patch, owner, name, turn, after)
        call("train", *arguments(data, folder, *SHORT, "--snapshot-folder", kept), status=137)
    assert len(list(place(kept).iterdir())) == 1
    lost = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lost[:-2]) + lost[-2][:9])  # on a disk of another host
    output, _ = call("train", "--resume", folder)
    assert f"goes on from the snapshot of phase {at[0]}, iteration {at[1]}, on " in output
    assert f"resumes at phase {at[0]}, iteration {at[1]}\n" in output
    assert metrics(folder) == metrics(whole)
    names = sorted(path.name for path in (whole / "checkpoints").glob("*.[cs]*"))
    assert sorted(path.name for path in (folder / "checkpoints").glob("*.[cs]*")) == names
    for file in names:
        assert (folder / "checkpoints" / file).read_bytes() == (whole / "checkpoints" / file).read_bytes(), file
    assert list(place(kept).iterdir()) == []


def test_a_run_counts_as_done_when_its_snapshots_are_gone(data, tmp_path, monkeypatch, whole):
    folder, kept = tmp_path / "run", tmp_path / "kept"
    with monkeypatch.context() as patch:
        dies(patch, ending, "write_end", 1)
        call("train", *arguments(data, folder, *SHORT, "--snapshot-folder", kept), status=137)
    assert list(place(kept).iterdir()) == []
    assert not is_done(folder)
    call("train", "--resume", folder)
    assert is_done(folder)
    assert metrics(folder) == metrics(whole)


def test_a_new_run_in_the_place_of_another_does_not_take_its_snapshot(data, tmp_path, monkeypatch, whole):
    folder, kept = tmp_path / "run", tmp_path / "kept"
    words = arguments(data, folder, *SHORT, "--phase", "1", "--iterations", "3", "--snapshot-folder", kept)
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
        with monkeypatch.context() as patch:
            dies(patch, Trainer, "_step", 3)
            call("train", *words, status=137)
    assert len(list(place(kept).iterdir())) == 2
    with monkeypatch.context() as patch:
        dies(patch, Trainer, "_step", 1)
        assert "iteration 2\n" in call("train", "--resume", folder, status=137)[0]
    identity = json.loads((folder / "run.json").read_text())["id"]
    for path in place(kept).glob(f"{identity}.*"):
        path.write_bytes(b"z" * 100)
    output, errors = call("train", "--resume", folder)
    assert "goes on from" not in output
    assert "damaged: not a snapshot\n" in errors
    assert metrics(folder)[:3] == metrics(whole)[:3]


def test_a_run_that_ends_by_numbers_that_are_not_finite_leaves_no_snapshot(data, tmp_path):
    words = ["--set", "1.base_lr=1e30", "--phase", "1", "--snapshot-folder", tmp_path / "kept"]
    call("train", *arguments(data, tmp_path / "run", *SHORT, *words), status=1)
    assert list(place(tmp_path / "kept").iterdir()) == []
