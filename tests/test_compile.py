"""The cache of compiled kernels: what is compiled once serves the real step, and another CPU gets its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import hashlib
from numba.core import event
from nptrain.network.compile import compile_kernels
from nptrain.bench.step import Work
from nptrain.recipes.published import RECIPES

said = []
compile_kernels(RECIPES["resnet50-448nodes"], said.append)
with event.install_recorder("numba:compile") as compiled:
    for crop, batch in ((96, 16), (32, 5)):
        work = Work(True, batch, crop)
        work(), Work(False, batch, crop)()
names = [e.data["dispatcher"].py_func.__name__ for _, e in compiled.buffer if e.is_start]
digest = hashlib.sha256(work.network.arena.weights.tobytes()).hexdigest()
print(digest, len(said), *names)
"""


def run(program, cache, **environment):
    root = Path(__file__).resolve().parent.parent
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "NPTRAIN_"))}
    return subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True,
                          env={**clean, "NPTRAIN_CACHE": str(cache), **environment}).stdout.split()  # fmt: skip


def test_a_cold_start_compiles_all_and_says_so_and_a_warm_one_nothing(tmp_path):
    cold, *said = run(PROGRAM, tmp_path)
    assert said == ["2"]
    assert run(PROGRAM, tmp_path) == [cold, "0"]  # and what is loaded computes the same bits as what was compiled


HASWELL = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2,+f16c,+sse4.2,+popcnt"}
SMALL = """
import numpy as np
from kernels import fast, naive
from kernels.cache import cache_folder

print(cache_folder().name.split("-")[0])
rng = np.random.default_rng(0)
x, w = (rng.standard_normal(s).astype(np.float32) for s in ((17, 32, 9, 6), (48, 32, 3, 3)))
for mode in ("never", "always"):
    y = fast.unpack(fast.conv_forward(fast.pack(x), fast.pack_weights(w), None, 1, 1, winograd=mode), 48)
    print(np.abs(y - naive.conv_forward(x, w, None, 1, 1)).max() < 1e-3)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="compiles for an x86 CPU")
def test_another_cpu_has_its_own_cache_and_the_same_results(tmp_path):
    assert run(SMALL, tmp_path, **HASWELL) == ["haswell", "True", "True"]
    assert len(list(tmp_path.iterdir())) == 1
    own, *right = run(SMALL, tmp_path)
    assert right == ["True", "True"]
    assert len(list(tmp_path.iterdir())) == 2
    assert own != "haswell"


def test_the_definitions_import_no_compiler():
    body = "import sys, kernels.naive; print({'numba', 'llvmlite'} & set(sys.modules))"
    assert run(body, ".") == ["set()"]
