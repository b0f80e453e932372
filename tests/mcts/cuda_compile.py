"""Compiles the GPU kernels to PTX where there is no GPU, which needs the CUDA toolkit only; prints JSON.

A process of its own, because it has numba believe that there is a GPU. Numba's own CUDA target is good enough for that,
with two repairs: it knows no `max` and `min` of two numbers, and it makes machine code at once, which needs a driver.
"""

import json
import re
import types

import numba.cuda.codegen
import numba.cuda.cudadrv.devices
import numba.cuda.dispatcher
import torch
from numba import cuda
from numba.extending import overload

from alfish.mcts import cuda_kernels
from alfish.mcts.rule import Answers
from alfish.mcts.settings import SearchSettings, kernel_rule
from alfish.mcts.tree import new_tree

HOPPER = (9, 0)


def believe_in_a_gpu():
    device = types.SimpleNamespace(compute_capability=HOPPER, id=0)
    module = types.SimpleNamespace(initialized=True)
    numba.cuda.dispatcher.get_current_device = lambda: device
    numba.cuda.cudadrv.devices.get_context = lambda *ignored: types.SimpleNamespace(device=device)
    numba.cuda.codegen.CUDACodeLibrary.get_cufunc = lambda library: types.SimpleNamespace(module=module)


def repair_numbas_own_target():
    @overload(max, target="cuda")
    def larger(left, right):
        return lambda left, right: left if left > right else right

    @overload(min, target="cuda")
    def smaller(left, right):
        return lambda left, right: left if left < right else right


def toolkit_is_missing():
    """Why nothing can be compiled here, or an empty string."""

    def nothing(array):
        array[0] = 1.0

    try:
        cuda.compile_ptx(nothing, (numba.float32[::1],), cc=HOPPER)
    except Exception as error:  # whatever is missing, it says so in its own way
        return f"the CUDA toolkit cannot be used here: {type(error).__name__}: {str(error).splitlines()[0]}"
    return ""


def compile_all():
    tree, rule = new_tree(2, 5, 3), kernel_rule(SearchSettings(), 4, 5, torch.device("cpu"))
    numbers, edges = torch.zeros(2), torch.zeros((2, 2), dtype=torch.int64)
    answers = Answers(numbers, numbers, numbers, torch.zeros(2, 3), numbers, numbers)
    records = [cuda_kernels._type(record) for record in (tree, rule, answers, edges, torch.zeros(2, 3))]
    number = numba.types.int64
    found = {}
    for function, signature in (
        (cuda_kernels._advance_trees, (*records[:4], number, numba.types.boolean)),
        (cuda_kernels._read_trees, (*records[:2], number, records[4])),
    ):
        kernel = cuda_kernels.compiled(function, signature)
        (compiled,) = kernel.overloads.values()
        ptx = compiled.library.get_asm_str(cc=HOPPER)
        found[function.__name__] = {
            "entries": len(re.findall(r"^\s*(?:\.visible )?\.entry ", ptx, re.MULTILINE)),
            "calls": len(re.findall(r"\bcall\b", ptx)),
            "products that may be fused": len(re.findall(r"\bmul\.f(?:32|64)\b", ptx)),
            "rounded products": len(re.findall(r"\bmul\.rn\.f32\b", ptx)),
        }
    return found


def main():
    reason = toolkit_is_missing()
    if reason:
        print(json.dumps({"skip": reason}))
        return
    is_own = getattr(cuda, "implementation", "") != "NVIDIA"
    if is_own:
        repair_numbas_own_target()
    believe_in_a_gpu()
    print(json.dumps({"kernels": compile_all(), "own": is_own}))


if __name__ == "__main__":
    main()
