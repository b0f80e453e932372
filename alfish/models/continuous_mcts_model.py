"""A MuZero model whose actions are real numbers, or several discrete choices at once."""

from collections.abc import Callable

import gin
import torch

from alfish import nest
from alfish.models.heads import make_heads, read_prediction
from alfish.models.mcts_model import Dynamics, MCTSModel, Prediction
from alfish.ops.sampled_policies import make_sampled_policy
from alfish.ops.scalar_supports import ScalarSupport


@gin.configurable
class ContinuousMCTSModel(MCTSModel):
    """Encoding, dynamics and prediction networks by constructor.

    The policy head gives the parameters of a distribution of actions: for a box a mean and a scale per number
    (`SampledBox`). The dynamics read the action as a vector: a box in units of its half-width, choices one-hot. A
    search over this model needs candidates (`SampledModel`); `step` takes actions `[B, ...]`, not their numbers.

    Args:
        observation_spec: nest of TensorSpec, as the encoding network sees it.
        action_spec: one BoundedTensorSpec, of any kind.
        encoding_network: made with `observation_spec`; has `latent_shape`.
        dynamics_network: made with `latent_shape`, the size of an action's vector, and `num_reward_outputs`; reads
            vectors, as VectorDynamics does.
        prediction_network: made with `latent_shape` and `head_sizes`.
        value_support: makes what the outputs of the value head stand for, such as CategoricalSupport.
        reward_support: likewise of the reward; None predicts no rewards.
        predict_game_over: adds a head for the end of the game.

    Attributes:
        action_policy: the family of the policy.
        num_actions: the size of an action's vector.
        latent_shape: of the latent, without the batch.

    Raises:
        ValueError: there can be no distribution of such actions, or the dynamics network cannot read them.
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
        policy = make_sampled_policy(action_spec)
        heads = make_heads(policy.num_parameters, value_support, reward_support, predict_game_over)
        super().__init__(heads.value_support, heads.reward_support)
        self.action_policy = policy
        self.num_actions = policy.vector_size
        self.predicts_reward = heads.reward_support is not None
        self.predicts_game_over = predict_game_over
        self._encoding = encoding_network(observation_spec)
        self.latent_shape = self._encoding.latent_shape
        self._dynamics = dynamics_network(self.latent_shape, policy.vector_size, heads.num_reward_outputs)
        if not getattr(self._dynamics, "reads_action_vectors", False):
            raise ValueError(
                f"ContinuousMCTSModel.dynamics_network is a {type(self._dynamics).__name__}, which reads the number"
                " of an action; expected one that reads vectors (reads_action_vectors is True), such as VectorDynamics"
            )
        self._prediction = prediction_network(self.latent_shape, heads.head_sizes)

    def encode(self, observation: nest.Nest) -> torch.Tensor:
        return self._encoding(observation)

    def step(self, latent: torch.Tensor, action: torch.Tensor) -> Dynamics:
        assert self.action_policy is not None
        next_latent, reward_logits = self._dynamics(latent, self.action_policy.as_vector(action))
        return Dynamics(next_latent, reward_logits if self.predicts_reward else ())

    def predict(self, latent: torch.Tensor) -> Prediction:
        return read_prediction(self._prediction(latent))
