"""bin/inspect --all: every record of an LMDB by processes, those that training refuses with their keys and reasons."""

import json
import os
import re

import pytest
from commands import call
from images import image, image_file, make_dataset

from nptrain.data.classes import write_classes
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
from nptrain.errors import InputError
from nptrain.inspect import damaged
from nptrain.inspect.damaged import CHUNK, find_damaged

COUNT = 3 * CHUNK + 5
BAD = {1: b"junk", CHUNK: encoded_datum(image_file(image())[:-99], 1), COUNT - 1: encoded_datum(image_file(image()), 7)}


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """Records of which three are damaged: one is none, one does not decode, one has no class."""
    path = tmp_path_factory.mktemp("damaged") / "set"
    good = [encoded_datum(image_file(image(i)), i % 5) for i in range(COUNT)]
    write_lmdb(path, ((f"{i}.png", BAD.get(i, good[i])) for i in range(COUNT)))
    write_classes(path, list("abcde"))
    return path


@pytest.mark.parametrize("processes", [1, 3])
def test_what_training_refuses_is_found(some, processes):
    found = find_damaged(some, processes=processes)
    assert (found["records"], found["read"], found["damaged"]) == (COUNT, COUNT, 3)
    for line, index in zip(found["lines"], BAD, strict=True):
        with pytest.raises(InputError, match=re.escape(line)):
            LmdbDataset(some, classes=5)[index]
    assert find_damaged(some, limit=2)["damaged"] == 1


def test_the_command(some):
    output, errors = call("inspect", "--all", some, "--max-lines", "2", status=1)
    first, *lines = output.splitlines()
    assert re.fullmatch(rf"{some}: {COUNT} records, 3 damaged, [\d.]+ records/s", first)
    assert lines[0] == f"  {some}: record 00000001_1.png: found 4 bytes that are not a Datum"
    assert f"record {CHUNK:08}_{CHUNK}.png: the image does not decode: " in lines[1]
    assert lines[2:] == ["  and 1 more"]
    assert errors == "inspect: 3 damaged records: --max-bad-records of bin/train replaces them\n"
    output, _ = call("inspect", "--all", some, "--json", status=1)
    assert len(json.loads(output)["lines"]) == 3


def test_without_damage_the_status_is_0(tmp_path):
    make_dataset(tmp_path / "set", 3)
    output, errors = call("inspect", "--all", tmp_path / "set")
    assert output.startswith(f"{tmp_path}/set: 3 records, 0 damaged, ")
    assert (output.count("\n"), errors) == (1, "")


def test_what_is_refused(some, tmp_path):
    _, errors = call("inspect", "--all", tmp_path, status=2)
    assert errors.startswith(f"inspect: {tmp_path}: not an LMDB: ")
    _, errors = call("inspect", "--all", "--headers", some, status=2)
    assert errors == "inspect: --all: found together with --headers, expected one of them\n"


def test_a_process_that_dies_is_said(some, monkeypatch):
    monkeypatch.setattr(damaged, "_reason", lambda index: os._exit(9))
    with pytest.raises(InputError, match=r"record 00000000_0\.png: a process that read it, .* has died"):
        find_damaged(some, processes=2)
