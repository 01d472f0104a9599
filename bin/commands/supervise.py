"""Start a training again, from the newest snapshot or checkpoint, when a rank, a
host or its launcher has died.

bin/supervise -- mpirun -n 2 bin/train --recipe photos --data data
bin/supervise --restarts 20 -- mpirun -n 8 bin/train --resume runs/photos
"""

import argparse
import os
import shlex

from bin.common.arguments import Parser, expect_at_least
from bin.common.hosts_left import words_left
from bin.common.post_mortem import Position, memory_kills, what_died
from bin.common.prepare import tell
from bin.common.supervised import Attempt, Command
from nptrain.errors import InputError
from nptrain.run.end import error_of, is_done, stamp
from nptrain.run.stop import STATUS, TRY_AGAIN

KEPT = (130, TRY_AGAIN)  # statuses of an orderly end, whose checkpoint is saved
LONGEST = 60  # s of a pause


def parser():
    p = Parser(prog="supervise", description=__doc__)
    p.add_argument("--restarts", metavar="N", type=int, default=1000, help="starts after the first one (%(default)s)")
    p.add_argument("--tries", metavar="N", type=int, default=6,
                   help="failures in a row without a new iteration, after which it gives up (%(default)s)")  # fmt: skip
    p.add_argument("--stall", metavar="S", type=int, default=0,
                   help="kill and start again a run that has logged nothing for S seconds, if --stall-timeout of "
                        "bin/train cannot end it (0: never)")  # fmt: skip
    p.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND",
                   help="a launcher and bin/train, or bin/train alone")  # fmt: skip
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    expect_at_least(args, 0, "restarts", "stall")
    expect_at_least(args, 1, "tries")
    command = Command(args.command)
    hosts = os.memfd_create("hosts")  # it ends with this process
    raise SystemExit(supervise(args, command, hosts))


def supervise(args, command, hosts):
    """Run a Command until it is done, or cannot go on. Returns the exit status. `hosts` is a file in memory."""
    words, before, tries, error = command.words(), None, 0, None
    for restart in range(args.restarts + 1):
        kills, ended, attempt = memory_kills(), stamp(command.folder), Attempt(words)
        status = attempt.wait(command.folder, args.stall)
        ended = stamp(command.folder) not in (None, ended)  # by this attempt, not by an earlier one
        if ended and is_done(command.folder):
            if status:
                tell(f"supervise: the run is done; its launcher has ended with status {status}")
            return 0
        if attempt.signals:
            return status_when_told(attempt)
        if status in (*KEPT, InputError.exit_status):
            return status
        at, last, error = Position.of(command.folder), error, error_of(command.folder) if ended else None
        before, tries = at, tries + 1 if at == before else 1
        died = error or attempt.why or what_died(attempt.tail, status, memory_kills() - kills)
        failure = f"supervise: {died}; {at.lost()}"
        if tries >= args.tries or (error and error == last) or restart == args.restarts:
            tell(f"{failure}; gives up after {_times(restart, 'restart')}; go on with --resume {command.folder}")
            return status or 1
        pause = min(2 ** (tries - 1), LONGEST)
        words, missing = words_left(command.words(resume=True), hosts)
        tell(f"{failure}; {missing}starts again in {pause} s ({restart + 1} of {args.restarts}): {shlex.join(words)}")
        if not attempt.rest(pause):
            return status_when_told(attempt)
    raise AssertionError


def status_when_told(attempt):
    """The exit status after a signal to this process, if the run is not done: never 0, which launchers may return."""
    number, _ = attempt.signals[-1]
    return attempt.launcher.status() or STATUS.get(number, TRY_AGAIN)


def _times(count, what):
    return f"{count} {what}{'' if count == 1 else 's'}"
