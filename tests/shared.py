"""Real images and real Caffe files, which are not ours to ship: a `shared` folder beside the checkout."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(path):
    """The Path of `path` in the shared folder; skips the calling test where it is not there."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"needs shared/{path}, which is not here")
    return found
