"""The names of the classes that weights were trained on."""

from pathlib import Path

from bin.common.run_data import description_of
from nptrain.data.classes import read_classes
from nptrain.errors import InputError
from nptrain.run.run_folder import RunFolder

SHOWN = 3  # names in a line


def names_of(weights, classes):
    """The names of the `classes` of a file of weights: those of its run's run.json, else those of a classes.txt beside
    the file; None if there are none. Raises InputError if they are not as many.
    """
    folder = Path(weights).parent.parent
    where, names = RunFolder(folder).description, description_of(folder).get("classes")
    if not (isinstance(names, list) and names):
        where, names = Path(weights).parent / "classes.txt", read_classes(weights)
    names = names and [str(name) for name in names]
    if names and len(names) != classes:
        raise InputError(f"{where}: found {len(names)} class names, expected {classes}, as {weights} has")
    return names


def classes_text(classes, names):
    """How many classes, and the first of their names."""
    if not names:
        return f"{classes} classes"
    return f"{classes} classes ({', '.join([*names[:SHOWN], *['...'] * (len(names) > SHOWN)])})"
