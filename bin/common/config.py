"""The file of --config: a whole recipe from a run's run.json, or fields of one from a TOML file."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from nptrain.errors import InputError, reason, within
from nptrain.files import check_regular
from nptrain.recipes.recipe import Recipe
from nptrain.run.run_folder import RunFolder, recipe_in


@dataclass(frozen=True)
class Config:
    """What the file says: a `recipe`, or the `name` of one (or None) and `assignments`, FIELD=VALUE as of --set."""

    recipe: Recipe | None = None
    name: str | None = None
    assignments: tuple[str, ...] = ()

    @classmethod
    def read(cls, path):
        """Raises InputError for a file that cannot be read, or is neither."""
        if Path(path).suffix != ".toml":
            return cls(recipe_in(RunFolder(path).description if Path(path).is_dir() else path))
        try:
            check_regular(path)
            table = tomllib.loads(Path(path).read_bytes().decode())
        except (OSError, ValueError) as error:  # of the TOML, or of its encoding
            raise InputError(f"{path}: cannot be read: {reason(error)}") from None
        name = table.pop("recipe", None)
        with within(path):
            if name is not None and not isinstance(name, str):
                raise InputError(f"recipe: found {name!r}, expected the name of a recipe")
            return cls(None, name, tuple(_assignments(table)))


def _assignments(table, phase=""):
    """FIELD=VALUE for each entry of a table; a table in it is that of a phase, and gives PHASE.FIELD=VALUE."""
    for field, value in table.items():
        if isinstance(value, dict) and not phase:
            yield from _assignments(value, f"{field}.")
        else:
            yield f"{phase}{field}={_text(phase + field, value)}"


def _text(field, value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and all(type(item) in (int, float, str) for item in value):
        return ",".join(map(str, value))
    if type(value) not in (int, float, str):
        raise InputError(f"{field}: found {value!r}, expected a number, a text, true, false or a list of them")
    return str(value)
