"""A learned model as the two functions that a tree search calls."""

from typing import Protocol

import gin
import torch

from alfish import nest
from alfish.mcts.records import RootNode, Step
from alfish.models.mcts_model import Dynamics, MCTSModel


class SearchableModel(Protocol):
    """What a search of `MCTSAlgorithm` asks."""

    @property
    def trees_can_go_on(self) -> bool:
        """Whether the tree behind an action is about the state that the action will have led to."""

    def root(self, observation: nest.Nest, legal_mask: torch.Tensor | None = None) -> RootNode:
        """The root of each observation `[B, ...]`."""

    def step(self, latent: nest.Nest, action: torch.Tensor) -> Step:
        """What follows from actions `[B]` in latents `[B, ...]`."""


@gin.configurable
class SearchModel:
    """Turns a model's logits into the numbers that a search counts with.

    In a game of two players, values and rewards are in the view of who moves: the value of a latent in that of its
    player, the reward of an action in that of the player who took it (Schrittwieser et al. 2020, appendix B).

    Args:
        model: the learned model, in evaluation mode.
        discount: γ per step, in (0, 1].
        players: 1, or 2 with opposed interests. With 2 the turn changes after every action (the discount is −γ), unless
            the model predicts who moves.

    Attributes:
        has_chance_nodes: True if the search has nodes at which chance chooses (`StochasticSearchModel`).

    Raises:
        ValueError: the number of players is not 1 or 2, or the model has chance outcomes.
    """

    has_chance_nodes = False

    def __init__(self, model: MCTSModel, discount: float, players: int = 1):
        if players not in (1, 2):
            raise ValueError(f"{type(self).__name__}.players is {players!r}; it must be 1 or 2")
        if (model.num_outcomes > 0) != self.has_chance_nodes:
            other = "SearchModel" if self.has_chance_nodes else "StochasticSearchModel"
            raise ValueError(
                f"{type(self).__name__}.model is a {type(model).__name__} with {model.num_outcomes or 'no'} chance "
                f"outcomes; search it with a {other}"
            )
        self._model = model
        self._predicts_to_play = players == 2 and model.predicts_to_play
        self._discount = -discount if players == 2 and not self._predicts_to_play else discount

    @property
    def trees_can_go_on(self) -> bool:
        """False if they go on behind outcomes of chance, because an observation does not tell which one it was."""
        return not self.has_chance_nodes

    def root(self, observation: nest.Nest, legal_mask: torch.Tensor | None = None) -> RootNode:
        """The root of each observation `[B, ...]`.

        Args:
            observation: nest of `[B, ...]`.
            legal_mask: `[B, A]` bool, True for legal actions; the others get logits of -inf. None for all.
        """
        latent = self._model.encode(observation)
        prediction = self._model.predict(latent)
        logits = prediction.policy_logits
        if legal_mask is not None:
            logits = logits.masked_fill(~legal_mask, -torch.inf)
        return RootNode(latent, logits, self._model.value_of(prediction.value_logits), self._to_play(latent))

    def step(self, latent: nest.Nest, action: torch.Tensor) -> Step:
        """What follows from actions `[B]` in latents `[B, ...]`.

        The discount is γ, or −γ where the turn changes after every action, times the probability that the game goes on
        if the model predicts its end.
        """
        return self._answer(self._model.step(latent, action))

    def _answer(self, dynamics: Dynamics) -> Step:
        model = self._model
        prediction = model.predict(dynamics.latent)
        if isinstance(dynamics.reward, torch.Tensor):
            value, reward = model.value_of(prediction.value_logits), dynamics.reward
        elif model.predicts_reward:
            value, reward = model.value_and_reward_of(prediction.value_logits, dynamics.reward_logits)
        else:
            value = model.value_of(prediction.value_logits)
            reward = torch.zeros_like(value)
        if model.predicts_game_over:
            discount = self._discount * torch.sigmoid(-prediction.game_over_logit)
        else:
            discount = torch.full_like(value, self._discount)
        to_play = self._to_play(dynamics.latent)
        return Step(dynamics.latent, reward, discount, prediction.policy_logits, value, to_play)

    def _to_play(self, latent: nest.Nest) -> torch.Tensor | None:
        return self._model.to_play(latent) if self._predicts_to_play else None
