"""A host's cores, divided among its ranks. Pure functions: `mpi.affinity` asks the machine.

A *core* is what Linux numbers as a CPU: a *physical core*, or one of its hyper-threads.
"""

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

ENOUGH_TO_SPARE_ONE = 8  # a rank of this many physical cores keeps one of them for communication


@dataclass(frozen=True)
class CoreRequest:
    """What a rank may use, and what the user asked for.

    granted       cores that it may use
    limit         CPU time that it may use, in cores (None: no limit)
    threads       threads that compute (None: one on each of its physical cores)
    comm_threads  threads that communicate (None: one, if the rank has enough physical cores and is not `alone`)
    alone         the run has no other rank on any host
    """

    granted: frozenset
    limit: float | None = None
    threads: int | None = None
    comm_threads: int | None = None
    alone: bool = False


@dataclass(frozen=True)
class CoreAssignment:
    """The cores that a rank gets.

    cores          all that it may run on; first one of each of its physical cores
    compute        the core of each thread that computes
    communication  the core of each thread that communicates
    full           each of its physical cores has a thread
    crowded        a core of the host has more than one thread
    pinned         threads stay on their cores
    """

    cores: tuple
    compute: tuple
    communication: tuple
    full: bool
    crowded: bool = False
    pinned: bool = False

    @property
    def threads(self):
        """How many threads compute."""
        return len(self.compute)

    @property
    def others(self):
        """Where threads run that neither compute nor communicate: on all cores but those for communication."""
        return tuple(core for core in self.cores if core in self.compute or core not in self.communication)

    def table(self):
        """What the table of hosts shows: cores as text ("any": not pinned), threads, communication cores as text."""
        compute = ranges(self.compute if self.full else self.others) if self.pinned else "any"
        return {"cores": compute, "threads": self.threads,
                "communication_cores": ranges(self.communication if self.pinned else ())}  # fmt: skip


def split(requests, node_of=None, physical_of=None):
    """Divide a host's cores among its ranks: a CoreAssignment for each of their `requests`.

    node_of      {core: NUMA node}; a core that is missing is on node 0
    physical_of  {core: name of its physical core}; a core that is missing is a physical core

    Every physical core goes to one rank, as evenly as the grants permit, and a rank's cores are on as few NUMA nodes as
    possible. A rank for which no physical core is left shares one: it gets a free hyper-thread, if there is one, else
    the core with the fewest threads.
    """
    node_of, physical_of = node_of or {}, physical_of or {}
    units = {}  # {physical core: its cores, in order}
    for core in sorted(frozenset().union(*(request.granted for request in requests))):
        units.setdefault(physical_of.get(core, ("core", core)), []).append(core)
    nodes = {unit: node_of.get(cores[0], 0) for unit, cores in units.items()}
    allowed = [{unit for unit, cores in units.items() if request.granted.intersection(cores)} for request in requests]
    taken = _deal(allowed, nodes, {unit: cores[0] for unit, cores in units.items()})

    uses, rank_cores = Counter(), []
    for request, own in zip(requests, taken, strict=True):
        siblings = [[core for core in units[unit] if core in request.granted] for unit in own]
        rank_cores.append([core for turn in itertools.zip_longest(*siblings) for core in turn if core is not None])
        uses.update(cores[0] for cores in siblings)
    for cores, request in zip(rank_cores, requests, strict=True):
        if not cores:  # every core it may use has a thread already
            cores.append(min(request.granted, key=lambda core: (uses[core], core)))
            uses[cores[0]] += 1

    assignments = [_assign(request, cores, max(1, len(own)))
                   for request, cores, own in zip(requests, rank_cores, taken, strict=True)]  # fmt: skip
    load = Counter(core for assignment in assignments for core in (*assignment.compute, *assignment.communication))
    crowded = max(load.values()) > 1
    return [replace(assignment, crowded=crowded) for assignment in assignments]


def _deal(allowed, nodes, first):
    """The physical cores of each rank, in order of NUMA node and number, among those `allowed` to it.

    Cores are dealt one at a time, to the rank that has the fewest. It takes a core that the fewest ranks may have;
    among these, one on the node where it has the most cores already; among these, one on the node with the most free
    cores for each rank there. At the end ranks swap equivalent cores (on the same node, allowed to the same ranks), so
    that each rank has neighbouring cores, which share a cache.
    """
    taken, free = [[] for _ in allowed], set(nodes)
    demand = Counter(unit for units in allowed for unit in units)
    while True:
        choosers = [rank for rank, units in enumerate(allowed) if units & free]
        if not choosers:
            break
        rank = min(choosers, key=lambda r: (len(taken[r]), len(allowed[r] & free), r))
        own_nodes = Counter(nodes[unit] for unit in taken[rank])
        free_nodes = Counter(nodes[unit] for unit in allowed[rank] & free)
        ranks_on = Counter(node for units in taken for node in {nodes[unit] for unit in units})

        def cost(unit, own_nodes=own_nodes, free_nodes=free_nodes, ranks_on=ranks_on):
            node = nodes[unit]
            return demand[unit], -own_nodes[node], -free_nodes[node] / (ranks_on[node] + 1), node, first[unit]

        best = min(allowed[rank] & free, key=cost)
        taken[rank].append(best)
        free.remove(best)

    groups = defaultdict(list)  # {(node, ranks that may have it): [(rank, core)]}
    for rank, units in enumerate(taken):
        for unit in units:
            groups[nodes[unit], tuple(unit in others for others in allowed)].append((rank, unit))
    dealt = [[] for _ in allowed]
    for (node, _), pairs in groups.items():
        for (rank, _), unit in zip(pairs, sorted((unit for _, unit in pairs), key=first.get), strict=True):
            dealt[rank].append((node, first[unit], unit))
    return [[unit for *_, unit in sorted(units, key=lambda entry: entry[:2])] for units in dealt]


def _assign(request, cores, physical):
    """The CoreAssignment of a rank on `cores`, of which the first `physical` belong to different physical cores. Each
    thread gets the next core, first those that compute; where cores run out, they start again from the first.
    """
    limit = physical if request.limit is None else max(1, min(physical, int(request.limit)))
    comm = request.comm_threads
    if comm is None:
        comm = 1 if limit >= ENOUGH_TO_SPARE_ONE and not request.alone else 0
    threads = max(1, limit - comm) if request.threads is None else request.threads
    places = list(itertools.islice(itertools.cycle(cores), threads + comm))
    return CoreAssignment(
        tuple(cores), tuple(places[:threads]), tuple(places[threads:]), full=threads + comm >= physical
    )


def ranges(cores):
    """Cores as text: 0-3,8 for 0, 1, 2, 3 and 8; "-" for none."""
    runs = []
    for core in sorted(set(cores)):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "-"
