"""The record of a batch of search trees: dense tensors, one row per tree."""

import functools
from typing import NamedTuple

import torch

from alfish.mcts.memory import empty

UNEXPANDED = -1
"""In `Tree.children`: an edge that no simulation has reached."""
ILLEGAL = -2
"""In `Tree.children`: an edge that must not be taken."""
NO_PARENT = -1
"""In `Tree.parents`: the root, or a slot without a node."""
NO_ACTION = -1
"""In `Tree.candidates`: every legal action was tried."""
DECISION, CHANCE = 0, 1
"""In `Tree.kinds`: who chooses at the node, a player or chance."""


class Tree(NamedTuple):
    """B search trees with A edges per node and room for N nodes each.

    The fields of nodes and edges are views of one buffer, `[B, N, words]`, on the device of the search. Node 0 is the
    root and, in a tree that was begun anew, simulation i creates node i, so N is the number of simulations plus one. A
    simulation that ends at an existing node (a terminal edge, or the depth limit) leaves its own slot empty: `visits` 0
    and `parents` NO_PARENT mark it, and its other entries are undefined.

    The Q-value of the edge into node i is `rewards[i] + discounts[i] * values[i]`, in the view of the player who
    chooses at its parent.

    Attributes:
        visits: `[B, N]` int32, simulations through the node, plus one for the evaluation that created the root. The
            evaluation that created another node is the last step of the simulation that did, and counts as that one.
        values: `[B, N]` float32, mean of the returns from the node on over its visits.
        raw_values: `[B, N]` float32, the model's value; 0 for a node behind a terminal edge.
        rewards: `[B, N]` float32, received on the edge into the node; 0 for the root.
        discounts: `[B, N]` float32 in [-1, 1], of the edge into the node: 0 is terminal, negative changes the player.
        players: `[B, N]` int32, `to_play` of the model's answers; 0 where they have none.
        kinds: `[B, N]` int32, DECISION or CHANCE.
        parents: `[B, N]` int32.
        actions: `[B, N]` int32, the action of the edge into the node.
        num_tried: `[B, N]` int32, how many actions of the node were tried.
        candidates: `[B, N]` int32, the most probable legal action that was not tried, or NO_ACTION.
        untried_mass: `[B, N]` float32, sum of the priors of the legal actions that were not tried.
        priors: `[B, N, A]` float32, probabilities.
        logits: `[B, N, A]` float32, logarithms of the priors, at least -1e9; `[B, N, 0]` where no rule reads them.
        children: `[B, N, A]` int32, a node's number, UNEXPANDED or ILLEGAL.
        edge_visits: `[B, N, A]` int32, equal to `visits` of the child.
        q_values: `[B, N, A]` float32, 0 for an edge that was not visited.
        tried: `[B, N, A]` int32, the actions that were tried, in the order of trying; the first `num_tried` count.
        value_range: `[B, 2]` float32, the smallest and the largest Q-value that any edge of the tree has had.
        gumbels: `[B, A]` float32, Gumbel noise of the root's actions (`SequentialHalving`), else 0.
        seeds: `[B]` int64 in [0, 2³²), of the tree's random choices.
        faults: `[B, 3]` float32, the kind (`rule.py`), node and value of the first number that could not be used;
            the kind is 0 if there was none.
    """

    visits: torch.Tensor
    values: torch.Tensor
    raw_values: torch.Tensor
    rewards: torch.Tensor
    discounts: torch.Tensor
    players: torch.Tensor
    kinds: torch.Tensor
    parents: torch.Tensor
    actions: torch.Tensor
    num_tried: torch.Tensor
    candidates: torch.Tensor
    untried_mass: torch.Tensor
    priors: torch.Tensor
    logits: torch.Tensor
    children: torch.Tensor
    edge_visits: torch.Tensor
    q_values: torch.Tensor
    tried: torch.Tensor
    value_range: torch.Tensor
    gumbels: torch.Tensor
    seeds: torch.Tensor
    faults: torch.Tensor


_INTEGERS = ("visits", "players", "kinds", "parents", "actions", "num_tried", "candidates")
_FLOATS = ("values", "raw_values", "rewards", "discounts", "untried_mass")
_EDGE_INTEGERS, _EDGE_FLOATS = ("children", "edge_visits"), ("priors", "q_values")
NODE_PLACES = {name: place for place, name in enumerate(_INTEGERS + _FLOATS)}
"""Where a node's record holds its own fields, in words of four bytes; behind them is `tried`, then the edges."""
TRIED_PLACE = len(NODE_PLACES)
EDGE_PLACES = {name: place for place, name in enumerate(_EDGE_INTEGERS + _EDGE_FLOATS)}
"""Where the record of an edge holds its fields, in words. The logits stand by themselves behind all edges."""
EDGE_WORDS = len(EDGE_PLACES)
_CACHE_LINE = 16


def first_edge(num_actions: int) -> int:
    """Where a node's record holds its first edge, in words: no edge may be in two cache lines."""
    return _rounded_up(TRIED_PLACE + num_actions, EDGE_WORDS)


def node_words(num_actions: int, with_logits: bool) -> int:
    """Words of a node's record, up to the end of a cache line.

    All that a step of a simulation reads lies together, because a search waits for memory more than it computes.
    """
    words = first_edge(num_actions) + num_actions * (EDGE_WORDS + with_logits)
    return _rounded_up(words, _CACHE_LINE)


def _rounded_up(number: int, unit: int) -> int:
    return (number + unit - 1) // unit * unit


def new_tree(
    num_trees: int,
    num_nodes: int,
    num_actions: int,
    known_range: tuple[float, float] | None = None,
    with_logits: bool = True,
    device: torch.device | str = "cpu",
) -> Tree:
    """Allocates a tree record without nodes.

    Args:
        num_trees: B.
        num_nodes: N, at least 1.
        num_actions: A, at least 1.
        known_range: where `value_range` starts. None starts it empty, as (inf, -inf).
        with_logits: whether a rule reads `logits`.
        device: where the tensors are.
    """
    words, edges_place = node_words(num_actions, with_logits), first_edge(num_actions)
    floats = empty((num_trees, num_nodes, words), torch.float32, device).zero_()
    integers = floats.view(torch.int32)
    rows, row_strides = (num_trees, num_nodes), (num_nodes * words, words)
    edges, edge_strides = (*rows, num_actions), (*row_strides, EDGE_WORDS, 1)
    # All views of a kind in one call: in a small search, making the record takes as long as a few simulations.
    views = (
        *integers.as_strided((*rows, len(_INTEGERS)), (*row_strides, 1)).unbind(2),
        *floats.as_strided((*rows, len(_FLOATS)), (*row_strides, 1), len(_INTEGERS)).unbind(2),
        *integers.as_strided((*edges, len(_EDGE_INTEGERS)), edge_strides, edges_place).unbind(3),
        *floats.as_strided((*edges, len(_EDGE_FLOATS)), edge_strides, edges_place + len(_EDGE_INTEGERS)).unbind(3),
    )
    logits, logits_place = (edges, edges_place + EDGE_WORDS * num_actions) if with_logits else ((*rows, 0), 0)
    tree = Tree(
        **dict(zip((*NODE_PLACES, *EDGE_PLACES), views, strict=True)),
        tried=integers.as_strided(edges, (*row_strides, 1), TRIED_PLACE),
        logits=floats.as_strided(logits, (*row_strides, 1), logits_place),
        value_range=torch.empty((num_trees, 2), dtype=torch.float32, device=device),
        gumbels=torch.zeros((num_trees, num_actions), dtype=torch.float32, device=device),
        seeds=torch.zeros(num_trees, dtype=torch.int64, device=device),
        faults=torch.zeros((num_trees, 3), dtype=torch.float32, device=device),
    )
    _mark_empty(tree, known_range)
    return tree


def clear_tree(tree: Tree, known_range: tuple[float, float] | None) -> None:
    """Makes the trees ones without nodes again."""
    node_records(tree).zero_()
    _mark_empty(tree, known_range)


def _mark_empty(tree: Tree, known_range: tuple[float, float] | None) -> None:
    low, high = (torch.inf, -torch.inf) if known_range is None else known_range
    tree.parents.fill_(NO_PARENT)
    tree.value_range[:, 0] = low
    tree.value_range[:, 1] = high


@functools.lru_cache(maxsize=16)  # most searches make no random choices and ask for seed 0
def tree_seeds(num_trees: int, seed: int, device: torch.device | str) -> torch.Tensor:
    """`[B]` int64 in [0, 2³²), one for each tree: neighbouring seeds and trees are far apart once they are hashed.

    Copy it; it is shared.
    """
    counters = torch.arange(num_trees, dtype=torch.int64, device=device)
    return (counters * 0x9E3779B9 + (seed * 0x85EBCA6B & 0xFFFFFFFF)) & 0xFFFFFFFF


def node_records(tree: Tree) -> torch.Tensor:
    """The buffer behind the fields of nodes and edges, `[B, N, words]` int32."""
    num_trees, num_nodes, num_actions = tree.priors.shape
    # Not from a stride: torch gives axes of one element any.
    words = node_words(num_actions, has_logits(tree))
    return tree.visits.as_strided((num_trees, num_nodes, words), (num_nodes * words, words, 1))


def has_logits(tree: Tree) -> bool:
    """Whether the trees store logits beside priors."""
    return tree.logits.shape[2] > 0


def tree_bytes(
    num_trees: int, num_nodes: int, num_actions: int, latent_bytes: int = 0, with_logits: bool = True
) -> int:
    """Bytes that a search holds: the tree record and the latents of all nodes. Linear in B · N · A.

    Args:
        num_trees: B.
        num_nodes: N, the number of simulations plus one.
        num_actions: A.
        latent_bytes: of one latent.
        with_logits: whether a rule reads `Tree.logits` (`SearchSettings.needs_logits`).
    """
    per_node = 4 * node_words(num_actions, with_logits) + latent_bytes
    per_tree = 4 * (2 + num_actions + 3) + 8
    return num_trees * (num_nodes * per_node + per_tree)
