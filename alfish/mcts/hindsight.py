"""Hindsight optimisation: one deterministic tree for each of several known futures, and the mean of what they say."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import gin
import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.mcts.records import Model, RetainedTrees, RootNode, SearchResult
from alfish.mcts.search import search
from alfish.mcts.search_policies import PolicyOutput, SearchFunction, draw_seed, sample_by_scores
from alfish.mcts.settings import SearchSettings, check_setting

Split = Callable[[nest.Nest, int], nest.Nest]
"""`(latent [B, ...], H) -> latent [B * H, ...]`: rows b * H … b * H + H - 1 are row b in H futures.

The futures are independent of each other and of what will really happen. Which random numbers a future has is in the
latent, so that the model is deterministic: the same latent and action give the same step.
"""


class FutureMeans(NamedTuple):
    """What the trees of H futures say together.

    Attributes:
        q_values: `[B, A]` float32, mean over the futures that visited the action; 0 if none did.
        visited: `[B, A]` bool, whether any did.
        policy: `[B, A]` float32, the shares of the visits of all futures.
        value: `[B]` float32, mean of the roots' values.
        best_value: `[B]` float32, mean of each root's largest Q: what a plan would bring that knew its future.
    """

    q_values: torch.Tensor
    visited: torch.Tensor
    policy: torch.Tensor
    value: torch.Tensor
    best_value: torch.Tensor


@gin.configurable
@dataclasses.dataclass(frozen=True)
class HindsightPolicy:
    """Plans as if the future were known, in several futures, and acts by the mean.

    Chong, Givan and Chang 2000, "A framework for simulation-based network control via hindsight optimization"; for
    planning Yoon, Fern, Givan and Kambhampati 2008, "Probabilistic planning via determinization in hindsight",
    section 3:

        Q(s, a) = 1/H · Σ_h Q_h(s, a),   Q_h: the best return in future h, in which nothing is left to chance

    Each tree adapts its plan to the future that it knows, and `E[max] >= max E`: for exact trees the values are above
    those of the best policy, and the actions are those after which knowing the future helps most, not the safe ones.
    See docs/planning.md, and `open_loop.py` for a search that errs to the other side.

    The futures are extra rows of one search. A tree that left an action of its root unvisited takes no part in that
    action's mean, since what it would have found is unknown; an action that no tree visited is not taken. Means of all
    actions are compared, so a root that visits all of them alike serves better than one that looks for the best:
    `Puct` with a large c1.

    The policy to learn is the share of the visits of all futures, the value the mean of the roots' values. An action is
    drawn from softmax(Q / temperature) over the visited actions, the temperature being in units of the values; at 0 it
    is the one with the largest Q, the lowest of equal ones. There is no noise at the root.

    Args:
        num_futures: H, at least 1. The model is called with H rows for each position.
        split: makes the futures; for a SimulatorModel its `split`. None takes that of `MCTSAlgorithm.search_model`.
        settings: how the trees choose.

    Raises:
        ValueError: a choice is out of its range.
    """

    num_futures: int
    split: Split | None = None
    settings: SearchSettings = SearchSettings()

    def __post_init__(self) -> None:
        check_at_least("HindsightPolicy.num_futures", self.num_futures, 1)
        valid = self.split is None or callable(self.split)
        check_setting(self, "split", valid, "a function that makes futures, such as SimulatorModel.split, or None")

    @property
    def least_simulations(self) -> int:
        """Of each future: without any there are no values to take the mean of."""
        return 1

    @property
    def retains_trees(self) -> bool:
        return False

    def for_model(self, search_model: object) -> "HindsightPolicy":
        """The policy for a search of this model, whose `split` it takes if it has none.

        Raises:
            ValueError: the model has none either.
        """
        if self.split is not None:
            return self
        split = getattr(search_model, "split", None)
        if split is None:
            raise ValueError(
                f"HindsightPolicy.split is None and the search model is a {type(search_model).__name__}, whose latents"
                " hold no future; expected a SimulatorSearchModel, or a function that makes futures"
            )
        return dataclasses.replace(self, split=split)

    def __call__(
        self,
        root: RootNode,
        model: Model,
        num_simulations: int,
        legal_mask: torch.Tensor | None = None,
        temperature: float | torch.Tensor = 0.0,
        explore: bool = False,
        retained: RetainedTrees | None = None,
        run: SearchFunction = search,
    ) -> PolicyOutput:
        """See `SearchPolicy`. `num_simulations` is per future, at least 1; the output's search has `B * H` rows."""
        del explore
        check_at_least("num_simulations", num_simulations, 1)
        if self.split is None:
            raise ValueError("HindsightPolicy.split is None; expected a function that makes futures, or for_model(...)")
        if retained is not None:
            raise ValueError(
                "HindsightPolicy was given retained trees; expected None: each move has futures of its own"
            )
        futures = _split_root(root, self.num_futures, self.split)
        if legal_mask is not None:
            legal_mask = legal_mask.repeat_interleave(self.num_futures, dim=0)
        seed = draw_seed(self.settings)
        result = run(futures, model, num_simulations, self.settings, legal_mask, None, seed, None)
        means = future_means(result, self.num_futures)
        scores = means.q_values.masked_fill(~means.visited, -math.inf)
        action = sample_by_scores(scores, scores.argmax(dim=1), temperature)
        return PolicyOutput(action, means.policy, means.value, result)


def future_means(result: SearchResult, num_futures: int) -> FutureMeans:
    """Puts the trees of each position's futures together.

    Args:
        result: of a search of `B * num_futures` rows.
        num_futures: H.
    """
    visits = result.visits.unflatten(0, (-1, num_futures))
    q_values = result.q_values.unflatten(0, (-1, num_futures))
    visited = visits > 0
    return FutureMeans(
        q_values=q_values.masked_fill(~visited, 0.0).sum(1) / visited.sum(1).clamp(min=1),
        visited=visited.any(1),
        policy=visits.sum(1) / visits.sum((1, 2)).unsqueeze(1),
        value=result.value.unflatten(0, (-1, num_futures)).mean(1),
        best_value=q_values.masked_fill(~visited, -math.inf).amax(2).mean(1),
    )


def _split_root(root: RootNode, num_futures: int, split: Split) -> RootNode:
    rows = root.prior_logits.shape[0] * num_futures
    latent = split(root.latent, num_futures)
    nest.check_same_structure(root.latent, latent, "the latent that split returned")
    for path, leaf in nest.leaves_with_paths(latent):
        if leaf.dim() == 0 or leaf.shape[0] != rows:
            raise ValueError(
                f"split returned a latent {path} of the shape {tuple(leaf.shape)}; expected {rows} rows, {num_futures}"
                f" futures for each of {rows // num_futures} roots"
            )

    def repeated(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.repeat_interleave(num_futures, dim=0)

    to_play = None if root.to_play is None else repeated(root.to_play)
    return RootNode(latent, repeated(root.prior_logits), repeated(root.value), to_play)
