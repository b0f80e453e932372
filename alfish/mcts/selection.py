"""How a simulation finds its way down: scalar functions over one tree.

Plain Python over one row of the record: readable, callable without a compiler, and compiled as they stand for the CPU
and the GPU. They use float32 throughout, no fast-math, and only what every numba target has.

A node costs as many steps as it has tried actions, not as many as it has actions: all rules give all untried actions
the same value, so the best untried one is the most probable, which the node remembers (`Tree.candidates`).
"""

import math

import numpy as np

from alfish.mcts.improved_policy import (
    completed_scale,
    mixed_value,
    pressure,
    regularised_normaliser,
    regularised_probability,
)
from alfish.mcts.random_numbers import hashed, uniform
from alfish.mcts.rule import (
    CHANCE_BALANCED,
    CHANCE_RULE,
    HALVING,
    IMPROVED,
    INTERIOR,
    KIND,
    LEAVES,
    MAX_DEPTH,
    PUCT,
    REGULARISED_SAMPLED,
    ROOT,
    TIES,
    TIES_LOWEST,
    Number,
    RuleArrays,
    TreeArrays,
    kernel,
)
from alfish.mcts.scaling import unvisited_value, value_scale
from alfish.mcts.tree import CHANCE, ILLEGAL, NO_ACTION, UNEXPANDED

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@kernel
def precedes(tree: TreeArrays, rule: RuleArrays, row: int, node: int, action: int, other: int) -> bool:
    """Whether `action` is taken before an equal `other`. At random the order is fixed for a node, not drawn anew."""
    if other == NO_ACTION:
        return True
    if rule.choices[ROOT, TIES] == TIES_LOWEST:
        return action < other
    seed = hashed(tree.seeds[row], node)
    return hashed(seed, action) < hashed(seed, other)


@kernel
def better(
    tree: TreeArrays, rule: RuleArrays, row: int, node: int, action: int, score: Number, best: int, best_score: Number
) -> bool:
    """Whether an action comes before the best so far."""
    return score > best_score or (score == best_score and precedes(tree, rule, row, node, action, best))


@kernel
def choose_puct(tree: TreeArrays, rule: RuleArrays, row: int, node: int, level: int) -> int:
    """The argmax of Q̄ + P · exploration / (1 + n)  (Schrittwieser et al. 2020, appendix B, equation 2)."""
    low, scale = value_scale(tree, rule, row, node, level)
    unvisited = unvisited_value(tree, rule, row, node, level, low, scale)
    exploration = rule.exploration[level, tree.visits[row, node]]
    best, best_score = tree.candidates[row, node], -np.float32(np.inf)
    if best != NO_ACTION:
        best_score = unvisited + exploration * tree.priors[row, node, best]
    for i in range(tree.num_tried[row, node]):
        action = tree.tried[row, node, i]
        value = (tree.q_values[row, node, action] - low) * scale if tree.children[row, node, action] >= 0 else unvisited
        visits = np.float32(tree.edge_visits[row, node, action] + 1)
        score = value + exploration * tree.priors[row, node, action] / visits
        if better(tree, rule, row, node, action, score, best, best_score):
            best, best_score = action, score
    return best


@kernel
def choose_improved(tree: TreeArrays, rule: RuleArrays, row: int, node: int, level: int) -> int:
    """The argmax of π'(a) - n(a) / (1 + Σn): visits follow the improved policy (Danihelka et al. 2022, section 5)."""
    mixed = mixed_value(tree, row, node)
    low, scale = completed_scale(tree, rule, row, node, level, mixed)
    weight = pressure(tree, rule, row, node, level)
    untried = weight * ((mixed - low) * scale)
    best, largest = tree.candidates[row, node], -np.float32(np.inf)
    if best != NO_ACTION:
        largest = tree.logits[row, node, best] + untried
    num_tried = tree.num_tried[row, node]
    for i in range(num_tried):
        action = tree.tried[row, node, i]
        value = tree.q_values[row, node, action] if tree.children[row, node, action] >= 0 else mixed
        largest = max(largest, tree.logits[row, node, action] + weight * ((value - low) * scale))
    total = tree.untried_mass[row, node] * math.exp(untried - largest) if best != NO_ACTION else _ZERO
    for i in range(num_tried):
        action = tree.tried[row, node, i]
        value = tree.q_values[row, node, action] if tree.children[row, node, action] >= 0 else mixed
        total += math.exp(tree.logits[row, node, action] + weight * ((value - low) * scale) - largest)
    best_score = -np.float32(np.inf)
    if best != NO_ACTION:
        best_score = math.exp(tree.logits[row, node, best] + untried - largest) / total
    all_visits = np.float32(tree.visits[row, node])
    for i in range(num_tried):
        action = tree.tried[row, node, i]
        value = tree.q_values[row, node, action] if tree.children[row, node, action] >= 0 else mixed
        probability = math.exp(tree.logits[row, node, action] + weight * ((value - low) * scale) - largest) / total
        score = probability - np.float32(tree.edge_visits[row, node, action]) / all_visits
        if better(tree, rule, row, node, action, score, best, best_score):
            best, best_score = action, score
    return best


@kernel
def choose_halving(tree: TreeArrays, rule: RuleArrays, row: int, visits: int) -> int:
    """The root's action with the largest g + logit + σ(q) among those that have `visits` visits.

    Danihelka et al. 2022, algorithm 2. If no legal action has so many visits, any may be chosen.
    """
    mixed = mixed_value(tree, row, 0)
    low, scale = completed_scale(tree, rule, row, 0, ROOT, mixed)
    weight = pressure(tree, rule, row, 0, ROOT)
    best, best_score, best_counts = NO_ACTION, -np.float32(np.inf), False
    for action in range(tree.priors.shape[2]):
        if tree.children[row, 0, action] == ILLEGAL:
            continue
        counts = tree.edge_visits[row, 0, action] == visits
        value = tree.q_values[row, 0, action] if tree.children[row, 0, action] >= 0 else mixed
        score = tree.gumbels[row, action] + tree.logits[row, 0, action] + weight * ((value - low) * scale)
        ahead = better(tree, rule, row, 0, action, score, best, best_score)
        if (counts and not best_counts) or (counts == best_counts and ahead):
            best, best_score, best_counts = action, score, counts
    return best


@kernel
def considered_visits(tree: TreeArrays, rule: RuleArrays, row: int) -> int:
    """How many visits an action must have to be chosen by the root's next simulation (`Rule.considered`)."""
    legal = 0
    for action in range(tree.priors.shape[2]):
        if tree.children[row, 0, action] != ILLEGAL:
            legal += 1
    return rule.considered[min(legal, rule.considered.shape[0] - 1), tree.visits[row, 0] - 1]


@kernel
def choose_regularised(tree: TreeArrays, rule: RuleArrays, row: int, node: int, level: int) -> int:
    """An action of the regularised policy π̄ (Grill et al. 2020): drawn from it, or argmax of π̄(a) - n(a) / (1 + Σn)."""
    low, scale = value_scale(tree, rule, row, node, level)
    unvisited = unvisited_value(tree, rule, row, node, level, low, scale)
    strength, top, delta, total = regularised_normaliser(tree, rule, row, node, level, low, scale, unvisited)
    if rule.choices[level, KIND] == REGULARISED_SAMPLED:
        last, share = NO_ACTION, uniform(tree.seeds[row], tree.visits[row, 0], node)
        for action in range(tree.priors.shape[2]):
            child = tree.children[row, node, action]
            value = (tree.q_values[row, node, action] - low) * scale if child >= 0 else unvisited
            probability = regularised_probability(strength, tree.priors[row, node, action], top - value + delta, total)
            if child != ILLEGAL and probability > _ZERO:
                share -= probability
                last = action
                if share < _ZERO:
                    break
        return last
    best, best_score = tree.candidates[row, node], -np.float32(np.inf)
    if best != NO_ACTION:
        prior = tree.priors[row, node, best]
        best_score = regularised_probability(strength, prior, top - unvisited + delta, total)
    all_visits = np.float32(tree.visits[row, node])
    for i in range(tree.num_tried[row, node]):
        action = tree.tried[row, node, i]
        value = (tree.q_values[row, node, action] - low) * scale if tree.children[row, node, action] >= 0 else unvisited
        probability = regularised_probability(strength, tree.priors[row, node, action], top - value + delta, total)
        score = probability - np.float32(tree.edge_visits[row, node, action]) / all_visits
        if better(tree, rule, row, node, action, score, best, best_score):
            best, best_score = action, score
    return best


@kernel
def choose_outcome(tree: TreeArrays, rule: RuleArrays, row: int, node: int) -> int:
    """A chance node's outcome: argmax of P / (1 + n), which deals visits out by the probabilities, or a draw from P."""
    if rule.choices[ROOT, CHANCE_RULE] != CHANCE_BALANCED:
        return draw_outcome(tree, row, node)
    best, best_score = tree.candidates[row, node], -np.float32(np.inf)
    if best != NO_ACTION:
        best_score = tree.priors[row, node, best]
    for i in range(tree.num_tried[row, node]):
        outcome = tree.tried[row, node, i]
        score = tree.priors[row, node, outcome] / np.float32(tree.edge_visits[row, node, outcome] + 1)
        if better(tree, rule, row, node, outcome, score, best, best_score):
            best, best_score = outcome, score
    return best


@kernel
def draw_outcome(tree: TreeArrays, row: int, node: int) -> int:
    """A draw from the priors of a chance node."""
    share, last = uniform(tree.seeds[row], tree.visits[row, 0], node), NO_ACTION
    for outcome in range(tree.priors.shape[2]):
        if tree.priors[row, node, outcome] > _ZERO:
            share -= tree.priors[row, node, outcome]
            last = outcome
            if share < 0.0:
                return last
    return last


@kernel
def choose_action(tree: TreeArrays, rule: RuleArrays, row: int, node: int) -> int:
    """The action that a simulation takes at a node."""
    if tree.kinds[row, node] == CHANCE:
        return choose_outcome(tree, rule, row, node)
    level = ROOT if node == 0 else INTERIOR
    kind = rule.choices[level, KIND]
    if kind == PUCT:
        return choose_puct(tree, rule, row, node, level)
    if kind == IMPROVED:
        return choose_improved(tree, rule, row, node, level)
    if kind == HALVING:
        return choose_halving(tree, rule, row, considered_visits(tree, rule, row))
    return choose_regularised(tree, rule, row, node, level)


@kernel
def update_untried(tree: TreeArrays, rule: RuleArrays, row: int, node: int) -> None:
    """Finds the node's most probable untried action, and the sum of the priors of all untried ones."""
    best, best_prior, mass = NO_ACTION, -_ONE, _ZERO
    for action in range(tree.priors.shape[2]):
        if tree.children[row, node, action] == UNEXPANDED and tree.edge_visits[row, node, action] == 0:
            prior = tree.priors[row, node, action]
            mass += prior
            if better(tree, rule, row, node, action, prior, best, best_prior):
                best, best_prior = action, prior
    tree.candidates[row, node] = best
    tree.untried_mass[row, node] = mass


@kernel
def assume_visits(tree: TreeArrays, rule: RuleArrays, row: int, node: int, action: int, amount: int) -> None:
    """Adds visits to an edge and to all that lies above it, or takes them back; values stay."""
    if rule.choices[ROOT, LEAVES] == 1:  # nobody looks at what lies above before they are taken back
        tree.edge_visits[row, node, action] += amount
        return
    while True:
        tree.edge_visits[row, node, action] += amount
        tree.visits[row, node] += amount
        if node == 0:
            return
        action = tree.actions[row, node]
        node = tree.parents[row, node]


@kernel
def select_edge(tree: TreeArrays, rule: RuleArrays, row: int) -> tuple[int, int]:
    """Walks down from the root to the edge at which this simulation ends, and marks it as tried and visited.

    That is an edge without a node behind it, an edge with discount 0, or an edge at the depth limit. The visit is an
    assumed one, on every edge and node of the way, until the simulation's end takes it back: the next selection of the
    same round counts it.

    Returns:
        `(node, action)`.
    """
    node, depth = 0, 1
    while True:
        action = choose_action(tree, rule, row, node)
        child = tree.children[row, node, action]
        if child < 0 or depth >= rule.choices[ROOT, MAX_DEPTH] or tree.discounts[row, child] == _ZERO:
            break
        node = child
        depth += 1
    untried = child < 0 and tree.edge_visits[row, node, action] == 0
    assume_visits(tree, rule, row, node, action, 1)
    if untried:
        tree.tried[row, node, tree.num_tried[row, node]] = action
        tree.num_tried[row, node] += 1
        update_untried(tree, rule, row, node)
    return node, action
