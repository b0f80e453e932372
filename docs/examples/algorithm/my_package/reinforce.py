"""REINFORCE with baseline: Sutton and Barto, "Reinforcement Learning" (2nd edition, 2018), section 13.4."""

from collections.abc import Callable
from typing import NamedTuple

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.data_structures import AlgStep, BatchInfo, LossInfo, RowsNeeded, TimeStep
from alfish.networks.actor_critic import ActorCriticNetwork
from alfish.ops.distributions import Categorical
from alfish.ops.returns import discounted_return


class Targets(NamedTuple):
    """What a row is trained on: its action, the return after it, and by how much that beat the baseline."""

    action: torch.Tensor
    returns: torch.Tensor
    advantage: torch.Tensor


class Prediction(NamedTuple):
    """What the network says now, with gradient, and what it is trained on."""

    log_prob: torch.Tensor
    baseline: torch.Tensor
    targets: Targets


@gin.configurable
class ReinforceAlgorithm(Algorithm):
    """Makes an action likelier the more its return beat the baseline, an estimate of the return.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one discrete choice of A.
        network: called with both specs; the module maps observations to logits `[..., A]` and the baseline `[...]`.
        discount: gamma, in [0, 1], for each environment step.
        baseline_weight: of the baseline's squared error in the loss.

    Raises:
        ValueError: the action is not one discrete choice, or `discount` is out of range.
    """

    on_policy = True

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        network: Callable[..., torch.nn.Module] = ActorCriticNetwork,
        discount: float = gin.REQUIRED,
        baseline_weight: float = 0.5,
    ):
        super().__init__(observation_spec, action_spec)
        if not 0.0 <= discount <= 1.0:
            raise ValueError(f"ReinforceAlgorithm.discount is {discount}; expected a number in [0, 1]")
        self._discount = discount
        self._baseline_weight = baseline_weight
        self.network = network(observation_spec, action_spec)
        self.action_distribution = Categorical(action_spec)

    def rows_needed(self) -> RowsNeeded:
        return RowsNeeded(future=1, future_observations=1)

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        logits, _ = self.network(time_step.observation)
        return AlgStep(self.action_distribution.mode(logits), state)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        logits, _ = self.network(time_step.observation)
        action, _ = self.action_distribution.sample(logits)
        return AlgStep(action, state)

    @torch.no_grad()
    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: nest.Nest, batch_info: BatchInfo
    ) -> tuple[TimeStep, Targets]:
        _, baseline = self.network(root_inputs.observation)
        returns = discounted_return(
            root_inputs.reward, root_inputs.discount, baseline, root_inputs.is_last(), self._discount
        )
        inputs = nest.map_structure(lambda leaf: leaf[:, :-1], root_inputs)
        return inputs, Targets(batch_info.action, returns, returns - baseline[:, :-1])

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: Targets) -> AlgStep:
        logits, baseline = self.network(inputs.observation)
        log_prob, _ = self.action_distribution.evaluate(logits, rollout_info.action)
        return AlgStep((), state, Prediction(log_prob, baseline, rollout_info))

    def calc_loss(self, info: Prediction) -> LossInfo:
        policy_loss = -info.targets.advantage * info.log_prob
        baseline_loss = (info.targets.returns - info.baseline).square()
        loss = policy_loss + self._baseline_weight * baseline_loss
        return LossInfo(loss, {"policy_loss": policy_loss, "baseline_loss": baseline_loss})
