"""A learned model of an environment in which chance has a part."""

from collections.abc import Callable
from typing import NamedTuple

import gin
import torch
import torch.nn.functional

from alfish import nest
from alfish.checks import check_at_least
from alfish.models.heads import make_heads, read_prediction
from alfish.models.mcts_model import Dynamics, MCTSModel, Prediction, num_discrete_actions
from alfish.ops.scalar_supports import ScalarSupport


class AfterstatePrediction(NamedTuple):
    """What a model says of an afterstate.

    Attributes:
        outcome_logits: `[B, C]`.
        value_logits: `[B, S]`.
    """

    outcome_logits: torch.Tensor
    value_logits: torch.Tensor


class ChanceCode(NamedTuple):
    """What chance did between two observations.

    Attributes:
        code: `[B, C]`, one-hot; its gradient is that of `embedding`.
        embedding: `[B, C]`, the encoder's output.
    """

    code: torch.Tensor
    embedding: torch.Tensor


@gin.configurable
class StochasticMCTSModel(MCTSModel):
    """A model of six networks (Antonoglou et al. 2022, "Planning in stochastic environments with a learned model").

    An action leads from a state to an afterstate, and one of C chance outcomes from there to the next state. What the
    outcomes mean is learned: an encoder reads from two observations in a row which one it was (a vector-quantised
    autoencoder without a decoder, whose codebook is the one-hot vectors; section 4).

    A model of one's own derives from this class, or has the same methods. It is searched through
    `StochasticSearchModel`; `step` of a MuZero model does not exist.

    Args:
        observation_spec: nest of TensorSpec, as the encoding network sees it.
        action_spec: one discrete choice of A.
        num_outcomes: C, at least 1 (32 in the paper).
        encoding_network: h, made with `observation_spec`; has `latent_shape`.
        prediction_network: f, made with `latent_shape` and `head_sizes`.
        afterstate_network: φ, made with `latent_shape`, `num_actions` and `num_reward_outputs` 0, like the dynamics of
            a MuZero model.
        afterstate_prediction_network: ψ, made with `latent_shape` and `head_sizes`.
        dynamics_network: g, made with `latent_shape`, `num_outcomes` and `num_reward_outputs`; reads numbers of
            outcomes `[B]` in a search and codes `[B, C]` in training, as VectorDynamics does.
        chance_encoder: e, made with `observation_spec` and `num_outcomes`.
        value_support: makes what the outputs of the value heads stand for, of states and of afterstates.
        reward_support: likewise of the reward; None predicts no rewards.
        predict_game_over: adds a head for the end of the game.

    Attributes:
        num_outcomes: C.
        latent_shape: of the latent, without the batch.

    Raises:
        ValueError: the action is not one discrete choice, there is no outcome, or the dynamics network cannot read
            codes.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        num_outcomes: int = gin.REQUIRED,
        encoding_network: Callable[..., torch.nn.Module] = gin.REQUIRED,
        prediction_network: Callable[..., torch.nn.Module] = gin.REQUIRED,
        afterstate_network: Callable[..., torch.nn.Module] = gin.REQUIRED,
        afterstate_prediction_network: Callable[..., torch.nn.Module] = gin.REQUIRED,
        dynamics_network: Callable[..., torch.nn.Module] = gin.REQUIRED,
        chance_encoder: Callable[..., torch.nn.Module] = gin.REQUIRED,
        value_support: Callable[[], ScalarSupport] = gin.REQUIRED,
        reward_support: Callable[[], ScalarSupport] | None = gin.REQUIRED,
        predict_game_over: bool = False,
    ):
        check_at_least("StochasticMCTSModel.num_outcomes", num_outcomes, 1)
        num_actions = num_discrete_actions("StochasticMCTSModel", action_spec)
        heads = make_heads(num_actions, value_support, reward_support, predict_game_over)
        super().__init__(heads.value_support, heads.reward_support)
        self.num_actions = num_actions
        self.num_outcomes = num_outcomes
        self.predicts_reward = heads.reward_support is not None
        self.predicts_game_over = predict_game_over
        self._encoding = encoding_network(observation_spec)
        self.latent_shape = self._encoding.latent_shape
        self._prediction = prediction_network(self.latent_shape, heads.head_sizes)
        self._afterstate = afterstate_network(self.latent_shape, num_actions, 0)
        self._afterstate_prediction = afterstate_prediction_network(
            self.latent_shape, [num_outcomes, heads.value_support.num_outputs]
        )
        self._dynamics = dynamics_network(self.latent_shape, num_outcomes, heads.num_reward_outputs)
        if not getattr(self._dynamics, "reads_action_vectors", False):
            raise ValueError(
                f"StochasticMCTSModel.dynamics_network is a {type(self._dynamics).__name__}, which reads numbers only; "
                "expected one that reads vectors too (reads_action_vectors is True), such as VectorDynamics"
            )
        self._chance_encoder = chance_encoder(observation_spec, num_outcomes)

    def encode(self, observation: nest.Nest) -> nest.Nest:
        return self._encoding(observation)

    def step(self, latent: nest.Nest, action: torch.Tensor) -> Dynamics:
        raise NotImplementedError(
            f"{type(self).__name__} has chance between an action and what follows: search it with a "
            "StochasticSearchModel and unroll it with stochastic_unroll"
        )

    def predict(self, latent: nest.Nest) -> Prediction:
        return read_prediction(self._prediction(latent))

    def afterstate(self, latent: nest.Nest, action: torch.Tensor) -> nest.Nest:
        """φ: latents and actions `[B]` to the latents of afterstates, of the same structure and shapes."""
        return self._afterstate(latent, action)[0]

    def predict_afterstate(self, afterstate: nest.Nest) -> AfterstatePrediction:
        """ψ: of afterstates `[B, ...]`."""
        return AfterstatePrediction(*self._afterstate_prediction(afterstate))

    def after_chance(self, afterstate: nest.Nest, outcome: torch.Tensor) -> Dynamics:
        """g: afterstates and outcomes to the latents that follow, and the rewards of the whole transitions.

        Outcomes are numbers `[B]` int64 in `0 … C−1`, as a search counts them, or codes `[B, C]`.
        """
        next_latent, reward_logits = self._dynamics(afterstate, outcome)
        return Dynamics(next_latent, reward_logits if self.predicts_reward else ())

    def chance_code(self, observation: nest.Nest, next_observation: nest.Nest) -> ChanceCode:
        """e: which outcome led from observations `[B, ...]` to the next ones."""
        embedding = self._chance_encoder(observation, next_observation)
        hard = torch.nn.functional.one_hot(embedding.argmax(dim=-1), self.num_outcomes).to(embedding.dtype)
        # Straight through: the value is exactly one-hot, the gradient goes on to the embedding unchanged.
        return ChanceCode(hard + (embedding - embedding.detach()), embedding)
