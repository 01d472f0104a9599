"""The names of the classes that weights were trained on."""

from pathlib import Path

from bin.common.run_data import description_of, path_of
from bin.common.weights import run_of
from nptrain.data.classes import FILE, read_classes
from nptrain.errors import InputError
from nptrain.run.run_folder import RunFolder

SHOWN = 3  # names in a line


def names_of(weights, classes, run=None):
    """The names of the `classes` of a file of weights, of the run in the folder `run`, if it is not the one around the
    file: those of its run.json, else of a classes.txt beside the
    file; raises InputError if they are not as many. Else those of the run's training data, if they are as many; else
    None.
    """
    run = run or run_of(weights)
    stored = {RunFolder(run).description: description_of(run).get("classes")}
    for where, names in (stored | {Path(weights).parent / FILE: read_classes(weights)}).items():
        if isinstance(names, list) and names:
            if len(names) != classes:
                raise InputError(f"{where}: found {len(names)} class names, expected {classes}, as {weights} has")
            return [str(name) for name in names]
    data = path_of(run, "train_data")
    names = data and read_classes(data)
    return names if names and len(names) == classes else None


def classes_text(classes, names):
    """How many classes, and the first of their names."""
    if not names:
        return f"{classes} classes"
    return f"{classes} classes ({', '.join([*names[:SHOWN], *['...'] * (len(names) > SHOWN)])})"
