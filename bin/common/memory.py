"""Whether a run fits into the memory of its hosts."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mpi.agree import raise_together
from nptrain.errors import InputError, shortage
from nptrain.plan.needs import memory_bytes

GB = 1e9
PARTS = [2**power for power in range(1, 11)]  # batches that are tried in place of one that does not fit, as parts of it


def expect_memory(recipe, threads, world):
    """Raise AgreedError if the ranks of a host need more memory than it has, with flags that help. All ranks call it.

    threads  of this rank's kernels
    """
    ranks = world.allgather(world.host).count(world.host)
    with raise_together(world, InputError):
        found, need = available_bytes(), ranks * needed_bytes(recipe, threads)
        if need > found:
            who = f"{ranks} ranks need" if ranks > 1 else "this process needs"
            raise InputError(f"memory of {world.host}: {who} {need / GB:.1f} GB, found {found / GB:.1f} GB available; "
                             + "; ".join(helps(recipe, threads, ranks, found)))  # fmt: skip


@contextmanager
def naming_need(recipe, threads):
    """An error of the block that means that memory is short also says what a rank needs, and what there is."""
    need = needed_bytes(recipe, threads)
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        asked = shortage(error)
        if asked is None:
            raise
        raise MemoryError(f"{asked}; a rank needs {need / GB:.1f} GB in all, {available_bytes() / GB:.1f} GB are left; "
                          + "; ".join(helps(recipe, threads, 1, need / 2))) from None  # fmt: skip


def largest(recipe):
    """The recipe with the largest batch of its phases in all of them."""
    batch = max(recipe.batch_of(phase) for phase in recipe.phases)
    return replace(recipe, batch_size=batch, phases=tuple(replace(p, batch_size=None) for p in recipe.phases))


def needed_bytes(recipe, threads):
    """Bytes of a rank."""
    return sum(memory_bytes(largest(recipe), threads).values())


def helps(recipe, threads, ranks, found):
    """What to do if a recipe needs more than `found` bytes: texts with flags."""
    batch = largest(recipe).batch_size
    for part in (part for part in PARTS if batch % part == 0):
        smaller = replace(largest(recipe), batch_size=batch // part, test_batch_size=None)
        if ranks * needed_bytes(smaller, threads) <= found:
            passes = f" --set iter_size={part}" if all(phase.iter_size == 1 for phase in recipe.phases) else ""
            yield f"--batch-size {batch // part}{passes} needs {ranks * needed_bytes(smaller, threads) / GB:.1f} GB"
            break
    else:
        yield "a smaller --crop-size or --set depth=18 needs less"
    if ranks > 1:
        yield "fewer ranks on each host need less"


def available_bytes(proc=Path("/proc"), groups=Path("/sys/fs/cgroup")):
    """Bytes that this host has for new data, swap space included, or fewer if a control group of this process, of
    version 2 or 1, sets a limit.
    """
    lines = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    info = {name.rstrip(":"): 1024 * int(size) for name, size, *_ in lines}
    found = [info["MemAvailable"] + info["SwapFree"]]
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = groups / controllers
            own = root / path.lstrip("/")
            found += [left for folder in (own, *own.parents) if folder.is_relative_to(root) and
                      (left := _left(folder)) is not None]  # fmt: skip
    return max(0, min(found))


def _left(group):
    """Bytes that a control group has left, None without a limit. What files occupy can be given back at once."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = ((group / name).read_text().strip() for name in (limit, used))
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        return None if most == "max" else int(most) - int(now) + int(stat.get(cached, 0))
    return None
