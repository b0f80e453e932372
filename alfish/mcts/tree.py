"""The record of a batch of search trees: dense arrays, one row per tree."""

from typing import NamedTuple

import numpy as np

UNEXPANDED = -1
"""In `Tree.children`: an edge that no simulation has reached."""
ILLEGAL = -2
"""In `Tree.children`: an edge that must not be taken."""
NO_PARENT = -1
"""In `Tree.parents`: the root, or a slot without a node."""


class Tree(NamedTuple):
    """B search trees with A edges per node and room for N nodes each.

    All fields are C-contiguous NumPy arrays in host memory; `torch.from_numpy` shares them without a copy. Node 0 is
    the root and simulation i creates node i, so N is the number of simulations plus one. A simulation that ends at an
    existing node (a terminal edge, or the depth limit) leaves its own slot empty: `visits` 0 and `parents` NO_PARENT
    mark it, and its other entries are undefined.

    The Q-value of the edge into node i is `rewards[i] + discounts[i] * value_sums[i] / visits[i]`, in the view of the
    player who chooses at its parent.

    Attributes:
        visits: `[B, N]` int32, simulations through the node, plus one for the evaluation that created the root. The
            evaluation that created another node is the last step of the simulation that did, and counts as that one.
        value_sums: `[B, N]` float32, sum of the returns from the node on, one per visit.
        raw_values: `[B, N]` float32, the model's value; 0 for a node behind a terminal edge.
        rewards: `[B, N]` float32, received on the edge into the node; 0 for the root.
        discounts: `[B, N]` float32 in [-1, 1], of the edge into the node: 0 is terminal, negative changes the player.
        parents: `[B, N]` int32.
        actions: `[B, N]` int32, the action of the edge into the node.
        priors: `[B, N, A]` float32, probabilities.
        children: `[B, N, A]` int32, a node's number, UNEXPANDED or ILLEGAL.
        edge_visits: `[B, N, A]` int32, equal to `visits` of the child.
        q_values: `[B, N, A]` float32, 0 for an edge that was not visited.
        value_range: `[B, 2]` float32, the smallest and the largest Q-value that any edge of the tree has had.
        faults: `[B, 3]` float32, the kind (`kernels.py`), simulation and value of the first number that could not be
            used; the kind is 0 if there was none.
    """

    visits: np.ndarray
    value_sums: np.ndarray
    raw_values: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray
    parents: np.ndarray
    actions: np.ndarray
    priors: np.ndarray
    children: np.ndarray
    edge_visits: np.ndarray
    q_values: np.ndarray
    value_range: np.ndarray
    faults: np.ndarray


def new_tree(num_trees: int, num_nodes: int, num_actions: int, known_range: tuple[float, float] | None = None) -> Tree:
    """Allocates a tree record without nodes.

    Args:
        num_trees: B.
        num_nodes: N, at least 1.
        num_actions: A, at least 1.
        known_range: where `value_range` starts. None starts it empty, as (inf, -inf).

    Returns:
        A Tree. What a node needs is written when the node is made, so the large arrays are not cleared here.
    """
    nodes, edges = (num_trees, num_nodes), (num_trees, num_nodes, num_actions)
    tree = Tree(
        visits=np.zeros(nodes, np.int32),
        value_sums=np.empty(nodes, np.float32),
        raw_values=np.empty(nodes, np.float32),
        rewards=np.empty(nodes, np.float32),
        discounts=np.empty(nodes, np.float32),
        parents=np.full(nodes, NO_PARENT, np.int32),
        actions=np.empty(nodes, np.int32),
        priors=np.empty(edges, np.float32),
        children=np.empty(edges, np.int32),
        edge_visits=np.empty(edges, np.int32),
        q_values=np.empty(edges, np.float32),
        value_range=np.empty((num_trees, 2), np.float32),
        faults=np.zeros((num_trees, 3), np.float32),
    )
    tree.value_range[:] = (np.inf, -np.inf) if known_range is None else known_range
    return tree
