"""What the rule of choice says of every edge of a tree when the search has ended: the next simulation's view.

Plain NumPy over one tree, `[N, A]` at once. The search itself computes these numbers edge by edge, on its way, and
keeps none of them.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from alfish.mcts.settings import ImprovedPolicy, Puct, RegularisedPolicy, SearchSettings, SequentialHalving
from alfish.mcts.tree import CHANCE, ILLEGAL
from alfish.viewers.tree_arrays import TreeArrays

_BISECTIONS = 60


class _Nodes(NamedTuple):
    """M nodes of one tree, and how their Q-values are scaled.

    Attributes:
        edge_visits: `[M, A]`.
        q_values: `[M, A]`.
        priors: `[M, A]`.
        visited: `[M, A]` bool.
        legal: `[M, A]` bool.
        visits: `[M, 1]`.
        values: `[M, 1]`, mean returns.
        raw_values: `[M, 1]`, of the model.
        gumbels: `[1, A]`.
        tree_range: `[1, 2]`, the smallest and the largest Q-value of the tree; None where each node has its own.
        minimum_range: least width of a range.
    """

    edge_visits: np.ndarray
    q_values: np.ndarray
    priors: np.ndarray
    visited: np.ndarray
    legal: np.ndarray
    visits: np.ndarray
    values: np.ndarray
    raw_values: np.ndarray
    gumbels: np.ndarray
    tree_range: np.ndarray | None
    minimum_range: float


def edge_scores(tree: TreeArrays, settings: SearchSettings) -> np.ndarray:
    """The score of every edge, by which a simulation that came to its node now would choose.

    What it means is in `score_formulas`.

    Args:
        tree: one tree.
        settings: of its search.

    Returns:
        `[N, A]` float64, NaN for illegal edges and for empty slots.
    """
    scores = np.full(tree.priors.shape, np.nan)
    scores[:1] = _scores(settings.root, _nodes(tree, settings, slice(0, 1)))
    scores[1:] = _scores(settings.interior, _nodes(tree, settings, slice(1, None)))
    outcomes = tree.priors / (1.0 + tree.edge_visits) if settings.chance == "balanced" else tree.priors
    scores = np.where((tree.kinds == CHANCE)[:, None], outcomes, scores)
    return np.where((tree.children != ILLEGAL) & (tree.visits > 0)[:, None], scores, np.nan)


def score_formulas(settings: SearchSettings) -> dict[str, str]:
    """What the score is, in a few words, at the `"root"`, at `"interior"` nodes and at `"chance"` nodes."""
    chance = "prior / (1 + N)" if settings.chance == "balanced" else "prior: outcomes are drawn from it"
    return {"root": _formula(settings.root), "interior": _formula(settings.interior), "chance": chance}


def _nodes(tree: TreeArrays, settings: SearchSettings, part: slice) -> _Nodes:
    children = tree.children[part]
    return _Nodes(
        edge_visits=tree.edge_visits[part],
        q_values=tree.q_values[part],
        priors=tree.priors[part],
        visited=children >= 0,
        legal=children != ILLEGAL,
        visits=tree.visits[part, None],
        values=tree.values[part, None],
        raw_values=tree.raw_values[part, None],
        gumbels=tree.gumbels[None],
        tree_range=None if settings.value_range == "node" else tree.value_range[None],
        minimum_range=settings.minimum_range,
    )


def _scaled(nodes: _Nodes, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """`(values - low) / (high - low)`, `[M, A]` or `[M, 1]`; 0 where the range `[M, 1]` is empty."""
    empty = high < low
    width = np.maximum(np.where(empty, 1.0, high - np.where(empty, 0.0, low)), nodes.minimum_range)
    return np.where(empty, 0.0, (values - np.where(empty, 0.0, low)) / width)


def _range(nodes: _Nodes, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest `[M, 1]` of the Q-values of visited edges and `others` `[M, 1]` (NaN for none)."""
    candidates = np.concatenate((np.where(nodes.visited, nodes.q_values, np.nan), others), axis=1)
    low = np.where(np.isnan(candidates), np.inf, candidates).min(axis=1, keepdims=True)
    high = np.where(np.isnan(candidates), -np.inf, candidates).max(axis=1, keepdims=True)
    return low, high


def _scaled_values(nodes: _Nodes, unvisited_value: float | str) -> np.ndarray:
    """The scaled value `[M, A]` of every edge, visited or not, as `Puct` and `RegularisedPolicy` see it."""
    if nodes.tree_range is None:
        low, high = _range(nodes, nodes.values)
    else:
        low, high = nodes.tree_range[:, :1], nodes.tree_range[:, 1:]
    scaled = _scaled(nodes, nodes.q_values, low, high)
    if unvisited_value == "parent":
        unvisited = np.clip(_scaled(nodes, nodes.values, low, high), 0.0, 1.0)
    elif unvisited_value == "siblings":
        total = np.where(nodes.visited, scaled, 0.0).sum(axis=1, keepdims=True)
        unvisited = total / np.maximum(nodes.visited.sum(axis=1, keepdims=True), 1)
    else:
        unvisited = np.float64(unvisited_value)
    return np.where(nodes.visited, scaled, unvisited)


def _exploration(nodes: _Nodes, c1: float, c2: float) -> np.ndarray:
    """√n · (c1 + log((n + c2 + 1) / c2)), `[M, 1]`."""
    return np.sqrt(nodes.visits) * (c1 + np.log((nodes.visits + c2 + 1.0) / c2))


def _logits_and_values(rule: ImprovedPolicy | SequentialHalving, nodes: _Nodes) -> np.ndarray:
    """Logits plus σ(completed Q), `[M, A]` (Danihelka et al. 2022, sections 4 and 5, appendix D)."""
    seen = np.where(nodes.visited, np.maximum(nodes.priors, np.finfo(np.float32).tiny), 0.0)
    mass = seen.sum(axis=1, keepdims=True)
    visits = np.where(nodes.visited, nodes.edge_visits, 0.0).sum(axis=1, keepdims=True)
    mean = (seen * nodes.q_values).sum(axis=1, keepdims=True) / np.where(mass > 0.0, mass, 1.0)
    mixed = np.where(mass > 0.0, (nodes.raw_values + visits * mean) / (1.0 + visits), nodes.raw_values)
    unvisited_exists = (nodes.legal & ~nodes.visited).any(axis=1, keepdims=True)
    low, high = _range(nodes, np.where(unvisited_exists, mixed, np.nan))
    if nodes.tree_range is not None:
        low = np.where(unvisited_exists, np.minimum(nodes.tree_range[:, :1], mixed), nodes.tree_range[:, :1])
        high = np.where(unvisited_exists, np.maximum(nodes.tree_range[:, 1:], mixed), nodes.tree_range[:, 1:])
    completed = np.where(nodes.visited, nodes.q_values, mixed)
    weight = (rule.visit_offset + nodes.edge_visits.max(axis=1, keepdims=True)) * rule.value_scale
    with np.errstate(divide="ignore"):
        logits = np.log(np.where(nodes.legal, nodes.priors, 0.0))
    return logits + weight * _scaled(nodes, completed, low, high)


def _visit_shares(nodes: _Nodes) -> np.ndarray:
    return nodes.edge_visits / np.maximum(nodes.visits, 1.0)


@functools.singledispatch
def _scores(rule: Any, nodes: _Nodes) -> np.ndarray:
    raise ValueError(f"no score is known for the rule {rule!r}; register one in edge_scores.py")


@_scores.register
def _(rule: Puct, nodes: _Nodes) -> np.ndarray:
    bonus = _exploration(nodes, rule.c1, rule.c2) * nodes.priors / (1.0 + nodes.edge_visits)
    return _scaled_values(nodes, rule.unvisited_value) + bonus


@_scores.register
def _(rule: ImprovedPolicy, nodes: _Nodes) -> np.ndarray:
    improved = _logits_and_values(rule, nodes)
    largest = improved.max(axis=1, keepdims=True, initial=-1e300)
    weights = np.exp(improved - largest)
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300) - _visit_shares(nodes)


@_scores.register
def _(rule: SequentialHalving, nodes: _Nodes) -> np.ndarray:
    return nodes.gumbels + _logits_and_values(rule, nodes)


@_scores.register
def _(rule: RegularisedPolicy, nodes: _Nodes) -> np.ndarray:
    """λπ / (α - q), α found by bisection (Grill et al. 2020, section 3)."""
    values = np.where(nodes.legal, _scaled_values(nodes, rule.unvisited_value), -np.inf)
    priors = np.where(nodes.legal, nodes.priors, 0.0)
    actions = np.maximum(nodes.legal.sum(axis=1, keepdims=True), 1)
    strength = _exploration(nodes, rule.c1, rule.c2) / (actions + np.maximum(nodes.visits, 1.0) - 1.0)
    supported = priors > 0.0
    reached = np.where(supported, values, -np.inf)
    low = np.where(supported, values + strength * priors, -np.inf).max(axis=1, keepdims=True, initial=-1e300)
    high = reached.max(axis=1, keepdims=True, initial=-1e300) + strength

    def policy(alpha: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(supported, strength * priors / (alpha - values), 0.0)

    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        too_low = policy(middle).sum(axis=1, keepdims=True) > 1.0
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    probabilities = policy(high)
    return probabilities if rule.sampled else probabilities - _visit_shares(nodes)


@functools.singledispatch
def _formula(rule: Any) -> str:
    return type(rule).__name__


@_formula.register
def _(rule: Puct) -> str:
    del rule
    return "scaled Q + exploration · prior / (1 + N)"


@_formula.register
def _(rule: ImprovedPolicy) -> str:
    del rule
    return "improved policy − N / (1 + sum of N)"


@_formula.register
def _(rule: SequentialHalving) -> str:
    del rule
    return "Gumbel noise + logit + scaled Q, compared among the actions still considered"


@_formula.register
def _(rule: RegularisedPolicy) -> str:
    return "regularised policy" + (": actions are drawn from it" if rule.sampled else " − N / (1 + sum of N)")
