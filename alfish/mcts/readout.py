"""What a finished tree says of its root: scalar functions that write one row of a policy."""

import math

import numpy as np

from alfish.mcts.improved_policy import (
    completed_scale,
    mixed_value,
    pressure,
    regularised_normaliser,
    regularised_probability,
)
from alfish.mcts.rule import (
    LOWEST_LOGIT,
    POLICY_IMPROVED,
    POLICY_REGULARISED,
    POLICY_VISITS,
    ROOT,
    Number,
    RuleArrays,
    TreeArrays,
    kernel,
)
from alfish.mcts.scaling import unvisited_value, value_scale
from alfish.mcts.selection import choose_halving
from alfish.mcts.tree import ILLEGAL

_ZERO = np.float32(0.0)


@kernel
def root_logit(tree: TreeArrays, row: int, action: int) -> Number:
    """The logit of a root's action, from its prior if the tree stores no logits."""
    if tree.logits.shape[2] == tree.priors.shape[2]:
        return tree.logits[row, 0, action]
    prior = tree.priors[row, 0, action]
    return max(np.float32(math.log(prior)), LOWEST_LOGIT) if prior > _ZERO else LOWEST_LOGIT


@kernel
def write_improved(tree: TreeArrays, rule: RuleArrays, row: int, out: np.ndarray) -> None:
    """Writes the root's improved policy softmax(logits + σ(completed Q)) to `out` `[B, A]`."""
    mixed = mixed_value(tree, row, 0)
    low, scale = completed_scale(tree, rule, row, 0, ROOT, mixed)
    weight = pressure(tree, rule, row, 0, ROOT)
    largest, total = -np.float32(np.inf), _ZERO
    for action in range(out.shape[1]):
        if tree.children[row, 0, action] != ILLEGAL:
            value = tree.q_values[row, 0, action] if tree.children[row, 0, action] >= 0 else mixed
            out[row, action] = root_logit(tree, row, action) + weight * ((value - low) * scale)
            largest = max(largest, out[row, action])
    for action in range(out.shape[1]):
        if tree.children[row, 0, action] == ILLEGAL:
            out[row, action] = _ZERO
        else:
            out[row, action] = math.exp(out[row, action] - largest)
            total += out[row, action]
    for action in range(out.shape[1]):
        out[row, action] /= total


@kernel
def write_regularised(tree: TreeArrays, rule: RuleArrays, row: int, out: np.ndarray) -> None:
    """Writes the root's regularised policy to `out` `[B, A]`."""
    low, scale = value_scale(tree, rule, row, 0, ROOT)
    unvisited = unvisited_value(tree, rule, row, 0, ROOT, low, scale)
    strength, top, delta, total = regularised_normaliser(tree, rule, row, 0, ROOT, low, scale, unvisited)
    for action in range(out.shape[1]):
        child = tree.children[row, 0, action]
        value = (tree.q_values[row, 0, action] - low) * scale if child >= 0 else unvisited
        # Illegal actions have the prior 0.
        prior = tree.priors[row, 0, action]
        out[row, action] = regularised_probability(strength, prior, top - value + delta, total)


@kernel
def write_visit_shares(tree: TreeArrays, row: int, out: np.ndarray) -> None:
    """Writes the shares of the root's visits to `out` `[B, A]`; the prior if there were none."""
    visits = np.float32(tree.visits[row, 0] - 1)
    for action in range(out.shape[1]):
        if visits > _ZERO:
            out[row, action] = np.float32(tree.edge_visits[row, 0, action]) / visits
        else:
            out[row, action] = tree.priors[row, 0, action]


@kernel
def write_winner(tree: TreeArrays, rule: RuleArrays, row: int, out: np.ndarray) -> None:
    """Writes 1 at the action that sequential halving ends with: the best of the most visited ones; 0 elsewhere."""
    most = 0
    for action in range(out.shape[1]):
        most = max(most, tree.edge_visits[row, 0, action])
        out[row, action] = _ZERO
    out[row, choose_halving(tree, rule, row, most)] = np.float32(1.0)


@kernel
def write_policy(tree: TreeArrays, rule: RuleArrays, row: int, kind: int, out: np.ndarray) -> None:
    """Writes what the search found for the root to `out` `[B, A]`; `kind` is POLICY_VISITS or a sibling."""
    if kind == POLICY_VISITS:
        write_visit_shares(tree, row, out)
    elif kind == POLICY_IMPROVED:
        write_improved(tree, rule, row, out)
    elif kind == POLICY_REGULARISED:
        write_regularised(tree, rule, row, out)
    else:
        write_winner(tree, rule, row, out)
