"""What a run does against deaths and hangs: a snapshot of each iteration on every host, and a watchdog."""

import secrets

from bin.common.prepare import tell
from mpi.agree import raise_together
from nptrain.errors import InputError
from nptrain.run.snapshot import make_folder, place
from nptrain.run.snapshots import Snapshots, find
from nptrain.run.watchdog import Watchdog


def add_recovery_arguments(run):
    """Add the flags that the functions below read."""
    run.add_argument("--snapshot-folder", metavar="DIR", nargs="?", const="",
                     help="keep the state after each iteration in this folder of every host's local disk, to go on "
                          "from it after a rank or a host has died; without DIR, that for temporary files")  # fmt: skip
    run.add_argument("--stall-timeout", metavar="S", type=int, default=600,
                     help="end a run in which a rank has waited S seconds for other ranks, for a record, or for a "
                          "checkpoint to be written, with exit status 124 (%(default)s; 0: never; at the start at "
                          "least 600)")  # fmt: skip


def find_snapshot(args, folder, recipe, arena, world):
    """(identity of the run in a RunFolder, its Newest snapshot on any host or None). All ranks call it."""
    identity, newest = None, None
    with raise_together(world, InputError):
        if world.rank == 0:
            identity = folder.identity(args.resume)
        if args.snapshot_folder is not None:
            make_folder(place(args.snapshot_folder))
    identity = world.bcast(identity)
    if args.resume and args.snapshot_folder is not None:
        phases = [phase.name for phase in recipe.phases]
        newest = find(place(args.snapshot_folder), identity, arena, phases, world, tell)
    return identity, newest


def keep_snapshots(args, identity, arena, world, initializer, say):
    """The Snapshots of a run, which keep none without --snapshot-folder. All ranks call it."""
    if args.snapshot_folder is None:
        return Snapshots()
    with raise_together(world, InputError):
        folder = place(args.snapshot_folder)
        kept = Snapshots(folder, identity, arena, world, initializer)
        if kept.file:
            say(f"snapshots of each iteration: {kept.file.bytes / 1e6:.0f} MB in {folder}, on every host")
    return kept


def watchdog(args, world):
    """The Watchdog of a run, from its start on. All ranks call it."""
    folder = place(args.snapshot_folder) if world.local_size > 1 else None
    try:
        if folder:
            make_folder(folder)
    except InputError:  # ranks can do without: they say less of each other
        folder = None
    return Watchdog(args.stall_timeout, world, folder, world.bcast(secrets.token_hex(8)))
