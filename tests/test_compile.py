"""The cache of compiled kernels: what is compiled once serves the real step, and another CPU gets its own."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from commands import PROJECT

from kernels import cache
from nptrain.network.compile import compile_kernels
from nptrain.recipes.check import PRECISIONS
from nptrain.recipes.published import get_recipe

# after this line, `new` has the names of kernels that were first called since, and `compiled` of those not in the cache
NOTED = """
from numba.core import event
from numba.core.dispatcher import Dispatcher

new, compile = [], Dispatcher.compile
Dispatcher.compile = lambda self, sig: new.append(self.py_func.__name__ + str(sig)) or compile(self, sig)
recorder = event.RecordingListener()
event.register("numba:compile", recorder)
compiled = lambda: [e.data["dispatcher"].py_func.__name__ for _, e in recorder.buffer if e.is_start]
"""


def run(program, folder, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "NPTRAIN_"))}
    found = subprocess.run([sys.executable, "-c", NOTED + program], cwd=PROJECT, capture_output=True, text=True,
                           check=True, env={**clean, "NPTRAIN_CACHE": str(folder), **environment})  # fmt: skip
    return found.stdout.split()


@pytest.fixture
def own_cache(tmp_path):
    """A folder with all kernels for this CPU, for NPTRAIN_CACHE."""
    for precision in PRECISIONS:
        compile_kernels(replace(get_recipe("digits"), precision=precision), lambda line: None)
    shutil.copytree(cache.folder, tmp_path / "cache" / cache.cache_folder().name)
    return tmp_path / "cache"


STEPS = """
import os
from dataclasses import replace
from kernels import fast
from nptrain.bench.step import Work
from nptrain.network.compile import compile_kernels
from nptrain.recipes.published import get_recipe

precision = os.environ["PRECISION"]
compile_kernels(replace(get_recipe("resnet50-448nodes"), precision=precision), lambda line: None)
own, other = ("uint16", "float32") if precision == "bf16" else ("float32", "uint16")
convolutions = ("_convolve", "_pointwise", "_outer", "_outer_pairs", "_in_cache", "_in_phases", "_in_rounds")
of = lambda dtype: [name for name in new if name.startswith(tuple(f"{c}(Array({dtype}," for c in convolutions))]
print(len(of(own)) > 6, *of(other))
new.clear()
for crop, batch in ((96, 16), (32, 5)):
    for training in (True, False):
        Work(training, batch, crop, ops=fast.configured(precision=precision))()
print(*new)
"""


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_is_compiled_at_the_start_is_all_that_steps_use(own_cache, precision):
    """And no convolution of the other precision is compiled."""
    assert run(STEPS, own_cache, PRECISION=precision) == ["True"]


START = """
import hashlib
import numpy as np
from kernels import fast
from nptrain.network.compile import compile_kernels
from nptrain.network.resnet import ResNet
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override

said, recipe = [], override(get_recipe("digits"), ["depth=18", "width=16"])
compile_kernels(recipe, said.append)
network = ResNet.of(recipe, fast)
network.arena.initialise(0)
pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
network.forward(network.pack_images(pixels, recipe.mean_bgr, recipe.scale), np.arange(5))
network.backward()
digest = hashlib.sha256(network.arena.gradients.tobytes() + np.float64(fast.squared_norm(network.arena.gradients)))
print(digest.hexdigest(), len(said), *compiled())
"""


def test_a_start_compiles_what_is_missing_and_says_so_and_the_next_one_nothing(own_cache):
    for path in own_cache.rglob("*.nbi"):
        if path.name.startswith(("batchnorm._", "sgd._squares")):
            path.unlink()
    cold, said, *names = run(START, own_cache)
    assert said == "2"
    assert {"_normalise", "_gradient_sums", "_squares"} <= set(names)
    assert "_convolve" not in names
    assert run(START, own_cache) == [cold, "0"]  # and what is loaded computes the same bits as what was compiled


HASWELL = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2,+f16c,+sse4.2,+popcnt"}
SMALL = """
import hashlib
import numpy as np
from kernels import fast, naive
from kernels.cache import cache_folder

print(cache_folder().name.split("-")[0])
rng = np.random.default_rng(0)
x, w = (rng.standard_normal(s).astype(np.float32) for s in ((17, 32, 9, 6), (48, 32, 3, 3)))
for mode in ("never", "always"):
    y = fast.unpack(fast.conv_forward(fast.pack(x), fast.pack_weights(w), None, 1, 1, winograd=mode), 48)
    print(np.abs(y - naive.conv_forward(x, w, None, 1, 1)).max() < 1e-3, hashlib.sha256(y.tobytes()).hexdigest())
print(len(compiled()) > 0)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="compiles for an x86 CPU")
def test_another_cpu_has_its_own_cache_and_the_same_results(own_cache):
    name, *cold, compiled = run(SMALL, own_cache, **HASWELL)
    assert (name, cold[::2], compiled) == ("haswell", ["True"] * 2, "True")
    assert len(list(own_cache.iterdir())) == 2
    assert run(SMALL, own_cache, **HASWELL) == ["haswell", *cold, "False"]
    name, *own, compiled = run(SMALL, own_cache)
    assert (own[::2], compiled) == (["True"] * 2, "False")
    assert len(list(own_cache.iterdir())) == 2
    assert name != "haswell"


SKYLAKE = {
    "NUMBA_CPU_NAME": "skylake-avx512",
    "NUMBA_CPU_FEATURES": "+avx2,+fma,+bmi2,+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl",
}
IN_BF16 = """
import sys
sys.path.insert(0, "tests")
import test_bf16 as t

t.test_convolution((4, 20, 33, 9, 6, 3, 2, 1), "auto")  # direct, with the gradient of data
t.test_compiled_rounding_is_the_same()
print("passed", len(compiled()) > 0)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="compiles for an x86 CPU")
@pytest.mark.parametrize("other", [HASWELL, SKYLAKE], ids=["AVX2", "the recipe's AVX-512"])
def test_bf16_without_its_instructions(tmp_path, other):
    assert run(IN_BF16, tmp_path, **other) == ["passed", "True"]


def test_the_definitions_import_no_compiler():
    body = "import sys, kernels.naive; print({'numba', 'llvmlite'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", body], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
