"""A learned model with chance outcomes as the two functions that a tree search calls."""

import gin
import torch

from alfish import nest
from alfish.mcts.records import RootNode, Step
from alfish.mcts.stochastic import Afterstate, StochasticLatent, stochastic_model, stochastic_root
from alfish.models.search_model import SearchModel
from alfish.models.stochastic_mcts_model import StochasticMCTSModel


@gin.configurable
class StochasticSearchModel(SearchModel):
    """A SearchModel with chance nodes (Antonoglou et al. 2022, section 4).

    Nodes have max(A, C) edges; of a result at the root the first A columns count.

    Args:
        model: the learned model, in evaluation mode.
        discount: γ per step, in (0, 1]: a decision and its outcome are one step.
        players: as in SearchModel. An afterstate's value is in the view of who acted.
        by_mask: whether both halves of the model run on all rows; see `stochastic_model`.

    Raises:
        ValueError: the number of players is not 1 or 2, or the model has no chance outcomes.
    """

    has_chance_nodes = True

    def __init__(self, model: StochasticMCTSModel, discount: float, players: int = 1, by_mask: bool | None = None):
        super().__init__(model, discount, players)
        self._stochastic = model
        self._step = stochastic_model(self._decide, self._happen, model.num_actions, model.num_outcomes, by_mask)

    def root(self, observation: nest.Nest, legal_mask: torch.Tensor | None = None) -> RootNode:
        return stochastic_root(super().root(observation, legal_mask), self._stochastic.num_outcomes)

    def step(self, latent: StochasticLatent, action: torch.Tensor) -> Step:
        """What follows from actions or outcomes `[B]` in the latents `[B, ...]` of states or afterstates."""
        return self._step(latent, action)

    def _decide(self, latent: nest.Nest, action: torch.Tensor) -> Afterstate:
        afterstate = self._stochastic.afterstate(latent, action)
        prediction = self._stochastic.predict_afterstate(afterstate)
        return Afterstate(afterstate, self._stochastic.value_of(prediction.value_logits), prediction.outcome_logits)

    def _happen(self, afterstate: nest.Nest, outcome: torch.Tensor) -> Step:
        return self._answer(self._stochastic.after_chance(afterstate, outcome))
