"""The picture file that --out names."""

from pathlib import Path

from nptrain.errors import InputError

FORMATS = (".png", ".svg", ".pdf")


def check(path):
    """Raise InputError if a picture cannot have this path; called before the work for it is done."""
    if Path(path).suffix not in FORMATS:
        raise InputError(f"--out: found {path}, expected a name that ends in .png, .svg or .pdf")
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"--out: found {path}, expected a folder that exists")


def save(figure, path):
    """A Matplotlib figure in the format of the file's name. Raises InputError if it cannot be written."""
    try:
        figure.savefig(path)
    except OSError as error:
        raise InputError(f"--out: {path}: {error.strerror}") from None
