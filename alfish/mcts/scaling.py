"""How values are scaled before they are compared: scalar functions over one node."""

import numpy as np

from alfish.mcts.rule import (
    MINIMUM_RANGE,
    RANGE,
    RANGE_TREE,
    UNVISITED,
    UNVISITED_PARENT,
    UNVISITED_SIBLINGS,
    UNVISITED_VALUE,
    Number,
    RuleArrays,
    TreeArrays,
    kernel,
)

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@kernel
def scale_of(rule: RuleArrays, level: int, low: Number, high: Number) -> tuple[Number, Number]:
    """`(low, scale)`, so that `(q - low) * scale` is in [0, 1] for q in [low, high]; zeros for an empty range."""
    if high < low:
        return _ZERO, _ZERO
    return low, _ONE / max(high - low, rule.numbers[level, MINIMUM_RANGE])


@kernel
def value_scale(tree: TreeArrays, rule: RuleArrays, row: int, node: int, level: int) -> tuple[Number, Number]:
    """`(low, scale)` of the tree's values so far, or of the node's own value and its visited actions."""
    if rule.choices[level, RANGE] == RANGE_TREE:
        return scale_of(rule, level, tree.value_range[row, 0], tree.value_range[row, 1])
    low = high = tree.values[row, node]
    for i in range(tree.num_tried[row, node]):
        action = tree.tried[row, node, i]
        if tree.children[row, node, action] >= 0:
            low = min(low, tree.q_values[row, node, action])
            high = max(high, tree.q_values[row, node, action])
    return scale_of(rule, level, low, high)


@kernel
def unvisited_value(
    tree: TreeArrays, rule: RuleArrays, row: int, node: int, level: int, low: Number, scale: Number
) -> Number:
    """The scaled value of the node's unvisited actions."""
    mode = rule.choices[level, UNVISITED]
    if mode == UNVISITED_PARENT:
        return min(max((tree.values[row, node] - low) * scale, _ZERO), _ONE)
    if mode == UNVISITED_SIBLINGS:
        total, count = _ZERO, _ZERO
        for i in range(tree.num_tried[row, node]):
            action = tree.tried[row, node, i]
            if tree.children[row, node, action] >= 0:
                total += (tree.q_values[row, node, action] - low) * scale
                count += _ONE
        return total / max(count, _ONE)
    return rule.numbers[level, UNVISITED_VALUE]
