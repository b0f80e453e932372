"""A MuZero model put together from three networks."""

from collections.abc import Callable

import gin
import torch

from alfish import nest
from alfish.models.heads import make_heads, read_prediction
from alfish.models.mcts_model import Dynamics, MCTSModel, Prediction, num_discrete_actions
from alfish.ops.scalar_supports import ScalarSupport


@gin.configurable
class SimpleMCTSModel(MCTSModel):
    """Encoding, dynamics and prediction networks by constructor.

    Args:
        observation_spec: nest of TensorSpec, as the encoding network sees it.
        action_spec: one discrete choice of A.
        encoding_network: made with `observation_spec`; has `latent_shape`.
        dynamics_network: made with `latent_shape`, `num_actions` and `num_reward_outputs`.
        prediction_network: made with `latent_shape` and `head_sizes`.
        value_support: makes what the outputs of the value head stand for, such as CategoricalSupport.
        reward_support: likewise of the reward; None predicts no rewards.
        predict_game_over: adds a head for the end of the game.

    Attributes:
        latent_shape: of the latent, without the batch.

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
        value_support: Callable[[], ScalarSupport] = gin.REQUIRED,
        reward_support: Callable[[], ScalarSupport] | None = gin.REQUIRED,
        predict_game_over: bool = False,
    ):
        num_actions = num_discrete_actions("SimpleMCTSModel", action_spec)
        heads = make_heads(num_actions, value_support, reward_support, predict_game_over)
        super().__init__(heads.value_support, heads.reward_support)
        self.num_actions = num_actions
        self.predicts_reward = heads.reward_support is not None
        self.predicts_game_over = predict_game_over
        self._encoding = encoding_network(observation_spec)
        self.latent_shape = self._encoding.latent_shape
        self._dynamics = dynamics_network(self.latent_shape, num_actions, heads.num_reward_outputs)
        self._prediction = prediction_network(self.latent_shape, heads.head_sizes)

    def encode(self, observation: nest.Nest) -> torch.Tensor:
        return self._encoding(observation)

    def step(self, latent: torch.Tensor, action: torch.Tensor) -> Dynamics:
        next_latent, reward_logits = self._dynamics(latent, action)
        return Dynamics(next_latent, reward_logits if self.predicts_reward else ())

    def predict(self, latent: torch.Tensor) -> Prediction:
        return read_prediction(self._prediction(latent))
