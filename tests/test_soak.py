"""The soak ends with a failure if a run has left processes or files."""

import sys

import pytest

from tests.faults import soak


@pytest.mark.parametrize(
    ("leaks", "status"),
    [({"processes": 0, "folders of the MPI's launchers": 3}, 0), ({"processes": 1}, 1), ({"files of ours": 2}, 1)],
)
def test_its_exit_status(monkeypatch, capsys, leaks, status):
    monkeypatch.setattr(sys, "argv", ["soak"])
    monkeypatch.setattr(soak, "Reference", lambda *_: None)
    monkeypatch.setattr(soak.Soak, "run", lambda self: self.leaks.update(leaks))
    assert soak.main() == status
    assert "left: " in capsys.readouterr().out
