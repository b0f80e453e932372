"""A learned model as the two functions that a tree search calls."""

import torch

from alfish import nest
from alfish.mcts.records import RootNode, Step
from alfish.models.mcts_model import MCTSModel


class SearchModel:
    """Turns a model's logits into the numbers that a search counts with.

    Args:
        model: the learned model, in evaluation mode.
        discount: γ per step, in (0, 1].
    """

    def __init__(self, model: MCTSModel, discount: float):
        self._model = model
        self._discount = discount

    def root(self, observation: nest.Nest) -> RootNode:
        """The root of each observation `[B, ...]`."""
        latent = self._model.encode(observation)
        prediction = self._model.predict(latent)
        return RootNode(latent, prediction.policy_logits, self._model.value_of(prediction.value_logits))

    def step(self, latent: nest.Nest, action: torch.Tensor) -> Step:
        """What follows from actions `[B]` in latents `[B, ...]`.

        The discount is γ, times the probability that the game goes on if the model predicts its end.
        """
        dynamics = self._model.step(latent, action)
        prediction = self._model.predict(dynamics.latent)
        if self._model.predicts_reward:
            value, reward = self._model.value_and_reward_of(prediction.value_logits, dynamics.reward_logits)
        else:
            value = self._model.value_of(prediction.value_logits)
            reward = torch.zeros_like(value)
        if self._model.predicts_game_over:
            discount = self._discount * torch.sigmoid(-prediction.game_over_logit)
        else:
            discount = torch.full_like(value, self._discount)
        return Step(dynamics.latent, reward, discount, prediction.policy_logits, value)
