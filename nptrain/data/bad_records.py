"""The bad records that a run has replaced, on all its ranks."""

from nptrain.errors import InputError


class BadRecords(dict):
    """{index: what is wrong} of the bad records that this rank has found, and of those that any rank has named. Any
    thread may add one.
    """

    def __init__(self):
        self._named = set()

    @property
    def unnamed(self):
        """How many this rank has found, and not named yet."""
        return len(self) - len(self._named)

    def name(self, world, most, say):
        """Call say(line) for each that any rank has not named yet. All ranks call it. Raises InputError on rank 0 if
        there are more than `most` on all of them.
        """
        mine = {index: line for index, line in self.copy().items() if index not in self._named}
        found = {index: line for records in world.allgather(mine) for index, line in records.items()}
        self |= found
        self._named |= found.keys()
        for index in sorted(found):
            say(f"replaced a bad record: {found[index]}")
        if len(self._named) > most and world.rank == 0:
            raise InputError(f"--max-bad-records: found {len(self._named)} on all ranks, expected at most {most}; the "
                             f"last: {found[max(found)]}")  # fmt: skip
