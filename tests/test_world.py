"""One process without MPI: the interface of the ranks, of which there is one, and sums that are made at once."""

import inspect

import numpy as np
import pytest

from mpi import reducer, ulfm, world
from nptrain.world import ImmediateReducer, Reducer, Solo, World


@pytest.mark.parametrize(("interface", "kinds"), [(World, (Solo, world.World, ulfm.SurvivingWorld)),
                                                  (Reducer, (ImmediateReducer, reducer.Reducer))])  # fmt: skip
def test_both_kinds_have_the_whole_interface(interface, kinds):
    for name, method in inspect.getmembers(interface, inspect.isfunction):
        for kind in kinds if not name.startswith("_") else ():
            assert [*inspect.signature(getattr(kind, name)).parameters] == [*inspect.signature(method).parameters], name


def test_one_process_has_all_that_ranks_have():
    assert {name for name in dir(world.World) if not name.startswith("_")} <= {*dir(Solo)}


def test_a_rank_alone():
    solo, array, out = Solo(), np.arange(3.0), np.zeros(3)
    solo.allreduce(array)
    solo.bcast_array(array)
    assert array.tolist() == [0, 1, 2]
    assert (solo.rank, solo.size, solo.bcast("x"), solo.allgather("x")) == (0, 1, "x", ["x"])
    assert solo.allreduce_scalars([np.float32(0.5), 1]) == [0.5, 1.0]
    solo.allreduce_by([array, array], [2], sum, out)
    assert out.tolist() == [0, 2, 4]
    called = []
    solo.one_per_host_first(lambda: called.append(1))
    assert called == [1]


def test_a_sum_is_there_when_it_is_begun():
    done = []
    with Solo().reducer(threads=3, initializers=[done.append]) as immediate:
        future = immediate.start(lambda *args: done.append(args) or sum(args), 1, 2)
        assert done == [(1, 2)]
        assert future.done()
        assert future.result() == 3


def test_its_error_comes_with_the_result():
    with ImmediateReducer() as immediate:
        future = immediate.start(lambda: 1 / 0)
        assert immediate.start(int, "7").result() == 7
        with pytest.raises(ZeroDivisionError):
            future.result()
