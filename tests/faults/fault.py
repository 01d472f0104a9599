"""What a fault is, and what came of it."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    group, name  words by which it is chosen, and the row's first column
    act          injects it: act(case), in a Case whose job runs; None: the fault is in what is around it, or before
    at           at how many random iterations of a run, or a tuple of the iterations
    runs         runs into which it is injected
    ranks        of the job
    flags        of bin/train, beside those of the job
    by           "supervise": the job runs under bin/supervise; "mpirun": under the launcher alone
    more         flags of bin/supervise
    around       around(case), a context manager: hosts, disks, limits
    before       before(case), what is done to the folder of a run of 18 iterations, which the job then resumes
    hooks        faults at calls of functions in a rank, one in each start, see hook/sitecustomize.py
    status       exit statuses that are right
    says         a regular expression, which must be found in the output, after each time that it was injected
    once         it must be found once
    mend         mend(case), what a user does after the end, before --resume
    check        check(case), what else must be true at the end
    resumes      whether the run can go on to the right bits: False for wrongs of the training itself
    lost         iterations that may be computed again
    limit        s in which a run has to end
    quick        it is in `make test`, too
    """

    group: str
    name: str
    act: Callable | None = None
    at: int | tuple = 1
    runs: int = 1
    ranks: int = 2
    flags: tuple = ()
    by: str = "supervise"
    more: tuple = ()
    around: Callable = nullcontext
    before: Callable | None = None
    hooks: tuple = ()
    status: tuple = (0,)
    says: str = ""
    once: bool = False
    mend: Callable | None = None
    check: Callable | None = None
    resumes: bool = True
    lost: int = 1
    limit: float = 180
    quick: bool = False


class NotPermitted(Exception):
    """This machine, or this user, cannot inject a fault; the text says why."""


class Missed(Exception):
    """The run had ended before the fault was injected."""


@dataclass
class Outcome:
    """What came of a fault: how often it was injected, and survived; for each time the iterations that were lost, and
    the seconds until the next one was done; how the runs went on; what went wrong, or why it was not injected.
    """

    injected: int = 0
    survived: int = 0
    lost: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ways: set[str] = field(default_factory=set)
    problem: str = ""
    not_permitted: str = ""

    def add(self, other):
        """Add another run's."""
        self.injected += other.injected
        self.survived += other.survived
        self.lost += other.lost
        self.seconds += other.seconds
        self.ways |= other.ways
        self.problem = self.problem or other.problem
