"""The records that go into a search and come out of it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch

from alfish import nest
from alfish.mcts import kernels
from alfish.mcts.kernels import LARGEST_Q, Rule
from alfish.mcts.tree import Tree


class RootNode(NamedTuple):
    """Where B searches start.

    Attributes:
        latent: nest of `[B, ...]`, what the model continues from. Any dtypes; all on one device.
        prior_logits: `[B, A]`; -inf marks an illegal action.
        value: `[B]`, the model's value of the root.
    """

    latent: nest.Nest
    prior_logits: torch.Tensor
    value: torch.Tensor


class Step(NamedTuple):
    """The model's answer to one action in each of B latents.

    Attributes:
        latent: nest of `[B, ...]` with the structure and shapes of `RootNode.latent`.
        reward: `[B]`, received on the edge.
        discount: `[B]` in [-1, 1], factor of what follows. γ is already in it: 0 where the game ends, -γ where the
            other player moves next.
        prior_logits: `[B, A]` of the new node; -inf marks an illegal action.
        value: `[B]`, the value of the new node in the view of who moves there. Behind a discount of 0 it counts as 0.
    """

    latent: nest.Nest
    reward: torch.Tensor
    discount: torch.Tensor
    prior_logits: torch.Tensor
    value: torch.Tensor


Model = Callable[[nest.Nest, torch.Tensor], Step]
"""`(latent [B, ...], action [B] int64) -> Step`. The action is valid during the call only: keep a copy, not it."""


@dataclasses.dataclass(frozen=True)
class PuctSettings:
    """How PUCT chooses (Schrittwieser et al. 2020, https://arxiv.org/abs/1911.08265, appendix B, equation 2).

        argmax_a  Q̄(s, a) + P(s, a) · √n(s) / (1 + n(s, a)) · (c1 + log((n(s) + c2 + 1) / c2))

    Q̄ is Q scaled by the smallest and largest Q seen in the tree so far. The lowest of equal actions wins. n(s) counts
    the evaluation of s itself, so n(s) = 1 + Σ n(s, b). At the root the paper's pseudocode counts Σ n(s, b) only, and
    its first simulation cannot see the prior; ours can.

    Args:
        c1: weight of the prior.
        c2: visits at which the prior's weight begins to grow.
        known_range: smallest and largest value of the task. None starts from the first value seen. Values beyond it
            widen it, as in the paper's pseudocode.
        minimum_range: least width by which Q is scaled, in units of the value, so that differences of noise are not
            blown up (0.01 in EfficientZero, https://arxiv.org/abs/2111.00210).
        unvisited_value: Q̄ of an action that was not visited: a number (0 in the paper), "parent" for the value of s,
            scaled and clipped to [0, 1], or "siblings" for the mean Q̄ of the visited actions, 0 if there is none.
        max_depth: largest number of edges from the root; None for no limit. A simulation that reaches it visits the
            existing node again.

    Raises:
        ValueError: a number is out of its range.
    """

    c1: float = 1.25
    c2: float = 19652.0
    known_range: tuple[float, float] | None = None
    minimum_range: float = 0.01
    unvisited_value: float | Literal["parent", "siblings"] = 0.0
    max_depth: int | None = None

    def __post_init__(self) -> None:
        _check_setting("c1", self.c1, 0 <= self.c1 < math.inf, "a finite number that is not negative")
        _check_setting("c2", self.c2, 0 < self.c2 < math.inf, "a finite number above 0")
        least = self.minimum_range
        _check_setting("minimum_range", least, 1e-37 <= least <= 1e37, "a number between 1e-37 and 1e37")
        if self.known_range is not None:
            valid = len(self.known_range) == 2 and -LARGEST_Q <= self.known_range[0] < self.known_range[1] <= LARGEST_Q
            _check_setting("known_range", self.known_range, valid, "(smallest, largest), both finite, or None")
        if isinstance(self.unvisited_value, str):
            valid = self.unvisited_value in ("parent", "siblings")
        else:
            valid = math.isfinite(self.unvisited_value)
        _check_setting("unvisited_value", self.unvisited_value, valid, 'a finite number, "parent" or "siblings"')
        depth = self.max_depth
        _check_setting("max_depth", depth, depth is None or depth >= 1, "a whole number of at least 1, or None")

    def rule(self, num_nodes: int) -> Rule:
        """These settings as the kernels read them, for trees of `num_nodes` nodes."""
        visits = np.arange(num_nodes + 1)
        exploration = np.sqrt(visits) * (self.c1 + np.log((visits + self.c2 + 1) / self.c2))
        constant, mode = 0.0, kernels.UNVISITED_CONSTANT
        if self.unvisited_value == "parent":
            mode = kernels.UNVISITED_PARENT
        elif self.unvisited_value == "siblings":
            mode = kernels.UNVISITED_SIBLINGS
        else:
            constant = self.unvisited_value
        return Rule(
            exploration=exploration.astype(np.float32),
            minimum_range=np.float32(self.minimum_range),
            unvisited_value=np.float32(constant),
            unvisited_mode=mode,
            max_depth=num_nodes if self.max_depth is None else self.max_depth,
        )


class SearchResult(NamedTuple):
    """What B searches found. The tensors are on the device of `RootNode.prior_logits`.

    Attributes:
        visits: `[B, A]` int32, simulations through each action of the root; they sum to the number of simulations.
        value: `[B]` float32, mean over all visits of the root: the returns of its simulations and its own evaluation.
        q_values: `[B, A]` float32, Q of each action of the root; 0 for one that was not visited.
        tree: everything else, in host memory.
    """

    visits: torch.Tensor
    value: torch.Tensor
    q_values: torch.Tensor
    tree: Tree


def _check_setting(name: str, value: object, valid: object, expected: str) -> None:
    if not valid:
        raise ValueError(f"PuctSettings.{name} is {value!r}; expected {expected}")
