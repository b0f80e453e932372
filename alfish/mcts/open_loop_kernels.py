"""Open-loop search: scalar functions over one tree of action sequences, and their compiled versions.

A simulation leads through states that are drawn anew, so what is known of a node's state (which actions are legal, its
prior, who moves) is written at each arrival, before an action is chosen by the same function as in a closed-loop
search. What belongs to the sequence of actions (visits, returns, children) stays.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from alfish.mcts import host
from alfish.mcts.expansion import report_fault, usable_or_zero, write_priors
from alfish.mcts.host import rule_at, tree_at
from alfish.mcts.rule import (
    FAULT_DISCOUNT,
    FAULT_OVERFLOW,
    FAULT_REWARD,
    FAULT_VALUE,
    LARGEST_Q,
    MAX_DEPTH,
    ROOT,
    Answers,
    Rule,
    kernel,
)
from alfish.mcts.selection import choose_action, update_untried
from alfish.mcts.tree import NO_PARENT, UNEXPANDED, Tree
from alfish.ops.compilation import compile_cached

WRITE_ROOT, BEGIN, ARRIVE, BACK_UP, FINISH = range(5)
"""Phases of a search: its roots; for each simulation the first action, the arrivals, the end; at last the record."""

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


class Walk(NamedTuple):
    """Where the simulations of B trees are; D is the largest number of steps.

    Attributes:
        node: `[B]` int32, the node that the simulation has arrived at.
        depth: `[B]` int32, steps since the root.
        active: `[B]` bool, False for a simulation that has come to its end.
        action: `[B]` int64, what it does next; the last one if it has ended.
        value: `[B]` float32, the value of the state at its end in the view of who moves there.
        rewards: `[B, D]` float32, received on the steps so far.
        discounts: `[B, D]` float32, of the steps so far.
        children: `[B, N, A]` int32, a node's number or UNEXPANDED, whether or not the action is legal at present.
    """

    node: np.ndarray
    depth: np.ndarray
    active: np.ndarray
    action: np.ndarray
    value: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray
    children: np.ndarray


@kernel
def list_tried(tree: Tree, rule: Rule, row: int, node: int) -> None:
    """Renews what selection keeps of a node's edges, when `Tree.children` says which of them have children."""
    num_tried = 0
    for action in range(tree.priors.shape[2]):
        if tree.children[row, node, action] >= 0:
            tree.tried[row, node, num_tried] = action
            num_tried += 1
    tree.num_tried[row, node] = num_tried
    update_untried(tree, rule, row, node)


@kernel
def enter(tree: Tree, rule: Rule, walk: Walk, answers: Answers, row: int, node: int) -> None:
    """Writes what is known of the state in which a simulation has arrived at a node."""
    for action in range(tree.priors.shape[2]):
        tree.children[row, node, action] = walk.children[row, node, action]
    write_priors(tree, rule, answers, row, row, node)
    list_tried(tree, rule, row, node)


@kernel
def add_node(tree: Tree, walk: Walk, row: int, node: int, parent: int, action: int) -> None:
    """Makes the node behind an edge that no simulation has taken."""
    tree.parents[row, node] = parent
    tree.actions[row, node] = action
    walk.children[row, parent, action] = node
    tree.children[row, parent, action] = node
    for edge in range(tree.priors.shape[2]):
        walk.children[row, node, edge] = UNEXPANDED


@kernel
def write_root(tree: Tree, rule: Rule, walk: Walk, answers: Answers, row: int) -> None:
    """Makes the root, whose evaluation counts as its first visit."""
    for action in range(tree.priors.shape[2]):
        walk.children[row, 0, action] = UNEXPANDED
    enter(tree, rule, walk, answers, row, 0)
    tree.parents[row, 0] = NO_PARENT
    tree.players[row, 0] = int(answers.player[row])
    tree.visits[row, 0] = 1
    tree.raw_values[row, 0] = answers.value[row]
    tree.values[row, 0] = answers.value[row]


@kernel
def begin(tree: Tree, rule: Rule, walk: Walk, row: int) -> None:
    """Puts a simulation at the root, whose state is always the same."""
    list_tried(tree, rule, row, 0)
    walk.node[row] = 0
    walk.depth[row] = 0
    walk.active[row] = True


@kernel
def arrive(tree: Tree, rule: Rule, walk: Walk, answers: Answers, row: int, simulation: int) -> None:
    """Takes the model's answer to a simulation's action, and ends it there or not.

    It ends behind an edge that no simulation has taken, where the game ends, and at the depth limit.
    """
    parent, action, depth = walk.node[row], walk.action[row], walk.depth[row]
    reward = usable_or_zero(tree, row, simulation, answers.reward[row], FAULT_REWARD, LARGEST_Q)
    discount = usable_or_zero(tree, row, simulation, answers.discount[row], FAULT_DISCOUNT, _ONE)
    player = int(answers.player[row])
    if player != tree.players[row, parent]:
        discount = -discount
    walk.rewards[row, depth] = reward
    walk.discounts[row, depth] = discount
    walk.depth[row] = depth + 1
    node = walk.children[row, parent, action]
    is_new = node < 0
    if is_new:
        node = simulation
        add_node(tree, walk, row, node, parent, action)
    walk.node[row] = node
    if discount != _ZERO or is_new:
        tree.players[row, node] = player
        enter(tree, rule, walk, answers, row, node)
    if is_new or discount == _ZERO or depth + 1 >= rule.choices[ROOT, MAX_DEPTH]:
        walk.active[row] = False
        walk.value[row] = answers.value[row]


@kernel
def back_up(tree: Tree, walk: Walk, row: int, simulation: int) -> None:
    """Adds a simulation's return to every edge and node on its way.

    An edge's Q is the mean of the returns that were drawn. The child's value is the mean of the returns from there on,
    0 where the game had ended; its discount is that of the last time when it had not; its reward is what is left of Q.
    """
    node, depth = walk.node[row], walk.depth[row]
    value: Any = _ZERO
    if walk.discounts[row, depth - 1] != _ZERO:
        value = usable_or_zero(tree, row, simulation, walk.value[row], FAULT_VALUE, LARGEST_Q)
    if tree.visits[row, node] == 0:
        tree.raw_values[row, node] = value
    while True:
        tree.visits[row, node] += 1
        tree.values[row, node] += (value - tree.values[row, node]) / np.float32(tree.visits[row, node])
        if node == 0:
            return
        depth -= 1
        discount = walk.discounts[row, depth]
        value = walk.rewards[row, depth] + discount * value
        if not abs(value) <= LARGEST_Q:
            report_fault(tree, row, simulation, FAULT_OVERFLOW, value)
            value = _ZERO
        parent, action = tree.parents[row, node], tree.actions[row, node]
        tree.edge_visits[row, parent, action] += 1
        old: Any = tree.q_values[row, parent, action]
        q_value = old + (value - old) / np.float32(tree.edge_visits[row, parent, action])
        tree.q_values[row, parent, action] = q_value
        if discount != _ZERO:
            tree.discounts[row, node] = discount
        tree.rewards[row, node] = q_value - tree.discounts[row, node] * tree.values[row, node]
        tree.value_range[row, 0] = min(tree.value_range[row, 0], q_value)
        tree.value_range[row, 1] = max(tree.value_range[row, 1], q_value)
        node = parent


@kernel
def finish(tree: Tree, rule: Rule, walk: Walk, row: int) -> None:
    """Gives every node all its children back, whatever was legal in the last state."""
    for node in range(tree.visits.shape[1]):
        if tree.visits[row, node] > 0:
            for action in range(tree.priors.shape[2]):
                if walk.children[row, node, action] >= 0:
                    tree.children[row, node, action] = walk.children[row, node, action]
            list_tried(tree, rule, row, node)


@kernel
def advance_row(tree: Tree, rule: Rule, walk: Walk, answers: Answers, row: int, simulation: int, phase: int) -> None:
    """Takes one tree through one phase of a search.

    All phases are in one function, because numba compiles what is inlined wherever it is.
    """
    if phase == WRITE_ROOT:
        write_root(tree, rule, walk, answers, row)
    elif phase == BACK_UP:
        back_up(tree, walk, row, simulation)
    elif phase == FINISH:
        finish(tree, rule, walk, row)
    else:
        if phase == BEGIN:
            begin(tree, rule, walk, row)
        elif walk.active[row]:
            arrive(tree, rule, walk, answers, row, simulation)
        if walk.active[row]:
            walk.action[row] = choose_action(tree, rule, row, walk.node[row])


def _function(sources: str) -> Callable[..., Any]:
    """The function to compile. It holds `sources`, because numba's store tells versions apart by what they hold."""

    def advance_all(table: np.ndarray, walk: Walk, answers: Answers, simulation: int, phase: int) -> bool:
        sources  # noqa: B018
        any_active = False
        for row in range(walk.node.shape[0]):
            advance_row(tree_at(table), rule_at(table), walk, answers, row, simulation, phase)
            any_active |= walk.active[row]
        return any_active

    return advance_all


# `host.py` holds what makes the records, and is in none of its own sources.
_SOURCES = host.SOURCES + hashlib.sha256(pathlib.Path(str(host.__file__)).read_bytes()).hexdigest()
_advance_all = compile_cached(_function(_SOURCES))


def compiled_advance(table: np.ndarray, walk: Walk, answers: Answers) -> Callable[[int, int], bool]:
    """The function `advance(simulation, phase)` on all trees; it says whether any simulation goes on.

    Args:
        table: `host.address_table` of the trees and the rule.
        walk: where the simulations are.
        answers: what the model said last, at first of the roots.
    """
    rows = slice(0, 0)
    none = Walk(*(field[rows] for field in walk)), Answers(*(field[rows] for field in answers))
    host.ready(_advance_all, table, *none, 0, FINISH)
    return functools.partial(_advance_all, table, walk, answers)
