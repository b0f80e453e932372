"""The kernels on a GPU: the same scalar functions as on the CPU, compiled by numba's CUDA target (package numba-cuda).

One thread owns one tree. A launch goes to torch's current stream and nothing here waits for it, so that a whole search
can be captured as one CUDA graph; whatever changes from search to search is in arrays, not in arguments.

Import this through `cuda_search.load_kernels`: numba-cuda is an optional package. Tensors on the CPU are taken too,
which is how numba's CUDA simulator (NUMBA_ENABLE_CUDASIM=1) runs all of it without a GPU.
"""

import functools
import logging
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from numba import cuda, types
from numba.core import config

from alfish.mcts import host
from alfish.mcts.expansion import advance
from alfish.mcts.readout import write_policy
from alfish.mcts.rule import Answers, Rule
from alfish.mcts.tree import Tree

MOST_TREES_PER_BLOCK = 32
"""The threads of a warp. Trees spread over all multiprocessors first, since each waits for memory most of the time."""

_logger = logging.getLogger(__name__)
_compile_lock = threading.Lock()

is_simulated = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
_is_numba_cuda = getattr(cuda, "implementation", "") == "NVIDIA"
_NUMBA_TYPES = {torch.float32: types.float32, torch.int32: types.int32, torch.int64: types.int64}


def is_usable() -> bool:
    """Whether kernels can run: a GPU with numba-cuda, for which numba's own CUDA target is no match; or simulated."""
    return cuda.is_available() and (is_simulated or _is_numba_cuda)


def _kernels(sources: int) -> tuple[Callable[..., None], ...]:
    """The functions to compile. They hold `sources`, because numba's store tells versions apart by what they hold."""

    def advance_trees(tree: Any, rule: Any, answers: Any, edges: Any, node: int, more: bool) -> None:
        sources  # noqa: B018
        row: int = cuda.grid(1)  # type: ignore[call-arg]
        if row < tree.visits.shape[0]:
            advance(tree, rule, answers, edges, row, node, more)

    def read_trees(tree: Any, rule: Any, kind: int, out: Any) -> None:
        sources  # noqa: B018
        row: int = cuda.grid(1)  # type: ignore[call-arg]
        if row < tree.visits.shape[0]:
            write_policy(tree, rule, row, kind, out)

    return advance_trees, read_trees


_advance_trees, _read_trees = _kernels(int(host.SOURCES[:15], 16))


def bind_advance(tree: Tree, rule: Rule, edges: torch.Tensor) -> Callable[[Answers, int, bool], None]:
    """`expansion.advance` for all trees, as `advance(answers, node, more)` on torch's current device and stream.

    The tensors must be on one device and outlive the last launch.

    Args:
        tree: the trees.
        rule: how they choose.
        edges: `[2, B * leaves]` int64.
    """
    fixed = _arrays(tree), _arrays(rule)
    edges_array = _array(edges)
    kernel: Any = None

    def launch(answers: Answers, node: int, more: bool) -> None:
        nonlocal kernel
        if kernel is None:
            signature = (_type(tree), _type(rule), _type(answers), _type(edges), types.int64, types.boolean)
            kernel = _configured(compiled(_advance_trees, signature), tree)
        kernel(*fixed, _arrays(answers), edges_array, node, more)

    return launch


def read_policy(tree: Tree, rule: Rule, kind: int) -> torch.Tensor:
    """What the searches found for their roots, `[B, A]` float32; `kind` is `rule.POLICY_VISITS` or a sibling."""
    num_trees, _, num_actions = tree.priors.shape
    out = torch.empty((num_trees, num_actions), device=tree.priors.device)
    kernel = compiled(_read_trees, (_type(tree), _type(rule), types.int64, _type(out)))
    _configured(kernel, tree)(_arrays(tree), _arrays(rule), kind, _array(out))
    return out


@functools.cache
def compiled(function: Callable[..., None], signature: tuple[types.Type, ...]) -> Any:
    """A kernel for these types. Its machine code is stored for later processes, if a folder can be written."""
    if is_simulated:
        return cuda.jit(function)
    # Link-time optimisation would fuse products with sums again (`_compile_unfused`).
    options = {"lto": False} if _is_numba_cuda else {}
    with _compile_lock:
        compile_cuda = cuda.dispatcher.compile_cuda
        cuda.dispatcher.compile_cuda = functools.partial(_compile_unfused, compile_cuda)
        try:
            try:
                return cuda.jit(signature, cache=True, **options)(function)
            except RuntimeError:  # numba found no folder for its store.
                return cuda.jit(signature, **options)(function)
        finally:
            cuda.dispatcher.compile_cuda = compile_cuda


def _compile_unfused(compile_cuda: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Has `a * b + c` rounded after the product too, as on the CPU. numba has no option of its own for it."""
    options["nvvm_options"] = {**options["nvvm_options"], "fma": False}
    if arguments[0] in (_advance_trees, _read_trees):
        _logger.warning("compiling a search kernel for the GPU, once; this takes some seconds")
    return compile_cuda(*arguments, **options)


def _configured(kernel: Any, tree: Tree) -> Callable[..., None]:
    """The kernel with one thread per tree, on torch's current device and stream.

    Raises:
        ValueError: this thread has launched kernels on another GPU.
    """
    num_trees = tree.visits.shape[0]
    if is_simulated:
        return kernel[1, num_trees]
    current, wanted = cuda.current_context().device.id, torch.cuda.current_device()
    if current != wanted:
        raise ValueError(
            f"this thread has searched on GPU {current} and is now to search on GPU {wanted}; expected one GPU per"
            " thread. Use one process per GPU"
        )
    processors = torch.cuda.get_device_properties(wanted).multi_processor_count
    threads = min(-(-num_trees // processors), MOST_TREES_PER_BLOCK)
    stream = cuda.external_stream(torch.cuda.current_stream().cuda_stream)
    with warnings.catch_warnings():  # A thread per tree does not fill a GPU, and numba says so.
        warnings.filterwarnings("ignore", message="Grid size")
        return kernel[-(-num_trees // threads), threads, stream]


def _type(of: Any) -> types.Type:
    """The type of a tensor or of a record of tensors, whatever the strides: each other type is compiled anew."""
    if isinstance(of, torch.Tensor):
        return types.Array(_NUMBA_TYPES[of.dtype], of.dim(), "A")
    return types.NamedTuple([_type(tensor) for tensor in of], type(of))


def _array(tensor: torch.Tensor) -> Any:
    """The tensor's memory as a kernel takes it; no copy, no synchronisation."""
    if is_simulated:
        return tensor.detach().numpy()
    return cuda.as_cuda_array(tensor.detach(), sync=False)


def _arrays(record: Any) -> Any:
    """A record of tensors as one of arrays."""
    return type(record)(*(_array(tensor) for tensor in record))
