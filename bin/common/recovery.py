"""What a run keeps to go on from after a rank or a host has died: a snapshot of each iteration, on every host."""

from bin.common.prepare import tell
from mpi.agree import raise_together
from nptrain.errors import InputError
from nptrain.run.snapshot import make_folder, place
from nptrain.run.snapshots import Snapshots, find


def add_snapshot_argument(run):
    """Add the flag that `find_snapshot` and `keep_snapshots` read."""
    run.add_argument("--snapshot-folder", metavar="DIR", nargs="?", const="",
                     help="keep the state after each iteration in this folder of every host's local disk, to go on "
                          "from it after a rank or a host has died; without DIR, that for temporary files")  # fmt: skip


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
