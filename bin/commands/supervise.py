"""Start a training again, from the newest snapshot or checkpoint, when a rank, a
host or its launcher has died.

bin/supervise -- mpirun -n 2 bin/train --recipe photos --data data
bin/supervise --restarts 20 -- mpirun -n 8 bin/train --resume runs/photos
"""

import argparse
import os
import shlex
import time
from contextlib import suppress
from functools import partial

from bin.common.arguments import Parser, expect_at_least
from bin.common.hosts_left import words_left
from bin.common.looks import look
from bin.common.post_mortem import Position, memory_kills, what_died
from bin.common.prepare import tell
from bin.common.supervised import Attempt, Command
from nptrain.errors import InputError
from nptrain.run.end import error_of, is_done, stamp
from nptrain.run.stop import STATUS, TRY_AGAIN

KEPT = (130, TRY_AGAIN)  # statuses of an orderly end, whose checkpoint is saved
LONGEST = 60  # s of a pause
TO_VERIFY = 600  # s in which a last checkpoint can be read


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
    begun, words, tries, error, start = False, command.words(), 0, None, time.monotonic()
    before = look(partial(Position.of, command.folder), Position())
    ended = look(partial(stamp, command.folder), None)
    for restart in range(args.restarts + 1):
        kills, attempt = memory_kills(), Attempt(words)
        status = attempt.wait(command.folder, args.stall)
        ended = look(partial(stamp, command.folder), None) not in (None, ended)  # by this attempt, not an earlier one
        if ended and look(partial(is_done, command.folder), False, TO_VERIFY):
            if status:
                say(f"supervise: the run is done; its launcher has ended with status {status}")
            return 0
        if attempt.signals:
            return status_when_told(attempt)
        at = look(partial(Position.of, command.folder), before)
        mistake = status == InputError.exit_status
        if status in KEPT or (mistake and restart == 0 and at in (before, Position())):
            return status
        last, error = error, look(partial(error_of, command.folder), None) if ended else None
        before, tries = at, tries + 1 if at == before else 1
        died = error or attempt.why or what_died(attempt.tail, status, memory_kills() - kills)
        error = died if mistake else error
        failure = f"supervise: {died}; {at.lost()}"
        final = mistake and (at.iteration is None or "--max-bad-records: found" in died)  # which counts from a start on
        final = final or (error and error == last)
        if final or tries >= args.tries or restart == args.restarts:
            say(f"{failure}; gives up after {_times(restart, 'restart')}; go on with --resume {command.folder}")
            return status or 1
        pause = min(2 ** (tries - 1), LONGEST)
        begun = begun or at.iteration is not None or command.begun()
        words, missing = words_left(command.words(begun, time.monotonic() + pause - start), hosts)
        say(f"{failure}; {missing}starts again in {pause} s ({restart + 1} of {args.restarts}): {shlex.join(words)}")
        ended = look(partial(stamp, command.folder), None)
        if not attempt.rest(pause):  # which sees signals until the next attempt does
            return status_when_told(attempt)
    raise AssertionError


def say(line):
    """As `tell`; a full disk below the errors does not end this process."""
    with suppress(OSError):
        tell(line)


def status_when_told(attempt):
    """The exit status after a signal to this process, if the run is not done: never 0, which launchers may return."""
    number, _ = attempt.signals[-1]
    return attempt.launcher.status() or STATUS.get(number, TRY_AGAIN)


def _times(count, what):
    return f"{count} {what}{'' if count == 1 else 's'}"
