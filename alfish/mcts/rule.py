"""What the kernels read beside the tree: the rule of choice and the model's answers."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numba.extending import register_jitable

ROOT, INTERIOR = 0, 1
"""Rows of a Rule: one for the root, one for all other nodes."""

KIND, UNVISITED, RANGE, MAX_DEPTH, TIES, CHANCE_RULE, LEAVES = range(7)
"""Columns of `Rule.choices`."""
UNVISITED_VALUE, VISIT_OFFSET, VALUE_SCALE, MINIMUM_RANGE = range(4)
"""Columns of `Rule.numbers`."""

PUCT, IMPROVED, HALVING, REGULARISED, REGULARISED_SAMPLED = range(5)
"""`choices[:, KIND]`: how a decision node chooses (`settings.py`)."""
UNVISITED_CONSTANT, UNVISITED_PARENT, UNVISITED_SIBLINGS = range(3)
"""`choices[:, UNVISITED]`: where the value of an action that was not visited comes from."""
RANGE_TREE, RANGE_NODE = range(2)
"""`choices[:, RANGE]`: over which Q-values a node's values are scaled."""
TIES_LOWEST, TIES_RANDOM = range(2)
"""`choices[:, TIES]`: which of equal actions is taken."""
CHANCE_BALANCED, CHANCE_SAMPLED = range(2)
"""`choices[:, CHANCE_RULE]`: how a chance node chooses its outcome."""
POLICY_VISITS, POLICY_IMPROVED, POLICY_REGULARISED, POLICY_WINNER = range(4)
"""What can be read off a root when the search has ended."""

FAULT_REWARD, FAULT_DISCOUNT, FAULT_VALUE, FAULT_LOGITS, FAULT_OVERFLOW = range(1, 6)
"""Kinds of unusable numbers in `Tree.faults`."""

LARGEST_Q = np.float32(1.7e38)
"""Half of float32's range, so that the difference of two Q-values is finite."""
LOWEST_LOGIT = np.float32(-1e9)
"""Least logarithm of a prior: far below where its exponential is 0, far above where sums overflow."""

Number: TypeAlias = Any
"""A float32 in compiled code, on every target."""
TreeArrays: TypeAlias = Any
"""A `tree.Tree` whose fields are arrays, as kernels see it; likewise the next two."""
RuleArrays: TypeAlias = Any
AnswerArrays: TypeAlias = Any


class Rule(NamedTuple):
    """How a search chooses; the first axis of each field is ROOT, INTERIOR.

    Attributes:
        choices: `[2, 7]` int32, the columns above.
        numbers: `[2, 4]` float32, the columns above.
        exploration: `[2, n]` float32, for n visits of a node `sqrt(n) * (c1 + log((n + c2 + 1) / c2))`.
        considered: `[M + 1, simulations]` int32, sequential halving's visits of the actions to consider in each
            simulation, by the number of actions considered; `[1, 1]` where the root does not halve.
    """

    choices: torch.Tensor
    numbers: torch.Tensor
    exploration: torch.Tensor
    considered: torch.Tensor


class Answers(NamedTuple):
    """The model's answers to one round, row by row; row `b * leaves + i` is leaf i of tree b.

    Attributes:
        reward: `[rows]` float32.
        discount: `[rows]` float32.
        value: `[rows]` float32.
        logits: `[rows, A]` float32.
        player: `[rows]` float32, `to_play`.
        chance: `[rows]` float32, 1 where the new node is a chance node.
    """

    reward: torch.Tensor
    discount: torch.Tensor
    value: torch.Tensor
    logits: torch.Tensor
    player: torch.Tensor
    chance: torch.Tensor


# Kernels are plain functions of scalars and records. Passing a record from function to function would count references
# to its arrays each time, which takes longer than the search itself. Nothing here allocates, so the counting is off
# (`_nrt`), and the functions are inlined.
kernel: Any = register_jitable(forceinline=True, _nrt=False)
