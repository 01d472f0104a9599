"""Numeric kernels on NumPy arrays: `fast` (Numba, blocked layout, float32) and `naive`, the NumPy twin
that defines each of them. They know shapes; no network, no files, no ranks.
"""

import os
from pathlib import Path

# Compiled kernels outlive the checkout; Numba itself keys its files by source, CPU and signature.
# It has to be set before Numba is first imported.
_user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("NUMBA_CACHE_DIR", os.environ.get("NPTRAIN_CACHE") or str(_user_cache / "nptrain"))
