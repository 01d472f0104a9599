"""Progress on a terminal."""

from tqdm import tqdm


class Bar(tqdm):
    """A progress bar, only where standard error is a terminal, and without tqdm's thread, which outlives it."""

    monitor_interval = 0

    def __init__(self, items, total, unit, **options):
        super().__init__(items, total=total, unit=f" {unit}", disable=None, **options)
