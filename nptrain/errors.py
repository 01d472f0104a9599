"""The two ways a run ends badly, as exit statuses: 2 for a user's mistake, 1 for a failure."""


class InputError(Exception):
    """A user's mistake, in one line: which file, record, field or flag, what was found, what was expected."""

    exit_status = 2


class TrainingError(Exception):
    """A run that cannot go on (a loss that is not finite): one line, naming the last good checkpoint."""

    exit_status = 1
