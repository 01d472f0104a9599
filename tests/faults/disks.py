"""Disks that are full, slow to answer or small, and what users and other programs do to a run's folder and its data."""

import errno
import os
import shutil
import subprocess
from contextlib import suppress

import numpy as np
from images import make_dataset

from tests.faults.fault import Fault, Missed
from tests.faults.places import in_shell, small_disk

FULL = r"(No space left on device|Disk quota exceeded): make room, or write to another disk"
UNSAVED = r"no checkpoint, and the run goes on: .*/checkpoints/phase1_iter_\d+\.\w+: cannot be written: "


def fill(left):
    """An act: a file takes what room there is on the run's disk, but for `left` bytes."""

    def act(case):
        with open(case.seen / "filler", "wb") as file:
            for _ in range(20):  # the run writes at the same time
                room = os.statvfs(case.seen)
                with suppress(OSError):
                    return os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_bsize - left))
        raise Missed("the disk could not be filled")

    return act


def fill_then_make_room(left):
    """An act: the same, and the file is removed after the next checkpoint has failed."""

    def act(case):
        fill(left)(case)
        case.wait_for(lambda: "no checkpoint, and the run goes on" in case.said)
        make_room(case)

    return act


def plain(case):
    """A user starts it without what was around it."""
    case.inner = []


def make_room(case):
    (case.seen / "filler").unlink()


def read_only(case):
    """The folder of the checkpoints becomes read-only."""
    folder = case.run_dir / "checkpoints"
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"'
    subprocess.run([*map(str, case.outer), "sh", "-c", script, "sh", folder], check=True)


def can_be_written(case):
    subprocess.run([*map(str, case.outer), "umount", case.run_dir / "checkpoints"], check=True)


def of_data(damage, name="train"):
    """An act: damage(path of a data.mdb) in mid-run; the LMDB is as it was afterwards, by `mended`."""

    def act(case):
        damage(case.data / name / "data.mdb")

    return act


def truncate(part):
    """Cut a file off at so much of its length."""
    return lambda path: os.truncate(path, int(path.stat().st_size * part))


def noise(path):
    """Overwrite all of a file but its first two pages, in place."""
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(np.random.default_rng(1).bytes(path.stat().st_size - 8192))


def another_set(path):
    """Overwrite a file by that of another data set, in place."""
    make_dataset(path.parent.parent / "other", 20, width=30, height=30)
    other = (path.parent.parent / "other" / "data.mdb").read_bytes()
    with open(path, "r+b") as file:
        file.write(other)
        file.truncate()


def mended(case):
    """The data as they were."""
    shutil.rmtree(case.data)
    shutil.copytree(case.reference.data, case.data)


def larger(where):
    """What a user does: the small disk in the case's folder `where` gets more room."""

    def mend(case):
        words = [*map(str, case.outer), "mount", "-o", "remount,size=60m", case.folder / where]
        subprocess.run(words, check=True)

    return mend


def rename_folder(case):
    case.run_dir.rename(case.folder / "renamed")


def name_back(case):
    if case.run_dir.exists():
        shutil.rmtree(case.run_dir)
    (case.folder / "renamed").rename(case.run_dir)


def remove_folder(case):
    """All files, also those that are being written."""
    while case.run_dir.exists():
        shutil.rmtree(case.run_dir, ignore_errors=True)


def remove_metrics(case):
    os.replace(case.run_dir / "metrics.jsonl", case.folder / "metrics.jsonl")


def errors_of(call, number, turn, times=1, holds="/train/", rank=1):
    return ({"call": call, "holds": holds, "turn": turn, "rank": rank, "act": {"errno": number, "times": times}},)


RECORD = r"^train: (rank \d on \S+: )?\S*/{}: record \S+: "
TRAIN, VAL = RECORD.format("train"), RECORD.format("val")
GONE = r"^train: (rank 0 on \S+: )?\S+: removed, renamed or replaced while the run wrote to it; go on with --resume"
LOG = r"^train: .*metrics\.jsonl: cannot be written: "
MB = 1 << 20

DISKS = [
    *(Fault("disk", f"full at a checkpoint, {left // MB} MB left, then room again", fill_then_make_room(left),
            at=(8,), around=small_disk("60m"), lost=0, says=UNSAVED + FULL)
      for left in (MB, 4 * MB)),
    Fault("disk", "full at checkpoints, until the end", fill(MB), at=(2,), around=small_disk("60m"), status=(2,),
          says=UNSAVED + FULL, mend=make_room),
    Fault("disk", "full at metrics.jsonl", fill(0), at=(3, ), around=small_disk("60m"), flags=("--csv",), status=(2,),
          says=LOG + FULL, mend=make_room),
    Fault("disk", "checkpoints/ read-only from iteration 8 on", read_only, at=(8,), around=small_disk("60m"),
          status=(2,), says=UNSAVED + "Read-only file system: write to another folder", mend=can_be_written),
    Fault("disk", "output on a full disk", by="mpirun", around=in_shell('exec "$@" > /dev/full'), lost=0),
    Fault("disk", "the reader of the output has gone", by="mpirun", mend=plain, status=(1, 141, 0),
          around=in_shell('"$@" | head -n 12; exit ${PIPESTATUS[0]}')),
    *(Fault("disk", f"EIO at a checkpoint's {call}", lost=0, says=UNSAVED + "Input/output error",
            hooks=errors_of(call, errno.EIO, turn, holds="/checkpoints/", rank=0))
      for call, turn in (("open", 1), ("os.fsync", 2), ("os.replace", 1))),
    Fault("disk", "EIO at a manifest's os.replace", lost=0, says=r"/phase1_iter_6\.json on .*: trying again",
          hooks=errors_of("os.replace", errno.EIO, 3, holds="/checkpoints/", rank=0)),
    *(Fault("disk", f"{name} at a read of the data, {times} times", lost=0, says=rf"{said}",
            hooks=errors_of("os.pread", number, 60, times))
      for name, number, times, said in (("EIO", errno.EIO, 1, "Input/output error"),
                                        ("ESTALE", errno.ESTALE, 2, "Stale file handle"))),
    Fault("disk", "EIO at every read of a data set from now on", by="mpirun", status=(1,),
          says=TRAIN + "cannot be read: Input/output error", hooks=errors_of("os.pread", errno.EIO, 60, 10**9)),
    Fault("run folder", "renamed in mid-run, then named back", rename_folder, at=(8,), status=(2,), says=GONE,
          mend=name_back),
    Fault("run folder", "removed in mid-run", remove_folder, at=(8,), status=(2,), says=GONE, resumes=False),
    Fault("run folder", "metrics.jsonl removed in mid-run, then brought back", remove_metrics, at=(8,), status=(2,),
          says=GONE, mend=lambda case: os.replace(case.folder / "metrics.jsonl", case.run_dir / "metrics.jsonl")),
    *(Fault("data", f"{which} LMDB {name} in mid-run", of_data(damage, which), at=(at,), status=(2,),
            says=RECORD.format(which), mend=mended)
      for which, at in (("train", 3), ("val", 8))
      for name, damage in (("truncated to 0", truncate(0)), ("truncated to half", truncate(0.5)),
                           ("overwritten by noise", noise), ("overwritten by another set", another_set))),
    Fault("data", "train LMDB deleted in mid-run, open", of_data(os.unlink), at=(8,), lost=0),
    *(Fault("memory files", f"/dev/shm of {size}", around=small_disk(size, "/dev/shm"), by="mpirun", ranks=ranks,
            lost=0)
      for size, ranks in (("64m", 4), ("4m", 2), ("1m", 2))),
    *(Fault("memory files", f"TMPDIR of {size}", around=small_disk(size, "tmp"), by="mpirun", lost=0)
      for size in ("4m", "1m")),
    Fault("memory files", "TMPDIR of 64k, then a larger one", around=small_disk("64k", "tmp"), by="mpirun",
          status=(1, 135, 213), lost=0, mend=larger("tmp")),
    Fault("memory files", "no room for snapshots", around=small_disk("4m", "kept"), by="mpirun", status=(2,),
          says=r"^train: .*kept.*: cannot be written: No space left on device: make room", mend=larger("kept")),
]  # fmt: skip
