"""A MuZero model put together from three networks."""

from collections.abc import Callable

import gin
import torch

from alfish import nest
from alfish.models.mcts_model import Dynamics, MCTSModel, Prediction
from alfish.ops.value_losses import categorical_cross_entropy
from alfish.ops.value_transforms import CategoricalSupport
from alfish.specs import BoundedTensorSpec


@gin.configurable
class SimpleMCTSModel(MCTSModel):
    """Encoding, dynamics and prediction networks by constructor; categorical values and rewards.

    Args:
        observation_spec: nest of TensorSpec, as the encoding network sees it.
        action_spec: one discrete choice of A.
        encoding_network: made with `observation_spec`; has `latent_shape`.
        dynamics_network: made with `latent_shape`, `num_actions` and `num_reward_outputs`.
        prediction_network: made with `latent_shape` and `head_sizes`.
        value_support: the bins of the value.
        reward_support: the bins of the reward; None predicts no rewards.
        predict_game_over: adds a head for the end of the game.

    Raises:
        ValueError: the action is not one discrete choice.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        encoding_network: Callable[..., torch.nn.Module] = gin.REQUIRED,
        dynamics_network: Callable[..., torch.nn.Module] = gin.REQUIRED,
        prediction_network: Callable[..., torch.nn.Module] = gin.REQUIRED,
        value_support: Callable[[], CategoricalSupport] = gin.REQUIRED,
        reward_support: Callable[[], CategoricalSupport] | None = gin.REQUIRED,
        predict_game_over: bool = False,
    ):
        super().__init__()
        if not isinstance(action_spec, BoundedTensorSpec) or not action_spec.is_discrete or action_spec.shape != ():
            raise ValueError(f"SimpleMCTSModel needs one discrete action (a Discrete space), not {action_spec}")
        self.num_actions = action_spec.num_values
        self.value_support = value_support()
        self.reward_support = None if reward_support is None else reward_support()
        self.predicts_reward = self.reward_support is not None
        self.predicts_game_over = predict_game_over
        self._one_transform = self.reward_support is not None and self.value_support.shares_transform_with(
            self.reward_support
        )
        num_reward_outputs = 0 if self.reward_support is None else self.reward_support.num_bins
        head_sizes = [self.num_actions, self.value_support.num_bins] + [1] * predict_game_over
        self._encoding = encoding_network(observation_spec)
        latent_shape = self._encoding.latent_shape
        self._dynamics = dynamics_network(latent_shape, self.num_actions, num_reward_outputs)
        self._prediction = prediction_network(latent_shape, head_sizes)

    def encode(self, observation: nest.Nest) -> torch.Tensor:
        return self._encoding(observation)

    def step(self, latent: torch.Tensor, action: torch.Tensor) -> Dynamics:
        next_latent, reward_logits = self._dynamics(latent, action)
        return Dynamics(next_latent, reward_logits if self.predicts_reward else ())

    def predict(self, latent: torch.Tensor) -> Prediction:
        policy_logits, value_logits, *rest = self._prediction(latent)
        return Prediction(policy_logits, value_logits, rest[0].squeeze(1) if rest else ())

    def value_of(self, value_logits: torch.Tensor) -> torch.Tensor:
        return self.value_support.to_scalar(value_logits)

    def reward_of(self, reward_logits: torch.Tensor) -> torch.Tensor:
        assert self.reward_support is not None, "reward_of of a model that predicts no rewards"
        return self.reward_support.to_scalar(reward_logits)

    def value_and_reward_of(
        self, value_logits: torch.Tensor, reward_logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._one_transform:
            return super().value_and_reward_of(value_logits, reward_logits)
        assert self.reward_support is not None
        # A search asks with a few rows, for which each operation costs the same, whether on one number or two.
        transformed = (
            self.value_support.to_transformed(value_logits),
            self.reward_support.to_transformed(reward_logits),
        )
        value, reward = self.value_support.transform.inverse(torch.stack(transformed)).unbind()
        return value, reward

    def value_loss(self, value_logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return categorical_cross_entropy(value_logits, self.value_support.to_probabilities(target))

    def reward_loss(self, reward_logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        assert self.reward_support is not None, "reward_loss of a model that predicts no rewards"
        return categorical_cross_entropy(reward_logits, self.reward_support.to_probabilities(target))
