"""python -m tests.faults [WORD...]: injects the faults, prints the table, and why a fault was not survived."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.all import FAULTS
from tests.faults.case import Reference
from tests.faults.engine import play
from tests.faults.table import HEAD, row


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("words", metavar="WORD", nargs="*", help="faults whose group or name has one of these (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="those of make test alone")
    parser.add_argument("--folder", type=Path, help="keep the undisturbed run here, and use it again")
    parser.add_argument("--list", action="store_true", help="print their names")
    args = parser.parse_args()
    chosen = [fault for fault in FAULTS if not args.quick or fault.quick]
    chosen = [f for f in chosen if not args.words or any(word in (f.group, f.name) for word in args.words)]
    if args.list:
        print("\n".join(f"{fault.group:<12} {fault.name}" for fault in chosen))
        return 0
    begun, problems, group = time.monotonic(), [], None
    with tempfile.TemporaryDirectory(prefix="nptrain-faults-") as folder:
        reference = Reference(args.folder or Path(folder))
        print(HEAD)
        for number, fault in enumerate(chosen):
            if fault.group != group:
                group = fault.group
                print(f"{group}")
            outcome = play(fault, Path(folder) / str(number), reference, args.seed)
            print(row(fault, outcome), flush=True)
            if outcome.problem:
                problems.append(f"{fault.name}: {outcome.problem}")
    for problem in problems:
        print(f"\n{problem}", file=sys.stderr)
    print(f"{len(chosen)} faults, {len(problems)} not survived, {time.monotonic() - begun:.0f} s")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
