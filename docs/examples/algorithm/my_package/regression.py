"""Advantage-weighted regression: Peng et al., "Advantage-Weighted Regression" (2019), arXiv:1910.00177."""

from collections.abc import Callable
from typing import NamedTuple

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.checks import check_in_range
from alfish.data_structures import AlgStep, BatchInfo, LossInfo, RowsNeeded, TimeStep
from alfish.networks.encoders import Encoder, IdentityEncoder, unroll_rows
from alfish.ops.block_rows import ends_at_newest
from alfish.ops.distributions import make_action_distribution
from alfish.ops.masking import masked_normalize
from alfish.ops.off_policy_returns import lambda_return
from my_package.networks import TwoHeads


class Targets(NamedTuple):
    """What a row is trained on: its action, how much that counts, the return after it, and whether it is known."""

    action: nest.Nest
    weight: torch.Tensor
    returns: torch.Tensor
    is_known: torch.Tensor


class Prediction(NamedTuple):
    """What the network says now, with gradient, and what it is trained on."""

    log_prob: torch.Tensor
    value: torch.Tensor
    targets: Targets


@gin.configurable
class AdvantageWeightedRegression(Algorithm):
    """Imitates the actions in the replay, the more the better they were than the value says.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: nest of BoundedTensorSpec.
        encoder: makes what stands before the network, with or without memory, given `observation_spec`.
        network: called with the spec of the encoder's features and the number of parameters P; the module maps features
            to parameters `[..., P]` and values `[...]`.
        discount: gamma, in [0, 1], for each environment step.
        return_lambda: lambda of the returns, in [0, 1].
        temperature: an action counts exp(advantage / temperature), the advantage in its standard deviations; above 0.
        max_weight: the most that an action counts.
        value_loss_weight: of the value's squared error in the loss.

    Raises:
        ValueError: an argument is out of its range, or there is no distribution of the actions.
    """

    needs_replay = True

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        encoder: Callable[..., Encoder] = IdentityEncoder,
        network: Callable[..., torch.nn.Module] = TwoHeads,
        discount: float = gin.REQUIRED,
        return_lambda: float = 0.95,
        temperature: float = gin.REQUIRED,
        max_weight: float = 20.0,
        value_loss_weight: float = 0.5,
    ):
        super().__init__(observation_spec, action_spec)
        check_in_range("AdvantageWeightedRegression.discount", discount, 0.0, 1.0)
        check_in_range("AdvantageWeightedRegression.return_lambda", return_lambda, 0.0, 1.0)
        check_in_range("AdvantageWeightedRegression.temperature", temperature, 1.0e-3)
        check_in_range("AdvantageWeightedRegression.max_weight", max_weight, 1.0)
        check_in_range("AdvantageWeightedRegression.value_loss_weight", value_loss_weight, 0.0)
        self._discount = discount
        self._return_lambda = return_lambda
        self._temperature = temperature
        self._max_weight = max_weight
        self._value_loss_weight = value_loss_weight
        self.action_distribution = make_action_distribution(action_spec)
        self.encoder = encoder(observation_spec=observation_spec)
        self.network = network(self.encoder.output_spec, self.action_distribution.num_parameters)

    def rows_needed(self) -> RowsNeeded:
        return RowsNeeded(future=1, future_observations=1)

    def initial_state(self, batch_size: int) -> nest.Nest:
        return self.encoder.initial_state(batch_size)

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        features, state = self.encoder.step(time_step.observation, state)
        parameters, _ = self.network(features)
        return AlgStep(self.action_distribution.clip(self.action_distribution.mode(parameters)), state)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        features, state = self.encoder.step(time_step.observation, state)
        parameters, _ = self.network(features)
        sample, _ = self.action_distribution.sample(parameters)
        return AlgStep(self.action_distribution.clip(sample), state, sample)

    @torch.no_grad()
    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: nest.Nest, batch_info: BatchInfo
    ) -> tuple[TimeStep, Targets]:
        _, value = self.network(unroll_rows(self.encoder, root_inputs, batch_info.state))
        ends = root_inputs.is_last()
        ends[:, :-1] |= ends_at_newest(ends, batch_info.position)
        returns = lambda_return(
            root_inputs.reward, root_inputs.discount, value, ends, self._discount, self._return_lambda
        )
        is_known = ~ends[:, :-1]
        advantage = masked_normalize(returns - value[:, :-1], is_known)
        weight = torch.exp(advantage / self._temperature).clamp_max(self._max_weight)
        inputs, action = nest.map_structure(lambda leaf: leaf[:, :-1], (root_inputs, rollout_info))
        return inputs, Targets(action, torch.where(is_known, weight, 0.0), returns, is_known)

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: Targets) -> AlgStep:
        parameters, value = self.network(unroll_rows(self.encoder, inputs, state))
        log_prob, _ = self.action_distribution.evaluate(parameters, rollout_info.action)
        return AlgStep((), (), Prediction(log_prob, value, rollout_info))

    def calc_loss(self, info: Prediction) -> LossInfo:
        policy_loss = -info.targets.weight * info.log_prob
        value_loss = torch.where(info.targets.is_known, (info.targets.returns - info.value).square(), 0.0)
        loss = policy_loss + self._value_loss_weight * value_loss
        return LossInfo(loss, {"policy_loss": policy_loss, "value_loss": value_loss})
