"""A model whose rewards are differences of value prefixes."""

from collections.abc import Callable

import gin
import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.models.mcts_model import Dynamics, MCTSModel, Prediction
from alfish.models.simple_mcts_model import SimpleMCTSModel
from alfish.models.value_prefix import (
    ValuePrefixLatent,
    advance_prefix,
    rewards_of_prefixes,
    start_prefix,
    value_prefixes,
)
from alfish.networks.value_prefix_network import RecurrentValuePrefix
from alfish.ops.scalar_supports import ScalarSupport


@gin.configurable
class ValuePrefixMCTSModel(MCTSModel):
    """Another model, which predicts no rewards, with a recurrent head that predicts value prefixes.

    Ye et al. 2021 (EfficientZero), section 4.2. The latent is a `ValuePrefixLatent`. `Dynamics.reward_logits` are those
    of the prefix and `Dynamics.reward` is the reward of the edge, without gradient.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: what `model` takes.
        model: made with both specs; has `latent_shape`, and one tensor as its latent.
        value_prefix_network: made with the latent's shape and the number of outputs.
        value_prefix_support: makes what the outputs for the prefix stand for, such as CategoricalSupport, whose ends
            must hold the sum of `horizon` rewards.
        horizon: h, steps between two resets, at least 1. With 1 the prefix is the reward.

    Raises:
        ValueError: the horizon is below 1, or `model` predicts rewards or has chance outcomes.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        model: Callable[..., SimpleMCTSModel] = SimpleMCTSModel,
        value_prefix_network: Callable[..., RecurrentValuePrefix] = RecurrentValuePrefix,
        value_prefix_support: Callable[[], ScalarSupport] = gin.REQUIRED,
        horizon: int = 5,
    ):
        check_at_least("ValuePrefixMCTSModel.horizon", horizon, 1)
        inner = model(observation_spec, action_spec)
        name = type(inner).__name__
        if inner.num_outcomes:
            raise ValueError(
                f"ValuePrefixMCTSModel.model is a {name}, which has chance outcomes; expected a model without, since a "
                "value prefix is not made for chance: set ValuePrefixMCTSModel.model = @SimpleMCTSModel"
            )
        if inner.predicts_reward:
            raise ValueError(
                f"ValuePrefixMCTSModel.model is a {name} that predicts rewards; it must not, since the value prefix "
                f"says them: set {name}.reward_support = None"
            )
        super().__init__(reward_support=value_prefix_support())
        assert self.reward_support is not None
        self.num_actions = inner.num_actions
        self.predicts_reward = True
        self.predicts_game_over = inner.predicts_game_over
        self.predicts_to_play = inner.predicts_to_play
        self.horizon = horizon
        self._model = inner
        self._value_prefix = value_prefix_network(inner.latent_shape, self.reward_support.num_outputs)

    def encode(self, observation: nest.Nest) -> ValuePrefixLatent:
        latent = self._model.encode(observation)
        return start_prefix(latent, self._value_prefix.initial_state(latent))

    def step(self, latent: ValuePrefixLatent, action: torch.Tensor) -> Dynamics:
        following = self._model.step(latent.latent, action).latent
        logits, reward_state = self._value_prefix(following, latent.reward_state)
        prefix = self.reward_of(logits.detach())
        next_latent, reward = advance_prefix(latent, following, reward_state, prefix, self.horizon)
        return Dynamics(next_latent, logits, reward)

    def predict(self, latent: ValuePrefixLatent) -> Prediction:
        return self._model.predict(latent.latent)

    def state_of(self, latent: ValuePrefixLatent) -> nest.Nest:
        return self._model.state_of(latent.latent)

    def to_play(self, latent: ValuePrefixLatent) -> torch.Tensor:
        return self._model.to_play(latent.latent)

    def value_of(self, value_logits: torch.Tensor) -> torch.Tensor:
        return self._model.value_of(value_logits)

    def value_loss(self, value_logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self._model.value_loss(value_logits, target)

    def reward_of(self, reward_logits: torch.Tensor) -> torch.Tensor:
        """Logits `[..., S]` to value prefixes `[...]`."""
        return super().reward_of(reward_logits)

    def rewards_of_unroll(self, reward_logits: torch.Tensor) -> torch.Tensor:
        return rewards_of_prefixes(self.reward_of(reward_logits), self.horizon)

    def reward_loss(self, reward_logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss `[..., R]` of the prefixes' logits `[..., R, S]` against the sums of the rewards `[..., R]`."""
        return super().reward_loss(reward_logits, value_prefixes(target, self.horizon))
