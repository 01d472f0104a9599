"""bin/doctor: a line for each check, and an exit status."""

import subprocess
from types import SimpleNamespace

import pytest
from commands import call, launcher

from bin.commands import doctor
from kernels import cache
from mpi.check import trial
from nptrain.world import Solo

NAMES = ["versions", "cpu", "cores", "memory", "kernels", "mpi", "disk", "snapshots", "lmdb"]


@pytest.fixture
def answer(monkeypatch):
    """A function: what the trial of MPI prints and its exit status."""

    def of(output, status=0, errors=""):
        done = SimpleNamespace(stdout=output, stderr=errors, returncode=status)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)

    of('{"ranks": 2, "library": "An MPI 1.0", "thread_level": "multiple", "right": true, "gb_per_s": 1.5}\n')
    return of


def test_a_line_for_each_check(data, tmp_path, answer):
    words = ["--run-dir", tmp_path / "runs", "--data", data, "--data", data / "val"]
    output, errors = call("doctor", *words)
    lines = [line.split(maxsplit=2) for line in output.splitlines()]
    assert [line[0] for line in lines] == [*NAMES, "data", "data", "data"]
    assert {line[1] for line in lines} <= {"ok", "note"}
    assert f"{data}/train: 41 records, labels up to 4; " in output
    assert "An MPI 1.0, thread level multiple; the sum of 16 MiB over 2 ranks: 1.5 GB/s\n" in output
    assert (errors, list(tmp_path.iterdir())) == ("", [])


def test_what_fails_gives_the_exit_status(tmp_path, answer):
    answer("", 213, "-----\nno network\n")
    (tmp_path / "file").touch()
    words = ["--data", tmp_path / "none", "--run-dir", tmp_path / "file" / "runs"]
    output, errors = call("doctor", *words, status=1)
    failed = {line.split()[0]: line for line in output.splitlines() if line.split()[1] == "FAILS"}
    assert [*failed] == ["mpi", "disk", "data"]
    assert failed["mpi"].endswith(" ended with status 213 and said: no network")
    assert failed["disk"].endswith(f"{tmp_path}/file/runs: cannot be written: Not a directory")
    assert errors == ""


def test_ranks_that_are_alone(answer):
    answer('{"ranks": 1, "library": "none", "right": false}\n' * 2)
    state, text = doctor.mpi(2)
    assert (state, text.split(" belong to ")[1]) == ("FAILS", "two MPIs: every rank believes that it is alone")


def test_what_is_worse_than_it_could_be(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "place", lambda: tmp_path)
    assert doctor.snapshots()[0] == "ok"
    for number in range(2):
        (tmp_path / f"run.{number}.snapshot").write_bytes(b"x" * 100_000_000)
    state, text = doctor.snapshots()
    assert state == "note"
    assert f"{tmp_path}: 2, 0.2 GB, of runs " in text
    monkeypatch.setattr(doctor, "quota", lambda: 0.5)
    monkeypatch.setattr(doctor, "available_bytes", lambda: 10**9)
    monkeypatch.setattr(doctor, "package_versions", lambda: {"python": "3", "numpy": "1.0"})
    monkeypatch.setattr(cache, "note", "compiled kernels go to /tmp/x")
    assert doctor.cores()[0] == doctor.memory()[0] == "note"
    assert doctor.kernels() == ("note", "compiled kernels go to /tmp/x")
    state, text = doctor.versions()
    assert state == "note"
    assert text.startswith("numpy 1.0, expected ")


@pytest.mark.parametrize(
    ("facts", "state", "said"),
    [
        (
            "flags\t\t: fma sse\nmodel name\t: Old",
            "FAILS",
            "Old: found no avx2, expected an x86-64 processor with AVX2 and FMA",
        ),
        ("flags\t\t: fma avx2\nmodel name\t: A: B", "note", "A: B: AVX2; AVX-512 would be faster"),
        ("flags : fma avx2 avx512f\n\nmodel name : C", "ok", "C: AVX-512, without bf16: it would save memory only"),
        ("flags : fma avx2 avx512f avx512_bf16", "ok", ": AVX-512, with bf16: --precision bf16 is faster"),
        ("Features : neon", "FAILS", "found no avx2 and no fma, expected an x86-64 processor with AVX2 and FMA"),
    ],
)
def test_processors(tmp_path, monkeypatch, facts, state, said):
    (tmp_path / "cpuinfo").write_text(facts)
    monkeypatch.setattr(doctor, "CPU", tmp_path / "cpuinfo")
    found, text = doctor.cpu()
    assert found == state
    assert text.endswith(said)


def test_a_wrong_sum_is_noticed():
    world = Solo()
    assert trial(world)["right"] is True
    world.allreduce = lambda array: array.__iadd__(1)
    assert trial(world)["right"] is False


@pytest.mark.ranks
def test_the_trial_of_mpi():
    launcher(2)
    state, text = doctor.mpi(2)
    assert state == "ok", text
