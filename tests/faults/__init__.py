"""Faults injected into real runs of a small job, on this machine: what survives, and what it costs.

    python -m tests.faults [WORD...]    all faults, or those whose group or name has one of the words
    python -m tests.faults.soak         random kills for so many minutes
    python -m tests.faults.mutations    records, images, checkpoints and manifests that are changed at random

`make test-faults` runs the first. Each run must end with the weights and the momentum of an undisturbed one, byte for
byte: by itself, or after it has ended in time with the right line and was told to `--resume`.
"""

import sys
from pathlib import Path

sys.path[:0] = [path for path in [str(Path(__file__).resolve().parents[1])] if path not in sys.path]
