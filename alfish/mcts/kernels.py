"""The scalar functions of the search over one tree, and their compiled versions over B trees.

The functions above `advance_serial` are plain Python over one row of the record: readable, callable without a compiler,
and compiled as they stand. They use float32 throughout, no fast-math, and only what every numba target has.

numba stores the machine code beside this file, or in the user's cache folder where this one is read-only. The stored
code is renewed when this file changes, not when another does, so whatever is compiled must be in this file.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from numba.extending import register_jitable

from alfish.mcts.tree import ILLEGAL, NO_PARENT, UNEXPANDED, Tree

UNVISITED_CONSTANT, UNVISITED_PARENT, UNVISITED_SIBLINGS = 0, 1, 2
"""`Rule.unvisited_mode`: where the value of an action that was not visited comes from."""

FAULT_REWARD, FAULT_DISCOUNT, FAULT_VALUE, FAULT_LOGITS, FAULT_OVERFLOW = 1, 2, 3, 4, 5
"""Kinds of unusable numbers in `Tree.faults`."""

REWARD, DISCOUNT, VALUE, LOGITS = 0, 1, 2, 3
"""Columns of the model's answers `[B, 3 + A]`; the logits are the last A."""

LARGEST_Q = np.float32(1.7e38)
"""Half of float32's range, so that the difference of two Q-values is finite."""

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)

# Passing the record from function to function would count references to its 13 arrays each time, which takes longer
# than the search itself. Nothing here allocates, so the counting is off (`_nrt`), and the functions are inlined.
_inlined = register_jitable(forceinline=True, _nrt=False)


Number = float | np.float32


class Rule(NamedTuple):
    """How PUCT chooses an action.

    Attributes:
        exploration: `[N + 1]` float32, the factor `sqrt(n) * (c1 + log((n + c2 + 1) / c2))` of a node with n visits.
        minimum_range: float32, least width of the range by which Q-values are normalised.
        unvisited_value: float32, used by UNVISITED_CONSTANT, in units of the normalised value.
        unvisited_mode: UNVISITED_CONSTANT, UNVISITED_PARENT or UNVISITED_SIBLINGS.
        max_depth: edges between the root and the deepest node, at least 1.
    """

    exploration: np.ndarray
    minimum_range: np.float32
    unvisited_value: np.float32
    unvisited_mode: int
    max_depth: int


@_inlined
def unvisited_value(tree: Tree, rule: Rule, row: int, node: int, low: Number, scale: Number) -> Number:
    """The normalised value of the node's unvisited actions."""
    if rule.unvisited_mode == UNVISITED_PARENT:
        mean = tree.value_sums[row, node] / np.float32(tree.visits[row, node])
        return min(max((mean - low) * scale, _ZERO), _ONE)
    if rule.unvisited_mode == UNVISITED_SIBLINGS:
        total, count = _ZERO, _ZERO
        for action in range(tree.priors.shape[2]):
            if tree.edge_visits[row, node, action] > 0:
                total += (tree.q_values[row, node, action] - low) * scale
                count += _ONE
        return total / max(count, _ONE)
    return rule.unvisited_value


@_inlined
def choose_action(tree: Tree, rule: Rule, row: int, node: int) -> int:
    """The legal action with the largest PUCT score; the lowest of those that are equal."""
    low, high = tree.value_range[row, 0], tree.value_range[row, 1]
    scale = _ONE / max(high - low, rule.minimum_range)
    if high < low:
        low, scale = _ZERO, _ZERO
    unvisited = unvisited_value(tree, rule, row, node, low, scale)
    exploration = rule.exploration[tree.visits[row, node]]
    best, best_score = -1, _ZERO
    for action in range(tree.priors.shape[2]):
        visits = tree.edge_visits[row, node, action]
        value = (tree.q_values[row, node, action] - low) * scale if visits > 0 else unvisited
        score = value + exploration * tree.priors[row, node, action] / np.float32(visits + 1)
        if (best < 0 or score > best_score) and tree.children[row, node, action] != ILLEGAL:
            best, best_score = action, score
    return best


@_inlined
def select_edge(tree: Tree, rule: Rule, row: int) -> tuple[int, int]:
    """Walks down from the root to the edge at which this simulation ends.

    That is an edge without a node behind it, an edge with discount 0, or an edge at the depth limit.

    Returns:
        `(node, action)`.
    """
    node, depth = 0, 1
    while True:
        action = choose_action(tree, rule, row, node)
        child = tree.children[row, node, action]
        if child == UNEXPANDED or depth >= rule.max_depth or tree.discounts[row, child] == _ZERO:
            return node, action
        node = child
        depth += 1


@_inlined
def report_fault(tree: Tree, row: int, simulation: int, fault: int, number: Number) -> None:
    """Records the first fault of a tree; the search raises when it has ended."""
    if tree.faults[row, 0] == _ZERO:
        tree.faults[row, 0] = fault
        tree.faults[row, 1] = simulation
        tree.faults[row, 2] = number


@_inlined
def usable_or_zero(
    tree: Tree, answers: np.ndarray, row: int, node: int, column: int, fault: int, limit: Number
) -> Number:
    """One number of the model's answer, or 0 and a fault if it is NaN or beyond the limit."""
    number = answers[row, column]
    if abs(number) <= limit:
        return number
    report_fault(tree, row, node, fault, number)
    return _ZERO


@_inlined
def write_priors(tree: Tree, answers: np.ndarray, row: int, node: int) -> None:
    """Gives a new node its edges. A logit of -inf makes an edge illegal; if all are -inf, all edges are equal."""
    num_actions = tree.priors.shape[2]
    largest = answers[row, LOGITS]
    for action in range(num_actions):
        logit = answers[row, LOGITS + action]
        largest = max(largest, logit)
        if not logit < np.inf:
            report_fault(tree, row, node, FAULT_LOGITS, logit)
    total = _ZERO
    for action in range(num_actions):
        # exp(-inf - -inf) is NaN; the difference of two finite logits may be -inf, which exp takes to 0.
        logit = answers[row, LOGITS + action]
        weight = math.exp(logit - largest) if logit > -np.inf else _ZERO
        tree.priors[row, node, action] = weight
        tree.children[row, node, action] = UNEXPANDED if logit > -np.inf else ILLEGAL
        tree.edge_visits[row, node, action] = 0
        tree.q_values[row, node, action] = _ZERO
        total += weight
    for action in range(num_actions):
        if total > _ZERO:
            tree.priors[row, node, action] /= total
        else:
            tree.priors[row, node, action] = _ONE / np.float32(num_actions)
            tree.children[row, node, action] = UNEXPANDED


@_inlined
def write_node(tree: Tree, answers: np.ndarray, row: int, node: int, parent: int, action: int) -> None:
    """Writes a new node from the model's answer."""
    reward = usable_or_zero(tree, answers, row, node, REWARD, FAULT_REWARD, LARGEST_Q)
    discount = usable_or_zero(tree, answers, row, node, DISCOUNT, FAULT_DISCOUNT, _ONE)
    value = usable_or_zero(tree, answers, row, node, VALUE, FAULT_VALUE, LARGEST_Q)
    write_priors(tree, answers, row, node)
    tree.value_sums[row, node] = _ZERO
    tree.rewards[row, node] = reward
    tree.discounts[row, node] = discount
    tree.raw_values[row, node] = value if discount != _ZERO else _ZERO
    tree.actions[row, node] = action
    tree.parents[row, node] = parent
    if parent != NO_PARENT:
        tree.children[row, parent, action] = node


@_inlined
def back_up(tree: Tree, row: int, leaf: int, simulation: int) -> None:
    """Adds the leaf's value to every node between it and the root, with the rewards on the way."""
    node, value = leaf, tree.raw_values[row, leaf]
    while True:
        tree.visits[row, node] += 1
        tree.value_sums[row, node] += value
        mean = tree.value_sums[row, node] / np.float32(tree.visits[row, node])
        if not abs(mean) <= LARGEST_Q:
            report_fault(tree, row, simulation, FAULT_OVERFLOW, mean)
        if node == 0:
            return
        parent, action = tree.parents[row, node], tree.actions[row, node]
        reward, discount = tree.rewards[row, node], tree.discounts[row, node]
        q_value = reward + discount * mean
        if not abs(q_value) <= LARGEST_Q:
            report_fault(tree, row, simulation, FAULT_OVERFLOW, q_value)
            q_value = _ZERO
        tree.q_values[row, parent, action] = q_value
        tree.edge_visits[row, parent, action] += 1
        tree.value_range[row, 0] = min(tree.value_range[row, 0], q_value)
        tree.value_range[row, 1] = max(tree.value_range[row, 1], q_value)
        value = reward + discount * value
        node = parent


@_inlined
def expand_and_back_up(tree: Tree, answers: np.ndarray, row: int, node: int, parent: int, action: int) -> None:
    """Ends a simulation: makes its node, unless its edge already has one, and backs up from the end of the edge."""
    leaf = node
    if parent != NO_PARENT and tree.children[row, parent, action] >= 0:
        leaf = tree.children[row, parent, action]
    else:
        write_node(tree, answers, row, node, parent, action)
    back_up(tree, row, leaf, node)


@_inlined
def advance(tree: Tree, rule: Rule, answers: np.ndarray, edges: np.ndarray, row: int, node: int) -> None:
    """Ends simulation `node` of one tree and, unless it was the last, selects the edge of the next.

    One call between two calls of the model, not two, because entering compiled code costs as much as the work for
    several trees.

    Args:
        tree: the trees.
        rule: how actions are chosen.
        answers: `[B, 3 + A]` float32, the model's reward, discount, value and logits for the edge in `edges`.
        edges: `[2, B]` int64, `parent * B + row` (where the parent's latent is in `[N * B, ...]`) and the action. Read
            when node > 0, then overwritten.
        row: which tree.
        node: the simulation; 0 writes the root.
    """
    num_trees = edges.shape[1]
    if node == 0:
        expand_and_back_up(tree, answers, row, 0, NO_PARENT, 0)
    else:
        expand_and_back_up(tree, answers, row, node, edges[0, row] // num_trees, edges[1, row])
    if node + 1 < tree.visits.shape[1]:
        parent, action = select_edge(tree, rule, row)
        edges[0, row] = parent * num_trees + row
        edges[1, row] = action


# Two functions, not one compiled twice: numba's store tells them apart by name only.
def advance_serial(tree: Tree, rule: Rule, answers: np.ndarray, edges: np.ndarray, node: int) -> None:
    """`advance` for all trees, in the calling thread."""
    for row in range(edges.shape[1]):
        advance(tree, rule, answers, edges, row, node)


def advance_parallel(tree: Tree, rule: Rule, answers: np.ndarray, edges: np.ndarray, node: int) -> None:
    """`advance` for all trees, in several threads."""
    for row in numba.prange(edges.shape[1]):
        advance(tree, rule, answers, edges, row, node)
