"""The register tiles of the kernels, each alone with its operands in the L1 cache, on one core."""

import statistics

import numba

from kernels import cpu, tile_loops
from nptrain.bench.timing import samples
from nptrain.errors import InputError


def measure(repeats, precision="float32"):
    """A row for each tile: its share of the FMA peak of one core, which is measured in turn with them."""
    threads = numba.get_num_threads()
    cpu.set_threads(1)
    try:
        loops = tile_loops.loops(precision == "bf16")
        sides = {loop: (lambda loop=loop: tile_loops.speed(loop)) for loop in loops}
        found = samples({None: lambda: cpu.fma_peak(1, precision) * 1e9, **sides}, repeats)
    finally:
        cpu.set_threads(threads)
    peak = max(found.pop(None))
    rows = [{"tile": loop.name, "rounds": loop.rounds, "of_peak": statistics.median(speeds) / peak}
            for loop, speeds in found.items()]  # fmt: skip
    return {"rows": rows, "threads": 1, "repeats": repeats, "precision": precision, "peak_gflops": peak / 1e9}


def assembly(tile, precision="float32"):
    """The inner loop's code of a tile of the table, as "6x4". Raises InputError if there is none of that name."""
    loops = {loop.name: loop for loop in tile_loops.loops(precision == "bf16")}
    if tile not in loops:
        raise InputError(f"--assembly: found {tile!r}, expected one of {', '.join(loops)}")
    return tile_loops.assembly(loops[tile])
