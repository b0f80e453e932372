"""The GPU kernels compile; where there is no GPU, as far as PTX."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("cuda_compile.py")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    if importlib.util.find_spec("numba.cuda") is None:
        pytest.skip("this numba comes without a CUDA target, and numba-cuda is not installed")
    # Numba's store of machine code would hide a kernel that does not compile any more.
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path_factory.mktemp("numba"))}
    environment.pop("NUMBA_ENABLE_CUDASIM", None)
    ended = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=170)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    if "skip" in found:
        pytest.skip(found["skip"])
    return found


@pytest.mark.parametrize("kernel", ["advance_trees", "read_trees"])
def test_is_one_function_without_calls(compiled, kernel):
    # A call would save and restore more than the functions do.
    assert compiled["kernels"][kernel]["entries"] == 1
    assert compiled["kernels"][kernel]["calls"] == 0


@pytest.mark.parametrize("kernel", ["advance_trees", "read_trees"])
def test_products_are_rounded_as_on_the_cpu(compiled, kernel):
    if compiled["own"]:
        pytest.skip("numba's own CUDA target has no way to switch fused products off; it never runs the kernels")
    assert compiled["kernels"][kernel]["products that may be fused"] == 0
    assert compiled["kernels"][kernel]["rounded products"] > 0
