"""Buckets of gradients: what travels when, that all arrive, and what an error on the way does."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mpi.reducer import Reducer
from nptrain.exchange import Exchange, Times, room_for_sums


def test_buckets_fill_from_the_end_and_cover_all():
    sums = np.arange(100, dtype=np.float32)
    completed, summed = [], []
    with Reducer() as reducer:
        exchange = Exchange(sums, reducer.start, summed.append, bucket_bytes=4 * 30)
        for offset in (90, 65, 60, 20, 5, 0):
            exchange.ready(offset, completed.append)
        arrived = list(exchange.arrived())
    assert arrived == [slice(65, 100), slice(20, 65), slice(0, 20)]
    assert arrived == completed == summed
    assert [of.size for of in exchange.sent] == [4 * 35, 4 * 45, 4 * 20]


def test_bytes_on_the_way_may_be_fewer():
    sums = np.zeros(40)
    with Reducer() as reducer:
        exchange = Exchange(sums, reducer.start, lambda part: None, bucket_bytes=8 * 30, wire_bytes=2)
        for offset in (25, 10, 0):
            exchange.ready(offset)
        arrived = list(exchange.arrived())
    assert arrived == [slice(10, 40), slice(0, 10)]  # sizes of buckets are those of the array
    assert [of.size for of in exchange.sent] == [2 * 30, 2 * 10]


def test_sums_come_home():
    gradients = np.zeros(40, np.float32)
    assert room_for_sums(gradients, 2) is gradients
    sums = room_for_sums(gradients, 3)
    assert sums.dtype == np.float64
    sums[:] = np.arange(40)
    with Reducer() as reducer:
        exchange = Exchange(sums, reducer.start, lambda part: None, bucket_bytes=1)
        for offset in (25, 0):
            exchange.ready(offset)
        for part in exchange.home(gradients):
            assert (gradients[part] == np.arange(40)[part]).all()
    assert (gradients == np.arange(40)).all()


def test_they_travel_while_others_are_computed():
    def travel(part):
        time.sleep(0.05)
        sums[part] *= 2

    sums = np.ones(40, np.float32)
    with Reducer() as reducer:
        times = Times()
        exchange = Exchange(sums, reducer.start, travel, bucket_bytes=1)
        for offset in (30, 20, 10, 0):
            exchange.ready(offset)
            time.sleep(0.06)  # the backward pass before
        times.mark("backward_s")
        for part in exchange.arrived():
            assert (sums[part] == 2).all()
        times.mark("update_s")
        result = times.result(exchange)
    assert result["communication_s"] >= 0.2
    assert result["gradient_wait_s"] < 0.2  # it would be all, one after another
    assert 0 < result["hidden"] <= 1


def test_two_threads_let_two_buckets_travel_at_once():
    both = threading.Barrier(2, timeout=10)
    with Reducer([None, None]) as reducer:
        exchange = Exchange(np.zeros(40, np.float32), reducer.start, lambda part: both.wait(), bucket_bytes=1)
        for offset in (30, 20, 10, 0):
            exchange.ready(offset)
        assert len(list(exchange.arrived())) == 4
    sums = [SimpleNamespace(begin=begin, end=end) for begin, end in ((1.0, 3.0), (1.5, 2.0), (2.5, 4.0), (5.0, 6.0))]
    exchange.sent = sums
    assert exchange.travelled == 4.0  # what two do at once counts once


def test_an_error_on_the_way_surfaces():
    def fail(part):
        raise OSError("the network is down")

    with Reducer() as reducer:
        exchange = Exchange(np.zeros(10, np.float32), reducer.start, fail, bucket_bytes=1)
        exchange.ready(0)
        with pytest.raises(OSError, match="network is down"):
            list(exchange.arrived())
