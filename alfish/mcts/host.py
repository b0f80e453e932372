"""The kernels on the CPU: compiled when they are first needed, and called with a table of addresses.

Unpacking a record of twenty tensors at every call would take longer than a round of a small search. So a call passes
one array of integers, and compiled code makes the records from it.

numba stores the machine code beside this file, or in the user's cache folder where this one is read-only. It renews
what is stored when this file changes; `SOURCES` makes it renew it too when another kernel file does.
"""

import contextlib
import functools
import hashlib
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils, event
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from alfish.mcts import expansion, improved_policy, random_numbers, readout, rule, scaling, selection, tree
from alfish.mcts.expansion import advance
from alfish.mcts.readout import write_policy
from alfish.mcts.rule import Answers, Rule, kernel
from alfish.mcts.tree import NODE_PLACES, TRIED_PLACE, Tree, first_edge, has_logits, node_words
from alfish.ops.compilation import OPTIONS, compile_cached

PARALLEL_EDGES = 384
"""From this many edges per level (rows * A) on, several threads are faster than one, beside torch's own threads too."""

(
    NUM_TREES,
    NUM_NODES,
    NUM_ACTIONS,
    NUM_ROWS,
    NODE_BYTES,
    FIRST_EDGE,
    LOGITS_WIDTH,
    VISITS_LENGTH,
    PLAN_ROWS,
    PLAN_LENGTH,
) = range(10)
"""Places of the sizes in the table of addresses."""
NODES, VALUE_RANGE, GUMBELS, SEEDS, FAULTS = range(10, 15)
"""Places of the addresses of the tree's buffer and of its fields that have one row per tree."""
RULE = 15
"""Where the addresses of the rule's fields begin, then that of `edges`, then those of the answers."""
EDGES = RULE + len(Rule._fields)
ACTIONS = EDGES + 1
"""The address of the actions that the model is given, `[rows]` int64: a copy, which it may change."""
ANSWERS = ACTIONS + 1
"""Where the addresses of the answers begin, each followed by its strides, in bytes."""
REWARD, DISCOUNT, VALUE, LOGITS, PLAYER, CHANCE = (ANSWERS + offset for offset in (0, 2, 4, 6, 9, 11))
NUM_LATENTS = ANSWERS + 13
LATENTS = NUM_LATENTS + 1
"""Where the latents' leaves begin; five numbers each."""
STORE, ROW_BYTES, GATHERED, RETURNED, RETURNED_STRIDE = range(5)
"""Of a leaf: the address of `[N, B, ...]`, the bytes of one row, the addresses of what the model is given and of what
it returned, and the bytes from row to row of the latter."""
LATENT_FIELDS = 5

# In bytes, from the beginning of a node's record, then of an edge's.
(
    _VISITS,
    _PLAYERS,
    _KINDS,
    _PARENTS,
    _ACTIONS,
    _NUM_TRIED,
    _CANDIDATES,
    _VALUES,
    _RAW_VALUES,
    _REWARDS,
    _DISCOUNTS,
    _UNTRIED_MASS,
) = (4 * place for place in NODE_PLACES.values())
_TRIED, _EDGE_BYTES = 4 * TRIED_PLACE, 4 * tree.EDGE_WORDS
_CHILDREN, _EDGE_VISITS, _PRIORS, _Q_VALUES = (4 * place for place in tree.EDGE_PLACES.values())

SOURCES = hashlib.sha256(
    b"".join(
        pathlib.Path(str(module.__file__)).read_bytes()
        for module in (expansion, improved_policy, random_numbers, readout, rule, scaling, selection, tree)
    )
).hexdigest()

_logger = logging.getLogger(__name__)
_import_process = os.getpid()
_parallel_lock = threading.Lock()


def _array_maker(dtype: Any, ndim: int, layout: Any) -> Callable[..., Any]:
    """An intrinsic `(address, shape, strides) -> array` over memory that somebody else owns; strides are in bytes."""
    array_type = types.Array(dtype, ndim, layout)

    @intrinsic
    def array_at(typing_context: Any, address: Any, shape: Any, strides: Any) -> Any:
        del typing_context, address, shape, strides
        sizes = types.UniTuple(types.int64, ndim)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            del signature
            array = context.make_array(array_type)(context, builder)
            populate_array(
                array,
                data=builder.inttoptr(arguments[0], array.data.type),
                shape=cgutils.unpack_tuple(builder, arguments[1], ndim),
                strides=cgutils.unpack_tuple(builder, arguments[2], ndim),
                itemsize=context.get_constant(types.intp, dtype.bitwidth // 8),
                meminfo=None,
            )
            return array._getvalue()

        return array_type(types.int64, sizes, sizes), generate

    return array_at


_integers, _floats, _bytes = types.int32, types.float32, types.uint8
_int2, _int3 = _array_maker(_integers, 2, "A"), _array_maker(_integers, 3, "A")
_float2, _float3 = _array_maker(_floats, 2, "A"), _array_maker(_floats, 3, "A")
_long1, _long2 = _array_maker(types.int64, 1, "C"), _array_maker(types.int64, 2, "C")
_answer1, _answer2 = _array_maker(_floats, 1, "A"), _array_maker(_floats, 2, "A")
_memory = _array_maker(_bytes, 1, "C")


@kernel
def tree_at(table: np.ndarray) -> Tree:
    """The tree record whose addresses are in the table."""
    num_trees, num_actions, base = table[NUM_TREES], table[NUM_ACTIONS], table[NODES]
    nodes, node_strides = (num_trees, table[NUM_NODES]), (table[NUM_NODES] * table[NODE_BYTES], table[NODE_BYTES])
    edges = (*nodes, num_actions)
    first, edge_strides = base + table[FIRST_EDGE], (*node_strides, _EDGE_BYTES)
    return Tree(
        _int2(base + _VISITS, nodes, node_strides),
        _float2(base + _VALUES, nodes, node_strides),
        _float2(base + _RAW_VALUES, nodes, node_strides),
        _float2(base + _REWARDS, nodes, node_strides),
        _float2(base + _DISCOUNTS, nodes, node_strides),
        _int2(base + _PLAYERS, nodes, node_strides),
        _int2(base + _KINDS, nodes, node_strides),
        _int2(base + _PARENTS, nodes, node_strides),
        _int2(base + _ACTIONS, nodes, node_strides),
        _int2(base + _NUM_TRIED, nodes, node_strides),
        _int2(base + _CANDIDATES, nodes, node_strides),
        _float2(base + _UNTRIED_MASS, nodes, node_strides),
        _float3(first + _PRIORS, edges, edge_strides),
        _float3(first + num_actions * _EDGE_BYTES, (*nodes, table[LOGITS_WIDTH]), (*node_strides, 4)),
        _int3(first + _CHILDREN, edges, edge_strides),
        _int3(first + _EDGE_VISITS, edges, edge_strides),
        _float3(first + _Q_VALUES, edges, edge_strides),
        _int3(base + _TRIED, edges, (*node_strides, 4)),
        _float2(table[VALUE_RANGE], (num_trees, 2), (8, 4)),
        _float2(table[GUMBELS], (num_trees, num_actions), (4 * num_actions, 4)),
        _long1(table[SEEDS], (num_trees,), (8,)),
        _float2(table[FAULTS], (num_trees, 3), (12, 4)),
    )


@kernel
def rule_at(table: np.ndarray) -> Rule:
    """The rule whose addresses are in the table."""
    return Rule(
        _int2(table[RULE], (2, 7), (28, 4)),
        _float2(table[RULE + 1], (2, 4), (16, 4)),
        _float2(table[RULE + 2], (2, table[VISITS_LENGTH]), (4 * table[VISITS_LENGTH], 4)),
        _int2(table[RULE + 3], (table[PLAN_ROWS], table[PLAN_LENGTH]), (4 * table[PLAN_LENGTH], 4)),
    )


@kernel
def answers_at(table: np.ndarray) -> Answers:
    """The model's answers whose addresses and strides are in the table."""
    rows, num_actions = table[NUM_ROWS], table[NUM_ACTIONS]
    return Answers(
        _answer1(table[REWARD], (rows,), (table[REWARD + 1],)),
        _answer1(table[DISCOUNT], (rows,), (table[DISCOUNT + 1],)),
        _answer1(table[VALUE], (rows,), (table[VALUE + 1],)),
        _answer2(table[LOGITS], (rows, num_actions), (table[LOGITS + 1], table[LOGITS + 2])),
        _answer1(table[PLAYER], (rows,), (table[PLAYER + 1],)),
        _answer1(table[CHANCE], (rows,), (table[CHANCE + 1],)),
    )


@kernel
def copy_bytes(source: int, target: int, count: int) -> None:
    """Copies memory."""
    read, written = _memory(source, (count,), (1,)), _memory(target, (count,), (1,))
    for i in range(count):
        written[i] = read[i]


@kernel
def advance_row(table: np.ndarray, row: int, node: int, more: bool) -> None:
    """`expansion.advance` for one tree; before it new latents are stored, after it the next parents' are fetched."""
    num_trees, leaves = table[NUM_TREES], table[NUM_ROWS] // table[NUM_TREES]
    edges = _long2(table[EDGES], (2, table[NUM_ROWS]), (8 * table[NUM_ROWS], 8))
    if node > 0:
        for leaf in range(leaves):
            for latent in range(table[NUM_LATENTS]):
                at, answer = LATENTS + LATENT_FIELDS * latent, row * leaves + leaf
                source = table[at + RETURNED] + answer * table[at + RETURNED_STRIDE]
                target = table[at + STORE] + ((node + leaf) * num_trees + row) * table[at + ROW_BYTES]
                copy_bytes(source, target, table[at + ROW_BYTES])
    advance(tree_at(table), rule_at(table), answers_at(table), edges, row, node, more)
    if more:
        actions = _long1(table[ACTIONS], (table[NUM_ROWS],), (8,))
        for answer in range(row * leaves, (row + 1) * leaves):
            actions[answer] = edges[1, answer]
            for latent in range(table[NUM_LATENTS]):
                at = LATENTS + LATENT_FIELDS * latent
                source = table[at + STORE] + edges[0, answer] * table[at + ROW_BYTES]
                copy_bytes(source, table[at + GATHERED] + answer * table[at + ROW_BYTES], table[at + ROW_BYTES])


@intrinsic
def _row_call(typing_context: Any, address: Any, table: Any, row: Any, node: Any, more: Any) -> Any:
    """Calls the compiled function of one row at `address`."""
    del typing_context, address, table, row, node, more

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature
        word = ir.IntType(64)
        function = builder.inttoptr(arguments[0], ir.FunctionType(ir.VoidType(), [word] * 4).as_pointer())
        builder.call(function, arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


_call_row: Any = _row_call


# numba's store tells versions of a function apart by its code and by what it closes over, hence the argument. It takes
# two functions of one name for the same, hence two where one could be compiled twice.
def _row_function(sources: str) -> Callable[..., None]:
    def one_row(table: int, row: int, node: int, more: int) -> None:
        sources  # noqa: B018
        sizes = _long1(table, (LATENTS,), (8,))
        whole = _long1(table, (LATENTS + LATENT_FIELDS * sizes[NUM_LATENTS],), (8,))
        advance_row(whole, row, node, more != 0)

    return one_row


def _batch_functions(sources: str) -> tuple[Callable[..., None], ...]:
    def advance_serial(row_function: int, table: int, num_trees: int, node: int, more: int) -> None:
        sources  # noqa: B018
        for row in range(num_trees):
            _call_row(row_function, table, row, node, more)

    def advance_parallel(row_function: int, table: int, num_trees: int, node: int, more: int) -> None:
        sources  # noqa: B018
        for row in numba.prange(num_trees):
            _call_row(row_function, table, row, node, more)

    def read_policy(table: np.ndarray, kind: int, out: np.ndarray) -> None:
        sources  # noqa: B018
        for row in range(table[NUM_TREES]):
            write_policy(tree_at(table), rule_at(table), row, kind, out)

    return advance_serial, advance_parallel, read_policy


_serial, _parallel, _policy = _batch_functions(SOURCES)
_advance_serial = compile_cached(_serial)
_advance_parallel = compile_cached(_parallel, parallel=True)
_read_policy = compile_cached(_policy)


@functools.cache
def _compiled_row() -> Any:
    """The machine code of one row's step, which has an address.

    Both batch functions call it there: numba would compile it again within each of them, which takes longer than the
    rest together.
    """
    signature = types.void(*[types.int64] * 4)
    function = _row_function(SOURCES)
    with event.install_listener("numba:compile", _LogCompilation()):
        try:
            compiled = numba.cfunc(signature, cache=True, **OPTIONS)(function)
        except RuntimeError:  # numba found no folder for its store.
            compiled = numba.cfunc(signature, **OPTIONS)(function)
    return compiled


def address_table(tree: Tree, rule: Rule, num_rows: int, num_latents: int) -> np.ndarray:
    """The table of a search's records; `edges`, answers and latents are still to be entered.

    The tensors must be in host memory, the tree's as `new_tree` makes them, and outlive the table's use.
    """
    num_trees, num_nodes, num_actions = tree.priors.shape
    edges_place = 4 * first_edge(num_actions)
    if tree.children.data_ptr() - tree.visits.data_ptr() != edges_place or tree.visits.device.type != "cpu":
        raise ValueError(
            f"the fields of the tree, on {tree.visits.device}, are not views of one buffer in host memory; expected a"
            " tree as a search on the CPU returns it. Copy it with copy.deepcopy, not field by field"
        )
    table = np.zeros(LATENTS + LATENT_FIELDS * num_latents, np.int64)
    table[:NODES] = (
        num_trees,
        num_nodes,
        num_actions,
        num_rows,
        4 * node_words(num_actions, has_logits(tree)),
        edges_place,
        tree.logits.shape[2],
        rule.exploration.shape[1],
        *rule.considered.shape,
    )
    table[NUM_LATENTS] = num_latents
    tensors = (tree.visits, tree.value_range, tree.gumbels, tree.seeds, tree.faults, *rule)
    table[NODES:EDGES] = [tensor.data_ptr() for tensor in tensors]
    return table


@contextlib.contextmanager
def compiled_advance(table: np.ndarray) -> Iterator[Callable[[int, bool], None]]:
    """The function `advance(node, more)` on the trees of the table, for the duration of one search.

    A large search runs in as many threads as torch does, a small one in the caller's. Two searches at once never share
    the threads, because not every threading layer of numba survives that, and a forked process never uses them, because
    OpenMP ends a process that does.
    """
    num_trees, address = int(table[NUM_TREES]), table.ctypes.data
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    large = num_trees > 1 and threads > 1 and table[NUM_ROWS] * table[NUM_ACTIONS] >= PARALLEL_EDGES
    if not (large and os.getpid() == _import_process and _parallel_lock.acquire(blocking=False)):
        yield functools.partial(_batch_function(parallel=False), _compiled_row().address, address, num_trees)
        return
    try:
        numba.set_num_threads(threads)
        yield functools.partial(_batch_function(parallel=True), _compiled_row().address, address, num_trees)
    finally:
        _parallel_lock.release()


@functools.cache
def _batch_function(parallel: bool) -> Callable[..., None]:
    return ready(_advance_parallel if parallel else _advance_serial, 0, 0, 0, 0, 0)


def read_policy(tree: Tree, rule: Rule, kind: int) -> torch.Tensor:
    """What the searches found for their roots, `[B, A]` float32; `kind` is `rule.POLICY_VISITS` or a sibling."""
    num_trees, _, num_actions = tree.priors.shape
    out = torch.empty((num_trees, num_actions), dtype=torch.float32, device="cpu")
    compiled = ready(_read_policy, np.zeros(LATENTS, np.int64), 0, np.empty((0, 1), np.float32))
    compiled(address_table(tree, rule, num_trees, 0), kind, out.numpy())
    return out


def ready(function: Any, *arguments: Any) -> Callable[..., None]:
    """Compiles a function, or loads its stored machine code, unless that was done before in this process.

    The arguments are those of a call for no trees.
    """
    if not hasattr(function, "signatures"):
        raise RuntimeError("NUMBA_DISABLE_JIT is set, and the search needs compiled kernels; unset it")
    if not function.signatures:
        with event.install_listener("numba:compile", _LogCompilation()):
            function(*arguments)
    return function


class _LogCompilation(event.Listener):
    """Says once why the first search after an installation is slow; silent when stored machine code is loaded."""

    def on_start(self, event: event.Event) -> None:
        del event
        _say_that_kernels_are_compiled()

    def on_end(self, event: event.Event) -> None:
        del event


@functools.cache
def _say_that_kernels_are_compiled() -> None:
    _logger.warning("compiling the search kernels, once; this takes some seconds")
