"""The data sets and the description of a run, as far as they can still be read."""

import json
import os
from pathlib import Path

from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.errors import InputError
from nptrain.files import read_small
from nptrain.run.run_folder import MOST, RunFolder, found_from


def description_of(folder):
    """The content of a run's run.json; an empty dictionary without one. Raises InputError if it is damaged."""
    path = RunFolder(folder).description
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_small(path, MOST))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not the description of a run")
    return content


def path_of(folder, flag):
    """The Path that the run's `flag`, "train_data" or "val_data", names; None if there is none, or it is not here."""
    description = description_of(folder)
    arguments = description.get("arguments")
    path = arguments.get(flag) if isinstance(arguments, dict) else None
    if not isinstance(path, str):
        return None
    path = found_from(description.get("directory"), path)
    return Path(path) if os.path.exists(path) else None


def data_of(folder, flag, classes=None):
    """The LmdbDataset that the run's `flag` names; None if it cannot be read here."""
    path = path_of(folder, flag)
    try:
        return LmdbDataset(path, classes) if path else None
    except InputError:
        return None


def training_records(folder):
    """The number of a run's training images; None if its data cannot be read here."""
    dataset = data_of(folder, "train_data")
    return dataset and len(dataset)
