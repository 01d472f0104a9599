"""Cores divided among the ranks of made-up machines."""

from dataclasses import replace

import pytest

from mpi.cores import CoreRequest, ranges, split

NODES = {core: core // 20 for core in range(40)}  # two sockets of 20 cores
THREADED = {core: core % 40 for core in range(80)}  # the same with hyper-threads: 40..79 are the second ones
THREADED_NODES = {core: core % 40 // 20 for core in range(80)}
ALL = frozenset(range(40))


def texts(assignments):
    return [(ranges(assignment.compute), ranges(assignment.communication)) for assignment in assignments]


def divide(*granted, nodes=None, physical=None, **asked):
    return split([CoreRequest(frozenset(cores), **asked) for cores in granted], nodes, physical)


@pytest.mark.parametrize(
    ("ranks", "assignments"),
    [
        (1, [("0-38", "39")]),
        (2, [("0-18", "19"), ("20-38", "39")]),
        (4, [("0-8", "9"), ("20-28", "29"), ("10-18", "19"), ("30-38", "39")]),
        (3, [("0-9,20-22", "23"), ("24-35", "36"), ("10-19,37-38", "39")]),
        (8, [("0-4", "-"), ("20-24", "-"), ("5-9", "-"), ("25-29", "-"), ("10-14", "-"), ("30-34", "-"),
             ("15-19", "-"), ("35-39", "-")]),
    ],
)  # fmt: skip
def test_two_sockets_of_twenty_cores(ranks, assignments):
    found = divide(*[ALL] * ranks, nodes=NODES)
    assert texts(found) == assignments
    assert sorted(core for assignment in found for core in assignment.cores) == list(range(40))
    assert not any(assignment.crowded for assignment in found)
    assert all(assignment.full for assignment in found)
    sizes = [len(assignment.cores) for assignment in found]
    assert max(sizes) - min(sizes) <= 1


def test_ranks_bound_to_sockets_keep_to_them():
    left, right = frozenset(range(20)), frozenset(range(20, 40))
    found = divide(right, left, right, left, nodes=NODES)
    assert texts(found) == [("20-28", "29"), ("0-8", "9"), ("30-38", "39"), ("10-18", "19")]


def test_an_uneven_cpuset_is_divided_evenly():
    found = divide(*[range(16, 32)] * 2, nodes=NODES)  # 4 cores of the first node, 12 of the second
    assert [len(assignment.cores) for assignment in found] == [8, 8]
    assert not set(found[0].cores) & set(found[1].cores)


@pytest.mark.parametrize(
    ("granted", "compute"),
    [
        ([{3}], [(3,)]),
        ([{0}, {1}], [(0,), (1,)]),
        ([{0, 1}, {0}], [(1,), (0,)]),
        ([{0}, {0, 1}], [(0,), (1,)]),
        ([{0, 1, 2}, {2, 3, 4}], [(0, 1), (3, 4)]),
        ([{0, 1, 2}, {0, 1}, {0, 1}], [(2,), (0,), (1,)]),
        ([range(4)] * 3, [(0, 1), (2,), (3,)]),
    ],
)
def test_bound_and_overlapping_sets(granted, compute):
    found = divide(*granted)
    for assignment, expected in zip(found, compute, strict=True):
        assert set(expected) <= set(assignment.compute)
    assert not any(assignment.crowded for assignment in found)


@pytest.mark.parametrize("granted", [[{5}, {5}], [{0, 1}] * 3])
def test_more_ranks_than_cores_share_them_and_it_shows(granted):
    found = divide(*granted)
    assert all(assignment.threads == 1 and assignment.crowded for assignment in found)
    assert {assignment.compute[0] for assignment in found} == set(granted[0])


def test_one_thread_a_physical_core():
    found = divide(*[range(80)] * 2, nodes=THREADED_NODES, physical=THREADED)
    assert texts(found) == [("0-18", "19"), ("20-38", "39")]
    assert ranges(found[0].cores) == "0-19,40-59"
    assert ranges(found[0].others) == "0-18,40-59"
    assert not found[0].crowded


def test_second_hyper_threads_are_used_when_asked_for():
    found = divide({0, 1, 2, 3}, physical={0: 0, 1: 0, 2: 1, 3: 1}, threads=3)
    assert found[0].compute == (0, 2, 1)
    assert not found[0].crowded
    ranks = divide(*[{0, 1, 2, 3}] * 4, physical={0: 0, 1: 0, 2: 1, 3: 1})
    assert sorted(core for assignment in ranks for core in assignment.compute) == [0, 1, 2, 3]
    assert not ranks[0].crowded


@pytest.mark.parametrize(
    ("cores", "asked", "threads", "comm", "full", "crowded"),
    [
        (8, {}, 7, 1, True, False),
        (7, {}, 7, 0, True, False),
        (8, {"alone": True}, 8, 0, True, False),
        (8, {"comm_threads": 0}, 8, 0, True, False),
        (8, {"comm_threads": 2}, 6, 2, True, False),
        (8, {"threads": 8}, 8, 1, True, True),
        (8, {"threads": 3}, 3, 1, False, False),
        (1, {"comm_threads": 1}, 1, 1, True, True),
        (2, {"threads": 3}, 3, 0, True, True),
        (8, {"limit": 4.5}, 4, 0, False, False),
        (20, {"limit": 10}, 9, 1, False, False),
        (4, {"limit": 0.5}, 1, 0, False, False),
        (4, {"limit": 64.0}, 4, 0, True, False),
        (8, {"limit": 2, "threads": 8, "comm_threads": 0}, 8, 0, True, False),
    ],
)
def test_threads_and_communication_cores(cores, asked, threads, comm, full, crowded):
    (assignment,) = divide(range(cores), **asked)
    assert (assignment.threads, len(assignment.communication), assignment.full, assignment.crowded) == (
        threads,
        comm,
        full,
        crowded,
    )
    assert assignment.others


@pytest.mark.parametrize(
    ("asked", "pinned", "row"),
    [
        ({}, True, ("0-6", 7, "7")),
        ({"threads": 2, "comm_threads": 0}, True, ("0-7", 2, "-")),
        ({}, False, ("any", 7, "-")),
    ],
)
def test_what_people_are_told(asked, pinned, row):
    (assignment,) = divide(range(8), **asked)
    assert tuple(replace(assignment, pinned=pinned).table().values()) == row


def test_ranges():
    assert ranges([8, 0, 1, 2, 3]) == "0-3,8"
    assert ranges([5, 5]) == "5"
    assert ranges([]) == "-"
