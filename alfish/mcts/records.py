"""The records that go into a search and come out of it."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from alfish import nest
from alfish.mcts.rule import Rule
from alfish.mcts.settings import SearchSettings
from alfish.mcts.tree import Tree


class RootNode(NamedTuple):
    """Where B searches start.

    Attributes:
        latent: nest of `[B, ...]`, what the model continues from. Any dtypes; all on one device.
        prior_logits: `[B, A]`; -inf marks an illegal action.
        value: `[B]`, the model's value of the root.
        to_play: `[B]`, who chooses at the root (`Step.to_play`); None if the model's steps do not say either.
    """

    latent: nest.Nest
    prior_logits: torch.Tensor
    value: torch.Tensor
    to_play: torch.Tensor | None = None


class Step(NamedTuple):
    """The model's answer to one action in each of B latents.

    Attributes:
        latent: nest of `[B, ...]` with the structure and shapes of `RootNode.latent`.
        reward: `[B]`, received on the edge, in the view of who chose it.
        discount: `[B]` in [-1, 1], factor of what follows. γ is already in it: 0 where the game ends, -γ where the
            other player moves next.
        prior_logits: `[B, A]` of the new node; -inf marks an illegal action.
        value: `[B]`, the value of the new node in the view of who moves there. Behind a discount of 0 it counts as 0.
        to_play: `[B]`, a small whole number for who chooses at the new node, in zero-sum games of two with any order of
            turns. The search then turns the discount's sign where it differs from the parent's, so the model gives
            discounts of at least 0. At a chance node, the player who moved. None leaves the discount as it is.
        is_chance: `[B]` bool, True where the new node is a chance node: its `prior_logits` are then the logarithms of
            the outcomes' probabilities, and the search deals its visits out by them. None if there are none.
    """

    latent: nest.Nest
    reward: torch.Tensor
    discount: torch.Tensor
    prior_logits: torch.Tensor
    value: torch.Tensor
    to_play: torch.Tensor | None = None
    is_chance: torch.Tensor | None = None


Model = Callable[[nest.Nest, torch.Tensor], Step]
"""`(latent [B, ...], action [B] int64) -> Step`.

Both arguments are valid during the call only: keep copies, not them. With `SearchSettings.leaves_per_round` k there are
B · k rows; those of tree b are b · k to b · k + k - 1.
"""


class SearchResult(NamedTuple):
    """What B searches found. The tensors are on the device of `RootNode.prior_logits`.

    Attributes:
        visits: `[B, A]` int32, simulations through each action of the root; they sum to the number of simulations, and
            those of earlier searches if the tree was retained.
        value: `[B]` float32, mean over all visits of the root: the returns of its simulations and its own evaluation.
        q_values: `[B, A]` float32, Q of each action of the root; 0 for one that was not visited.
        tree: everything else.
        latents: nest of `[N, B, ...]`, of each node; undefined in empty slots.
        settings: how the search chose.
        rule: the same, as the kernels read it.
    """

    visits: torch.Tensor
    value: torch.Tensor
    q_values: torch.Tensor
    tree: Tree
    latents: nest.Nest
    settings: SearchSettings
    rule: Rule


class RetainedTrees(NamedTuple):
    """What is left of B searches for the next one (`subtree.py`).

    Attributes:
        tree: room for N nodes each, of which the first `num_nodes` hold what is left; visits 0 where nothing is.
        latents: nest of `[num_nodes, B, ...]`.
        num_nodes: the slots in use, at least 1.
        max_visits: the most visits of a node.
    """

    tree: Tree
    latents: nest.Nest
    num_nodes: int
    max_visits: int
