"""How a simulation ends: scalar functions that write a node and back its value up, over one tree."""

import math

import numpy as np

from alfish.mcts.rule import (
    FAULT_DISCOUNT,
    FAULT_LOGITS,
    FAULT_OVERFLOW,
    FAULT_REWARD,
    FAULT_VALUE,
    LARGEST_Q,
    LEAVES,
    LOWEST_LOGIT,
    ROOT,
    AnswerArrays,
    Number,
    RuleArrays,
    TreeArrays,
    kernel,
)
from alfish.mcts.selection import assume_visits, better, select_edge, update_untried
from alfish.mcts.tree import ILLEGAL, NO_ACTION, NO_PARENT, UNEXPANDED

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@kernel
def report_fault(tree: TreeArrays, row: int, node: int, fault: int, number: Number) -> None:
    """Records the first fault of a tree; the search raises when it has ended."""
    if tree.faults[row, 0] == _ZERO:
        tree.faults[row, 0] = fault
        tree.faults[row, 1] = node
        tree.faults[row, 2] = number


@kernel
def usable_or_zero(tree: TreeArrays, row: int, node: int, number: Number, fault: int, limit: Number) -> Number:
    """One number of the model's answer, or 0 and a fault if it is NaN or beyond the limit."""
    if abs(number) <= limit:
        return number
    report_fault(tree, row, node, fault, number)
    return _ZERO


@kernel
def write_priors(tree: TreeArrays, rule: RuleArrays, answers: AnswerArrays, answer: int, row: int, node: int) -> None:
    """Writes which edges of a node are legal, and their priors, as if none was tried.

    A logit of -inf makes an edge illegal; if all are -inf, all edges are legal and equal. An edge that has a child
    already, at the root of a retained tree, keeps it.
    """
    num_actions = tree.priors.shape[2]
    largest = -np.float32(np.inf)
    for action in range(num_actions):
        logit = answers.logits[answer, action]
        if logit < np.inf:
            largest = max(largest, logit)
        else:  # NaN too: the edge is then illegal until the fault is raised.
            report_fault(tree, row, node, FAULT_LOGITS, logit)
    any_legal = largest > -np.inf
    total = _ZERO
    for action in range(num_actions):
        # exp(-inf - -inf) is NaN; the difference of two finite logits may be -inf, which exp takes to 0.
        logit = answers.logits[answer, action]
        legal = (logit > -np.inf and logit < np.inf) or not any_legal
        weight = _ONE if legal else _ZERO
        if legal and any_legal:
            weight = np.float32(math.exp(logit - largest))
        tree.priors[row, node, action] = weight
        total += weight
        if not legal:
            tree.children[row, node, action] = ILLEGAL
        elif tree.edge_visits[row, node, action] == 0:
            tree.children[row, node, action] = UNEXPANDED
    best, best_prior = NO_ACTION, -_ONE
    for action in range(num_actions):
        prior = tree.priors[row, node, action] / total
        tree.priors[row, node, action] = prior
        if tree.children[row, node, action] != ILLEGAL and better(
            tree, rule, row, node, action, prior, best, best_prior
        ):
            best, best_prior = action, prior
    tree.candidates[row, node] = best
    tree.untried_mass[row, node] = _ONE
    if tree.logits.shape[2] == num_actions:
        logarithm = np.float32(math.log(total))
        for action in range(num_actions):
            logit = answers.logits[answer, action] - largest if any_legal else _ZERO
            legal = tree.children[row, node, action] != ILLEGAL
            tree.logits[row, node, action] = max(logit - logarithm, LOWEST_LOGIT) if legal else LOWEST_LOGIT


@kernel
def write_node(
    tree: TreeArrays,
    rule: RuleArrays,
    answers: AnswerArrays,
    answer: int,
    row: int,
    node: int,
    parent: int,
    action: int,
) -> None:
    """Writes a new node from the model's answer."""
    reward = usable_or_zero(tree, row, node, answers.reward[answer], FAULT_REWARD, LARGEST_Q)
    discount = usable_or_zero(tree, row, node, answers.discount[answer], FAULT_DISCOUNT, _ONE)
    value = usable_or_zero(tree, row, node, answers.value[answer], FAULT_VALUE, LARGEST_Q)
    player = int(answers.player[answer])
    if parent != NO_PARENT and player != tree.players[row, parent]:
        discount = -discount
    write_priors(tree, rule, answers, answer, row, node)
    tree.rewards[row, node] = reward
    tree.discounts[row, node] = discount
    tree.raw_values[row, node] = value if discount != _ZERO else _ZERO
    tree.players[row, node] = player
    tree.kinds[row, node] = int(answers.chance[answer])
    tree.actions[row, node] = action
    tree.parents[row, node] = parent
    if parent != NO_PARENT:
        tree.children[row, parent, action] = node
    elif tree.visits[row, 0] > 0:
        keep_legal_children(tree, row)
        update_untried(tree, rule, row, 0)


@kernel
def keep_legal_children(tree: TreeArrays, row: int) -> None:
    """Rebuilds the statistics of the root of a retained tree from those of its edges that are still legal."""
    visits, value_sum, num_tried = 0, _ZERO, 0
    for action in range(tree.priors.shape[2]):
        if tree.children[row, 0, action] == ILLEGAL:
            tree.edge_visits[row, 0, action] = 0
            tree.q_values[row, 0, action] = _ZERO
        elif tree.children[row, 0, action] >= 0:
            visits += tree.edge_visits[row, 0, action]
            value_sum += tree.q_values[row, 0, action] * np.float32(tree.edge_visits[row, 0, action])
            tree.tried[row, 0, num_tried] = action
            num_tried += 1
    tree.num_tried[row, 0] = num_tried
    tree.visits[row, 0] = visits
    tree.values[row, 0] = value_sum / np.float32(max(visits, 1))


@kernel
def back_up(tree: TreeArrays, row: int, leaf: int, simulation: int) -> None:
    """Adds the leaf's value to every node between it and the root, with the rewards on the way."""
    node, value = leaf, tree.raw_values[row, leaf]
    while True:
        tree.visits[row, node] += 1
        mean = tree.values[row, node] + (value - tree.values[row, node]) / np.float32(tree.visits[row, node])
        tree.values[row, node] = mean
        if node == 0:
            return
        parent, action = tree.parents[row, node], tree.actions[row, node]
        reward, discount = tree.rewards[row, node], tree.discounts[row, node]
        q_value = reward + discount * mean
        value = reward + discount * value
        if not (abs(q_value) <= LARGEST_Q and abs(value) <= LARGEST_Q):
            report_fault(tree, row, simulation, FAULT_OVERFLOW, value)
            q_value, value = _ZERO, _ZERO
        tree.q_values[row, parent, action] = q_value
        tree.edge_visits[row, parent, action] += 1
        tree.value_range[row, 0] = min(tree.value_range[row, 0], q_value)
        tree.value_range[row, 1] = max(tree.value_range[row, 1], q_value)
        node = parent


@kernel
def expand_and_back_up(
    tree: TreeArrays,
    rule: RuleArrays,
    answers: AnswerArrays,
    answer: int,
    row: int,
    node: int,
    parent: int,
    action: int,
) -> None:
    """Ends a simulation: makes its node, unless its edge already has one, and backs up from the end of the edge."""
    leaf = node
    if parent != NO_PARENT and tree.children[row, parent, action] >= 0:
        leaf = tree.children[row, parent, action]
    else:
        write_node(tree, rule, answers, answer, row, node, parent, action)
    back_up(tree, row, leaf, node)


@kernel
def advance(
    tree: TreeArrays, rule: RuleArrays, answers: AnswerArrays, edges: np.ndarray, row: int, node: int, more: bool
) -> None:
    """Ends one round of simulations of one tree and, if there are more, selects the edges of the next.

    One call between two calls of the model, not two, because entering compiled code costs as much as the work for
    several trees.

    Args:
        tree: the trees.
        rule: how actions are chosen, and how many leaves a round has.
        answers: the model's answers for the edges in `edges`, or the roots.
        edges: `[2, B * leaves]` int64, `parent * B + row` (where the parent's latent is in `[N * B, ...]`) and the
            action. Read when node > 0, then overwritten.
        row: which tree.
        node: the number of the round's first node; 0 writes the root.
        more: whether another round follows.
    """
    num_trees, leaves = tree.visits.shape[0], rule.choices[ROOT, LEAVES]
    if node == 0:
        expand_and_back_up(tree, rule, answers, row, row, 0, NO_PARENT, 0)
    else:
        for leaf in range(row * leaves, (row + 1) * leaves):
            assume_visits(tree, rule, row, edges[0, leaf] // num_trees, edges[1, leaf], -1)
        for leaf in range(leaves):
            answer = row * leaves + leaf
            parent, action = edges[0, answer] // num_trees, edges[1, answer]
            expand_and_back_up(tree, rule, answers, answer, row, node + leaf, parent, action)
    if more:
        for leaf in range(row * leaves, (row + 1) * leaves):
            parent, action = select_edge(tree, rule, row)
            edges[0, leaf] = parent * num_trees + row
            edges[1, leaf] = action
