"""One tree of a search as NumPy arrays in host memory."""

from typing import NamedTuple

import numpy as np

from alfish.mcts.tree import Tree


class TreeArrays(NamedTuple):
    """What is looked at of one tree; the fields are those of `alfish.mcts.tree.Tree`, without the axis B.

    Integers keep their type; real numbers are float64, so that what is computed of them adds no error of its own.
    """

    visits: np.ndarray
    values: np.ndarray
    raw_values: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray
    players: np.ndarray
    kinds: np.ndarray
    actions: np.ndarray
    priors: np.ndarray
    children: np.ndarray
    edge_visits: np.ndarray
    q_values: np.ndarray
    value_range: np.ndarray
    gumbels: np.ndarray


def tree_arrays(trees: Tree, row: int) -> TreeArrays:
    """Copies tree `row` of a batch."""
    fields = (getattr(trees, name)[row].cpu().numpy() for name in TreeArrays._fields)
    return TreeArrays(*(field.astype(np.float64 if field.dtype.kind == "f" else field.dtype) for field in fields))
