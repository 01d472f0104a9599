"""Injects a fault into runs of the job, and checks that nothing is lost."""

import random
import re
import shutil
import subprocess
import time

import pytest
from short_runs import metrics

from tests.faults.case import EACH, ITERATIONS, Case
from tests.faults.fault import Missed, NotPermitted, Outcome

TRIES = 3  # for a fault that is to be injected at a moment that may pass


def play(fault, folder, reference, seed=0):
    """Inject a Fault into so many runs as it says. Returns the Outcome; `folder` is a new one, which is removed."""
    total = Outcome()
    for turn in range(fault.runs):
        for attempt in range(TRIES):
            place = folder / f"{turn}.{attempt}"
            try:
                found = once(Case(fault, place, reference, random.Random(f"{seed} {fault.name} {turn} {attempt}")))
                break
            except NotPermitted as reason:
                total.not_permitted = str(reason)
                return total
            except Missed as reason:
                found = Outcome(1, problem=str(reason))
            finally:
                shutil.rmtree(place, ignore_errors=True)
        total.add(found)
    return total


def once(case):
    """One run. Returns its Outcome."""
    fault, outcome = case.fault, Outcome()
    with fault.around(case):
        try:
            run(case, outcome)
            outcome.survived = outcome.injected
        except (AssertionError, OSError, subprocess.SubprocessError) as problem:
            outcome.problem = str(problem) or "an assertion"
        finally:
            outcome.injected = max(outcome.injected, len(case.moments), 1)
            case.kill()
    return outcome


def run(case, outcome):
    """The run, its end, what a user does then, and the comparison. Raises AssertionError where something is lost."""
    fault = case.fault
    if fault.before:
        case.reference.copy_of_part(case.run_dir)
        fault.before(case)
        case.moments.append(time.time())
    case.start(resume=bool(fault.before), hooks=fault.hooks)
    for at in moments(fault, case.rng) if fault.act else ():
        case.strike(at)
    status = case.finish()
    case.moments += sorted(mark.stat().st_mtime for mark in case.folder.glob("struck*"))
    if fault.hooks and len(case.moments) < len(fault.hooks):
        raise Missed("a call at which the fault strikes did not come")
    outcome.injected = max(1, len(case.moments))
    expect_end(case, status)
    again = case.lost_in_restarts()
    outcome.ways.add("starts again" if again or "starts again" in case.said else "goes on" if not status else "ends")
    outcome.lost += again
    if fault.before and not status:
        outcome.lost.append(ITERATIONS - EACH - case.resumed()[0])
    if status and fault.resumes:
        resume(case, outcome)
    if fault.check:
        fault.check(case)
    expect_nothing_left(case)
    if fault.resumes:
        expect_same(case.seen, case.reference.folder)
        outcome.seconds += case.gaps()
    assert all(lost <= fault.lost for lost in outcome.lost), f"lost {outcome.lost}, expected at most {fault.lost} each"


def moments(fault, rng):
    """The iterations after which the fault is injected: one in the first half of each of equal parts of the run."""
    if not isinstance(fault.at, int):
        return fault.at
    part = ITERATIONS / fault.at
    return [1 + int(part * (turn + rng.uniform(0, 0.5))) for turn in range(fault.at)]


def expect_end(case, status):
    fault, said = case.fault, case.said
    assert status in fault.status, f"status {status}, expected {fault.status}: {said[-3000:]}"
    assert "Traceback" not in said, said[-3000:]
    found = len(re.findall(fault.says, said, re.M))
    wanted = max(1, len(case.moments)) if fault.by == "supervise" and status == 0 else 1
    right = not fault.says or (found == 1 if fault.once else found >= wanted)
    assert right, f"{fault.says!r}: found {found} times in: {said[-3000:]}"


def resume(case, outcome):
    """Do what a user does, and go on to the end."""
    fault, logged = case.fault, case.iterations
    deadline = time.monotonic() + 10
    while case.processes() and time.monotonic() < deadline:  # of a launcher that was killed
        time.sleep(0.05)
    if fault.mend:
        fault.mend(case)
    case.moments = case.moments or [time.time()]
    case.start(resume=(case.seen / "run.json").exists())
    status = case.finish()
    assert status == 0, f"--resume: status {status}: {case.said[-3000:]}"
    assert "Traceback" not in case.said, case.said
    outcome.lost.append(max(0, logged - (case.resumed() or [0])[0]))
    outcome.ways.add("--resume")


def expect_nothing_left(case):
    """No process, no temporary file, no snapshot of a run that is done."""
    deadline = time.monotonic() + 5
    while (left := case.processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, f"processes are left: {left}"
    files = [*case.seen.glob(".*.tmp"), *case.seen.glob("checkpoints/.*"), *case.kept.glob("nptrain-*/*")]
    assert not files or not case.fault.resumes, f"files are left: {files}"


def expect_same(run, whole, iterations=ITERATIONS):
    """The weights and the momentum of the last checkpoint, byte for byte, and the metrics; of tests up to rounding."""
    for kind in ("caffemodel", "solverstate"):
        name = f"checkpoints/phase1_iter_{iterations}.{kind}"
        assert (run / name).read_bytes() == (whole / name).read_bytes(), f"{name} has other bits"
    ours, expected = ([{k: v for k, v in e.items() if k != "slow"} for e in metrics(each)] for each in (run, whole))
    expected = [{**e, "test_loss": pytest.approx(e["test_loss"])} if "top1" in e else e for e in expected]
    assert ours == expected, "metrics.jsonl has other lines"
