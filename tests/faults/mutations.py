"""python -m tests.faults.mutations [--count N]: so many changed records through the loader, and so many changed runs
through --resume. Each is used correctly or reported, in time, and with little memory.
"""

import argparse
import faulthandler
import random
import resource
import sys
import time

from nptrain.data.datum import silence_pillow
from tests.faults import records, resumes

MAX_SECONDS = 20  # for any of them
MAX_MEMORY = 1 << 30
SHOWN = 10  # findings


def alive():
    """The next one begins; a hang ends the process with its stack."""
    faulthandler.dump_traceback_later(MAX_SECONDS, exit=True)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutations")
    parser.add_argument("--count", type=int, default=10_000, help="of each kind (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["records", "resumes"])
    args = parser.parse_args()
    silence_pillow()
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
    findings = []
    for kind in (records, resumes):
        name = kind.__name__.rpartition(".")[2]
        if args.only in (None, name):
            begun = time.monotonic()
            counts = kind.run(args.count, random.Random(f"{args.seed} {name}"), alive)
            faulthandler.cancel_dump_traceback_later()
            findings += counts.findings
            found = ", ".join(f"{number} {what}" for what, number in counts.items())
            print(f"{found}; {time.monotonic() - begun:.0f} s, at most {peak():.0f} MB", flush=True)
    print("\n".join(findings[:SHOWN]), end="")
    return bool(findings)


def peak():
    """The most memory in MB that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
