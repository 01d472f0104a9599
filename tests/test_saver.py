"""Checkpoints are written while training goes on, from weights that stand still until the system has them."""

import io
import os
import shutil
import threading
import tracemalloc
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from commands import call
from short_runs import SHORT, arguments, metrics

from kernels import naive
from nptrain import files
from nptrain.caffe_net.writer import trained_net
from nptrain.errors import InputError, TrainingError
from nptrain.network.arena import Arena
from nptrain.network.layers import layers
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override
from nptrain.recipes.schedule import Progress
from nptrain.run import checkpoint
from nptrain.run.log import Log
from nptrain.run.saver import Saver
from nptrain.run.watchdog import Watchdog
from nptrain.world import Solo

RECIPE = override(get_recipe("digits"), ["depth=18", "width=16"])
PHASE = RECIPE.phases[0]
NET = trained_net(RECIPE)


@pytest.fixture
def saver(tmp_path):
    arena = Arena(layers(RECIPE.architecture, RECIPE.classes), naive)
    log = Log(tmp_path, io.StringIO())
    with Saver(RECIPE, NET, arena, tmp_path / "checkpoints", Solo(), log, Watchdog(), []) as saver:
        yield saver
    log.close()


def manifest(saver, iteration):
    return saver.folder / f"phase1_iter_{iteration}.json"


@pytest.fixture
def held(monkeypatch):
    """hold(owner, name): the function waits until the Event that is returned is set."""

    def hold(owner, name):
        function, event = getattr(owner, name), threading.Event()

        def waiting(*args):
            assert event.wait(20)
            return function(*args)

        monkeypatch.setattr(owner, name, waiting)
        return event

    return hold


def test_training_goes_on_while_the_disk_works(saver, held):
    disk = held(files.os, "fsync")
    saver.arena.weights[:] = 1
    saver.begin(PHASE, 5, Progress())
    saver.before_update()  # which does not wait for the disk
    saver.arena.weights[:] = 2
    assert not manifest(saver, 5).exists()
    disk.set()
    saver.finish()
    checkpoint.load(checkpoint.of_manifest(manifest(saver, 5)), saver.arena)
    assert (saver.arena.weights == 1).all()
    assert "saved " in saver.log.stream.getvalue()


def test_weights_stand_still_until_they_are_copied(saver, held):
    copy = held(checkpoint, "state_into")
    saver.begin(PHASE, 5, Progress())
    update = threading.Thread(target=saver.before_update)
    update.start()
    update.join(0.05)
    assert update.is_alive()
    copy.set()
    update.join(20)
    assert not update.is_alive()


def test_one_is_written_at_a_time(saver, held):
    disk = held(files.os, "fsync")
    saver.begin(PHASE, 5, Progress())
    threading.Timer(0.05, disk.set).start()
    saver.begin(PHASE, 6, Progress())
    assert manifest(saver, 5).exists()


def test_what_must_be_there_is_waited_for(saver):
    saver.save(PHASE, 3, Progress())
    assert manifest(saver, 3).exists()
    manifest(saver, 3).write_text("kept")
    saver.save(PHASE, 3, Progress(), missing=True)
    assert manifest(saver, 3).read_text() == "kept"
    wanted = RECIPE.phases[1].starts_from
    saver.begin(PHASE, wanted, Progress())  # phase 2 starts from it
    assert manifest(saver, wanted).exists()


def test_which_checkpoint_a_phase_starts_from():
    def starts(iteration, snapshot, wanted, name="1"):
        phases = (replace(PHASE, snapshot=snapshot), replace(RECIPE.phases[1], starts_from=wanted))
        recipe = replace(RECIPE, phases=phases)
        return checkpoint.starts_a_phase(recipe, replace(recipe.phases[0], name=name), iteration)

    assert [n for n in range(1, 13) if starts(n, 4, 8)] == [5, 6, 7, 8]  # of which 8 is saved
    assert starts(8, 4, 9)  # the newest before it
    assert not starts(12, 4, 9)
    assert not starts(8, 4, 8, "2")


def test_errors_are_said_when_they_come_and_three_in_a_row_end_the_run(saver, monkeypatch):
    saver.save(PHASE, 1, Progress())
    full = threading.Event()
    write = checkpoint.weights_into

    def write_if_it_fits(*args):
        if full.is_set():
            raise OSError(28, "No space left on device")
        write(*args)

    monkeypatch.setattr(checkpoint, "weights_into", write_if_it_fits)
    for turn in (True, True, False, True, True):
        (full.set if turn else full.clear)()
        saver.begin(PHASE, 2, Progress())
        saver.finish()
    assert saver.log.stream.getvalue().count("no checkpoint, and the run goes on: ") == 4
    saver.begin(PHASE, 2, Progress())
    with pytest.raises(InputError, match=r"3 times in a row; the last checkpoint is .*phase1_iter_2\.caffemodel$"):
        saver.finish()
    last = r"make room, or write to another disk; the last checkpoint is .*phase1_iter_2\.caffemodel$"
    with pytest.raises(InputError, match=last):
        saver.save(PHASE, 3, Progress())


def test_an_error_of_the_training_names_the_checkpoint_that_is_being_written(saver, held):
    disk = held(files.os, "fsync")
    saver.begin(PHASE, 5, Progress())
    threading.Timer(0.05, disk.set).start()
    last = r"^NaN; the last checkpoint is .*phase1_iter_5\.caffemodel$"
    with pytest.raises(TrainingError, match=last), saver.naming_the_last():
        raise TrainingError("NaN")


def test_what_cannot_be_removed_is_said(saver, monkeypatch):
    saver.keep = 1
    saver.save(PHASE, 1, Progress())
    monkeypatch.setattr(checkpoint.Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only")))
    saver.save(PHASE, 2, Progress())
    assert "--keep: an older checkpoint could not be removed: " in saver.log.stream.getvalue()


def test_a_folder_of_checkpoints_that_was_removed_is_said_once(saver):
    saver.save(PHASE, 1, Progress())
    saver.folder.rename(saver.folder.with_name("elsewhere"))
    for iteration in (2, 3):
        saver.save(PHASE, iteration, Progress())
    line = f"{saver.folder}: was removed or renamed: it is made again, without the checkpoints before\n"
    assert saver.log.stream.getvalue().count(line) == 1
    assert manifest(saver, 2).exists()


def test_memory_is_that_of_the_weights_once_more(saver):
    saver.save(PHASE, 1, Progress())
    tracemalloc.start()
    try:
        saver.begin(PHASE, 2, Progress())
        saver.finish()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    largest = max(parameter.w.nbytes for parameter in saver.arena.parameters)
    assert peak < saver.arena.weights.nbytes + 4 * largest


def test_a_death_at_any_moment_leaves_a_whole_checkpoint(saver, tmp_path):
    """At each fsync and rename of the second checkpoint, before it and after it."""
    found = []
    saver.arena.weights[:] = 1
    saver.save(PHASE, 1, Progress())
    saver.arena.weights[:] = 2
    for turn in range(1, 10):
        for after in (False, True):
            folder = shutil.copytree(saver.folder, tmp_path / f"{turn}{after}")
            if not (child := os.fork()):
                dies_at(turn, after)
                checkpoint.save(folder, "1", 2, saver.arena, NET, Progress())
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 77
            last = checkpoint.latest(RECIPE, folder, pytest.fail)
            assert checkpoint.verify(last) is None
            checkpoint.load(last, saver.arena)
            assert (saver.arena.weights == last.iteration).all()
            saver.arena.weights[:] = 2
            found.append(last.iteration)
    assert found == [1] * 15 + [2] * 3  # from the rename of the manifest on


def dies_at(turn, after):
    """The process dies at its `turn`-th fsync or rename, before it or after it."""
    turns = iter(range(1, turn + 1))

    def calling(function, *args):
        last = next(turns, None) == turn
        if last and not after:
            os._exit(77)
        function(*args)
        if last:
            os._exit(77)

    os.fsync, os.replace = partial(calling, os.fsync), partial(calling, os.replace)


def test_other_ranks_write_nothing(saver):
    saver.world = SimpleNamespace(rank=1, barrier=lambda: None)
    saver.begin(PHASE, 5, Progress())
    saver.before_update()
    saver.save(PHASE, 6, Progress())
    assert not saver.folder.exists()


def test_a_slow_disk_changes_no_bit(data, tmp_path, monkeypatch):
    """The first checkpoint, of four iterations, is on the disk when two more are done."""
    words, later = [*SHORT, "--phase", "1", "--kernels", "numpy"], threading.Event()
    call("train", *arguments(data, tmp_path / "fast", *words))
    fsync, iteration = files.os.fsync, Log.iteration

    def slow(file):
        if threading.current_thread().name.startswith("checkpoint"):
            assert later.wait(20)
        fsync(file)

    def log(self, at, *args, **named):
        if at == 5:
            later.set()
        return iteration(self, at, *args, **named)

    monkeypatch.setattr(files.os, "fsync", slow)
    monkeypatch.setattr(Log, "iteration", log)
    call("train", *arguments(data, tmp_path / "slow", *words))
    folders = [tmp_path / name / "checkpoints" for name in ("fast", "slow")]
    names = sorted(path.name for path in folders[0].glob("*.[cs]*"))
    assert [sorted(path.name for path in folder.glob("*.[cs]*")) for folder in folders] == [names] * 2
    for file in names:
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file
    assert metrics(tmp_path / "fast") == metrics(tmp_path / "slow")
