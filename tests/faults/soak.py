"""python -m tests.faults.soak [--minutes N] [--ulfm]: the small job under bin/supervise, whose ranks, launchers, hosts'
processes and supervisors are killed, told to end and stopped at random moments, run after run.

Every run must end with the bits of an undisturbed one. At the end nothing is left, and nothing has grown. The
exit status is 1 if processes or files of ours are left.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext, suppress
from pathlib import Path

from hosts import processes_of_node_b

from tests.faults.case import Case, Reference
from tests.faults.engine import expect_same
from tests.faults.fault import Fault, Missed, NotPermitted
from tests.faults.places import two_hosts

RANKS = 3
KILL, TERM, STOP = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP
VICTIMS = (  # (weight, who, signal); of a run under ULFM, and of one on two hosts, others as well
    (30, "a rank", KILL), (8, "two ranks", KILL), (3, "all ranks", KILL), (10, "launcher", KILL), (6, "mpirun", KILL),
    (5, "a rank", TERM), (4, "supervise", TERM), (3, "supervise", KILL), (3, "a rank", STOP),
)  # fmt: skip
ON_HOSTS = ((20, "node-b's processes", KILL), (10, "node-b's daemon", KILL))
PATIENCE = 90  # s for a new iteration
STALL = 4  # s: --stall-timeout


class Soak:
    """So many rounds as there is time for; `counts` are kills by kind, and starts, iterations and rounds."""

    def __init__(self, args, folder):
        self.args, self.folder, self.rng = args, folder, random.Random(args.seed)
        self.counts, self.leaks, self.growth, self.names = Counter(), Counter(), {}, set()
        self.reference = Reference(folder, args.iterations)

    def run(self):
        end, turn = time.monotonic() + 60 * self.args.minutes, 0
        while time.monotonic() < end:
            hosts = self.args.hosts and turn % 2 == 1
            fault = Fault("soak", "soak", around=two_hosts if hosts else nullcontext, ranks=2 if hosts else RANKS,
                          flags=("--stall-timeout", str(STALL)), more=("--tries", "50", "--stall", "40"))  # fmt: skip
            case = Case(fault, self.folder / str(turn), self.reference, self.rng)
            case.mode, case.always = (["--with-ft", "ulfm"] if self.args.ulfm else []), True
            try:
                with fault.around(case):
                    self.round(case, VICTIMS + ON_HOSTS * hosts, end)
            except NotPermitted as reason:
                print(f"no hosts: {reason}")
                self.args.hosts = False
            turn += 1

    def round(self, case, victims, end):
        """A run, until it is done. After `end` it is left alone."""
        watched = Watched()
        case.start()
        while True:
            with suppress(Missed):
                self.disturb(case, victims, end, watched)
            status = case.process.wait()
            self.counts["starts"] += 1 + case.said.count("; starts again in ")
            if status == 0:
                break
            assert status in (75, -KILL, 128 + KILL), f"status {status}: {case.said}"
            self.all_gone(case)
            case.start(resume=(case.seen / "run.json").exists())
        self.counts["rounds"] += 1
        self.counts["iterations"] += self.args.iterations
        expect_same(case.seen, self.reference.folder, self.args.iterations)
        self.count_left(case)
        for name, values in watched.items():
            half = values[: -(-len(values) // 2)]
            self.growth[name] = max(self.growth.get(name, 0), values[-1] - max(half))

    def disturb(self, case, victims, end, watched):
        """Kill again and again, until the supervisor ends. Raises Missed when it has."""
        while time.monotonic() < end:
            at = case.iterations
            if self.rng.random() < 0.85:  # else also in a start
                case.wait_for(lambda at=at: case.iterations > at + 1, PATIENCE)
                watched.look(case.processes())
            until = time.monotonic() + self.rng.uniform(0, 1.5)
            case.wait_for(lambda until=until: time.monotonic() > until)
            weights = [weight for weight, _, _ in victims]
            _, who, number = self.rng.choices(victims, weights)[0]
            self.counts[f"{signal.Signals(number).name} of {who}"] += self.send(case, who, number)
        case.process.wait(PATIENCE * 3)

    def send(self, case, who, number):
        """Send a signal. Returns to how many processes."""
        found, ranks = case.processes(), []
        if who.startswith("node-b"):
            node = processes_of_node_b(case.run_dir)
            ranks = [pid for pid, words in node.items() if "daemon" not in who or b"prted" in words]
        elif "rank" in who:
            count = {"a": 1, "two": 2, "all": RANKS}[who.split()[0]]
            alive = [pid for rank, pid in found.items() if isinstance(rank, int)]
            ranks = self.rng.sample(alive, min(count, len(alive)))
        elif who in found:
            ranks = [found[who]]
        for pid in ranks:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(ranks)

    def all_gone(self, case):
        """Wait until nothing of a supervisor that has ended runs any more."""
        deadline = time.monotonic() + 30
        while (left := case.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.leaks["processes"] += len(left)
        case.kill()

    def count_left(self, case):
        self.all_gone(case)
        files = [
            *case.kept.rglob("*.*"),
            *case.seen.rglob("*.tmp"),
            *case.temporary.glob("nptrain-hosts-*"),
            *case.temporary.glob("nptrain-[0-9]*/*"),
        ]  # not nptrain-UID itself, where snapshots are by default
        self.leaks["files of ours"] += len(files)
        self.names |= {path.name for path in files}
        others = [path for path in case.temporary.iterdir() if not path.name.startswith("nptrain-")]
        self.leaks["folders of the MPI's launchers"] += len(others)


class Watched(dict):
    """{"threads of rank 0", ...: the values at each look}."""

    def look(self, found):
        for who, name in (("supervise", "bin/supervise"), (0, "rank 0")):
            with suppress(OSError, KeyError, IndexError):
                place = Path(f"/proc/{found[who]}")
                status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
                memory = int(status["VmRSS"].split()[0]) >> 10
                seen = {"MB": memory, "threads": int(status["Threads"]), "descriptors": len(os.listdir(place / "fd"))}
                for what, value in seen.items():
                    self.setdefault(f"{what} of {name}", []).append(value)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=200, help="of a run (%(default)s)")
    parser.add_argument("--ulfm", action="store_true", help="under mpirun --with-ft ulfm")
    parser.add_argument("--no-hosts", dest="hosts", action="store_false", help="no runs on two hosts")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nptrain-soak-") as folder:
        soak, begun = Soak(args, Path(folder)), time.monotonic()
        soak.run()
    kills = {what: count for what, count in soak.counts.items() if what.startswith("SIG")}
    print(f"{sum(kills.values())} kills: {', '.join(f'{count} {what}' for what, count in kills.items())}")
    print(", ".join(f"{soak.counts[what]} {what}" for what in ("rounds", "starts", "iterations"))
          + f" in {time.monotonic() - begun:.0f} s; all rounds ended with the bits of an undisturbed one")  # fmt: skip
    print("left: " + ", ".join(f"{count} {what}" for what, count in sorted(soak.leaks.items())))
    print(*sorted(soak.names))
    grown = (f"{value} {what}" for what, value in soak.growth.items())
    print("grown at most, from a round's first half to its end: " + ", ".join(grown))
    return int(soak.leaks["processes"] + soak.leaks["files of ours"] > 0)


if __name__ == "__main__":
    sys.exit(main())
