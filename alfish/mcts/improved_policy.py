"""What the visits so far say of a node's policy: scalar functions over one node.

Two answers of the literature: the improved policy of completed Q-values (Danihelka et al. 2022, "Policy improvement by
planning with Gumbel", https://openreview.net/forum?id=bERaNdoegnO, sections 4 and 5, appendix D) and the regularised
policy (Grill et al. 2020, "Monte-Carlo tree search as regularized policy optimization",
https://arxiv.org/abs/2007.12509, section 3).
"""

import numpy as np

from alfish.mcts.rule import (
    RANGE,
    RANGE_TREE,
    VALUE_SCALE,
    VISIT_OFFSET,
    Number,
    RuleArrays,
    TreeArrays,
    kernel,
)
from alfish.mcts.scaling import scale_of
from alfish.mcts.tree import ILLEGAL, NO_ACTION

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_TINY = np.float32(np.finfo(np.float32).tiny)
_NEWTON_STEPS = 40
_CONVERGED = 1e-9
_LEAST_STRENGTH = 1e-6
"""Below this weight of the prior, the regularised policy is the greedy one for all that float32 can tell."""


@kernel
def mixed_value(tree: TreeArrays, row: int, node: int) -> Number:
    """v_mix, the value of an unvisited action (Danihelka et al. 2022, appendix D).

    (v + Σn · Σ_visited πq / Σ_visited π) / (1 + Σn), with the model's value v.
    """
    visits, mass, weighted = _ZERO, _ZERO, _ZERO
    for i in range(tree.num_tried[row, node]):
        action = tree.tried[row, node, i]
        if tree.children[row, node, action] >= 0:
            # Against a mass of 0, where all visited actions have prior 0.
            prior = max(tree.priors[row, node, action], _TINY)
            visits += np.float32(tree.edge_visits[row, node, action])
            mass += prior
            weighted += prior * tree.q_values[row, node, action]
    if mass == _ZERO:
        return tree.raw_values[row, node]
    share = visits / (visits + _ONE)
    return tree.raw_values[row, node] / (visits + _ONE) + weighted / mass * share


@kernel
def completed_scale(
    tree: TreeArrays, rule: RuleArrays, row: int, node: int, level: int, mixed: Number
) -> tuple[Number, Number]:
    """`(low, scale)` of completed Q-values: over the tree's and the mixed value, or over the node's completed Q-values.

    The mixed value counts only while a legal action has no value of its own.
    """
    low, high = np.float32(np.inf), -np.float32(np.inf)
    if rule.choices[level, RANGE] == RANGE_TREE:
        low, high = tree.value_range[row, 0], tree.value_range[row, 1]
    if tree.candidates[row, node] != NO_ACTION:
        low, high = min(low, mixed), max(high, mixed)
    for i in range(tree.num_tried[row, node]):
        action = tree.tried[row, node, i]
        value = tree.q_values[row, node, action] if tree.children[row, node, action] >= 0 else mixed
        low, high = min(low, value), max(high, value)
    return scale_of(rule, level, low, high)


@kernel
def pressure(tree: TreeArrays, rule: RuleArrays, row: int, node: int, level: int) -> Number:
    """(c_visit + max n) · c_scale, by which scaled values are multiplied to be added to logits."""
    most = 0
    for i in range(tree.num_tried[row, node]):
        most = max(most, tree.edge_visits[row, node, tree.tried[row, node, i]])
    return (rule.numbers[level, VISIT_OFFSET] + np.float32(most)) * rule.numbers[level, VALUE_SCALE]


@kernel
def regularised_probability(strength: float, prior: Number, gap: float, total: float) -> Number:
    """π̄ of an action whose value lies `gap` below α."""
    return np.float32(strength * prior / gap / total) if prior > _ZERO else _ZERO


@kernel
def regularised_normaliser(
    tree: TreeArrays, rule: RuleArrays, row: int, node: int, level: int, low: Number, scale: Number, unvisited: Number
) -> tuple[float, float, float, float]:
    """`(λ, top, δ, Σ)` with π̄(a) = λ π(a) / (top - q(a) + δ) / Σ (Grill et al. 2020, section 3).

    λ = exploration(n) / (number of legal actions + Σn), n = 1 + Σn counting the node's own evaluation. The paper's α is
    top + δ, top being the largest value of an action with a prior; in one float64 a small δ would be lost. δ is where
    the sum Σ is 1; the sum falls and is convex, so Newton's steps from a lower bound of δ never pass it.
    """
    legal = 0
    for action in range(tree.priors.shape[2]):
        if tree.children[row, node, action] != ILLEGAL:
            legal += 1
    visits = tree.visits[row, node]
    strength = max(np.float64(rule.exploration[level, visits]) / np.float64(legal + visits - 1), _LEAST_STRENGTH)
    mass = np.float64(0.0)
    if tree.candidates[row, node] != NO_ACTION:
        mass = np.float64(tree.untried_mass[row, node])
    top = np.float64(unvisited) if mass > 0.0 else -np.inf
    for i in range(tree.num_tried[row, node]):
        action = tree.tried[row, node, i]
        if tree.priors[row, node, action] > _ZERO:
            value = (tree.q_values[row, node, action] - low) * scale
            top = max(top, np.float64(value if tree.children[row, node, action] >= 0 else unvisited))
    delta = strength * mass - (top - unvisited) if mass > 0.0 else 0.0
    for i in range(tree.num_tried[row, node]):
        action = tree.tried[row, node, i]
        value = (tree.q_values[row, node, action] - low) * scale if tree.children[row, node, action] >= 0 else unvisited
        delta = max(delta, strength * np.float64(tree.priors[row, node, action]) - (top - value))
    total = np.float64(1.0)
    for _ in range(_NEWTON_STEPS):
        total, slope = np.float64(0.0), np.float64(0.0)
        if mass > 0.0:
            total = strength * mass / (top - unvisited + delta)
            slope = total / (top - unvisited + delta)
        for i in range(tree.num_tried[row, node]):
            action = tree.tried[row, node, i]
            child = tree.children[row, node, action]
            value = (tree.q_values[row, node, action] - low) * scale if child >= 0 else unvisited
            if tree.priors[row, node, action] > _ZERO:
                term = strength * np.float64(tree.priors[row, node, action]) / (top - value + delta)
                total += term
                slope += term / (top - value + delta)
        if total - 1.0 < _CONVERGED:
            break
        delta += (total - 1.0) / slope
    return strength, top, delta, total
