"""The quick part of the faults (tests/faults): each is injected into a real run, from which nothing is lost. And a part
of the records and runs that are changed at random; make test-faults and make fuzz have all.
"""

import random

import pytest

from tests.faults import records, resumes
from tests.faults.all import FAULTS
from tests.faults.case import Reference
from tests.faults.engine import play
from tests.faults.table import HEAD, row

COUNT = 300  # of changed records, and of changed runs


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return Reference(tmp_path_factory.mktemp("faults"))


@pytest.mark.ranks
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.quick], ids=lambda fault: fault.name)
def test_a_fault_is_survived(fault, reference, tmp_path):
    outcome = play(fault, tmp_path / "case", reference)
    if outcome.not_permitted:
        pytest.skip(outcome.not_permitted)
    assert not outcome.problem
    assert outcome.survived == outcome.injected == fault.runs
    assert len(row(fault, outcome)) <= 110 >= len(HEAD)


def test_names_are_those_of_one_fault():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert not {fault.name for fault in FAULTS} & {fault.group for fault in FAULTS}


@pytest.mark.filterwarnings("ignore:::PIL")  # which commands silence
@pytest.mark.parametrize("kind", [records, resumes], ids=["records", "resumes"])
def test_what_is_changed_at_random_is_used_correctly_or_reported(kind):
    counts = kind.run(COUNT, random.Random(1), lambda: None)
    assert not counts.findings, counts.findings[0]
    used = counts["records used"] if kind is records else counts["runs that went on from an older one"]
    reported = counts["records reported"] if kind is records else counts["runs reported"]
    assert used > COUNT / 10
    assert reported > COUNT / 30
