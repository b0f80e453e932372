"""Proximal policy optimisation: Schulman et al., "Proximal Policy Optimization Algorithms" (2017)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import gin
import torch

from alfish import nest, specs
from alfish.algorithms.algorithm import Algorithm
from alfish.data_structures import AlgStep, BatchInfo, LossInfo, Progress, RowsNeeded, StepType, TimeStep
from alfish.networks.actor_critic import ActorCriticNetwork
from alfish.ops.distributions import make_action_distribution
from alfish.ops.masking import masked_explained_variance, masked_means, masked_normalize
from alfish.ops.policy_losses import approximate_kl, clip_fraction, clipped_surrogate_loss
from alfish.ops.returns import generalized_advantage_estimate
from alfish.ops.schedules import Schedule, as_schedule
from alfish.ops.value_losses import clipped_squared_error, squared_error


class PPOInfo(NamedTuple):
    """What `rollout_step` stores for each row.

    Attributes:
        log_prob: `[B]`, of the action.
        value: `[B]`, V of the row's observation.
        sample: `[B, ...]`, the action before it was clipped to its bounds; `()` for actions that are never clipped.
    """

    log_prob: torch.Tensor
    value: torch.Tensor
    sample: nest.Nest = ()


class PPOTrainInfo(NamedTuple):
    """What `preprocess_experience` hands to `train_step`; `[B, T]`, or mini-batches of these rows, `[N]`.

    Attributes:
        sample: the action before it was clipped to its bounds.
        log_prob: of the sample, while collecting.
        value: V of the row, while collecting.
        advantage: the generalised advantage estimate, not normalised; 0 on LAST rows.
        returns: advantage + value, the target of the value.
    """

    sample: torch.Tensor
    log_prob: torch.Tensor
    value: torch.Tensor
    advantage: torch.Tensor
    returns: torch.Tensor


class PPOLossInfo(NamedTuple):
    """What `train_step` hands to `calc_loss`.

    Attributes:
        log_prob: of the sample now, with gradient.
        entropy: of the policy now, with gradient.
        value: V now, with gradient.
        collected: what was known before the update.
        is_valid: bool, False on LAST rows.
    """

    log_prob: torch.Tensor
    entropy: torch.Tensor
    value: torch.Tensor
    collected: PPOTrainInfo
    is_valid: torch.Tensor


@gin.configurable
class PPOAlgorithm(Algorithm):
    """PPO with a clipped surrogate objective and generalised advantage estimation, without recurrent state.

        loss = L_clip + value_loss_weight * L_value - entropy_weight * entropy

    (equation 9 of the paper; `docs/algorithms/ppo.md`.)

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one BoundedTensorSpec: a discrete choice, several, or a box.
        actor_critic: called with `observation_spec` and `action_spec`, returns a module that maps observations
            `[N, ...]` to the parameters of the action distribution `[N, P]` and values `[N]`.
        discount: gamma, in [0, 1], for each environment step.
        gae_lambda: lambda of the advantage estimate, in [0, 1].
        clip_ratio: epsilon of the surrogate objective, a number or a schedule over the run, above 0 at its start.
        value_loss_weight: c1 of equation 9; the value loss has no factor 1/2.
        entropy_weight: c2 of equation 9.
        normalize_advantage: to mean 0 and standard deviation 1 in each mini-batch, LAST rows left out.
        value_clip: how far the value may move from its estimate while collecting, in the units of the return; None for
            no limit.

    Raises:
        ValueError: an argument is out of its range, or the network does not fit the specs.
    """

    on_policy = True

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        actor_critic: Callable[..., torch.nn.Module] = ActorCriticNetwork,
        discount: float = 0.99,
        gae_lambda: float = 0.95,
        clip_ratio: float | Schedule = 0.2,
        value_loss_weight: float = 0.5,
        entropy_weight: float = 0.0,
        normalize_advantage: bool = True,
        value_clip: float | None = None,
    ):
        super().__init__(observation_spec, action_spec)
        _check_range("discount", discount, 0.0, 1.0)
        _check_range("gae_lambda", gae_lambda, 0.0, 1.0)
        _check_range("value_loss_weight", value_loss_weight, 0.0, math.inf)
        _check_range("entropy_weight", entropy_weight, 0.0, math.inf)
        self._discount = discount
        self._gae_lambda = gae_lambda
        self._value_loss_weight = value_loss_weight
        self._entropy_weight = entropy_weight
        self._normalize_advantage = normalize_advantage
        self._clip_schedule = as_schedule(clip_ratio, "PPOAlgorithm.clip_ratio")
        self._clip_ratio = self._clip_schedule(0.0)
        for name, bound in (("clip_ratio, at the start of the run,", self._clip_ratio), ("value_clip", value_clip)):
            if bound is not None and not 0.0 < bound < math.inf:
                raise ValueError(f"PPOAlgorithm.{name} is {bound}; expected a number above 0")
        self._value_clip = value_clip
        self.action_distribution = make_action_distribution(action_spec)
        self.actor_critic = _build(actor_critic, observation_spec, action_spec, self.action_distribution.num_parameters)

    def rows_needed(self) -> RowsNeeded:
        """The row after the window, whose value stands for the future of its last row."""
        return RowsNeeded(future=1, future_observations=1)

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """The most likely actions."""
        parameters, _ = self.actor_critic(time_step.observation)
        return AlgStep(self.action_distribution.clip(self.action_distribution.mode(parameters)), state)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """Sampled actions; `info` is a PPOInfo."""
        parameters, value = self.actor_critic(time_step.observation)
        distribution = self.action_distribution
        sample, log_prob = distribution.sample(parameters)
        if not distribution.clips:
            return AlgStep(sample, state, PPOInfo(log_prob, value))
        return AlgStep(distribution.clip(sample), state, PPOInfo(log_prob, value, sample))

    @torch.no_grad()
    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: PPOInfo, batch_info: BatchInfo
    ) -> tuple[TimeStep, PPOTrainInfo]:
        """Advantages and returns.

        The values of the rows 0 to T-1 are those of the rollout, whose weights have not changed since; the value of row
        T, which answered no action, is computed here. Episode ends: see `generalized_advantage_estimate`.

        Args:
            root_inputs: `[B, T+1]` rows.
            rollout_info: `[B, T]`.
            batch_info: `action` is `[B, T]`.

        Returns:
            The first T rows, and what `train_step` needs of them.
        """
        num_rows = root_inputs.reward.shape[1] - 1
        inputs, info, action = nest.map_structure(
            lambda leaf: leaf[:, :num_rows], (root_inputs, rollout_info, batch_info.action)
        )
        next_observation = nest.map_structure(lambda leaf: leaf[:, num_rows], root_inputs.observation)
        _, final_value = self.actor_critic(next_observation)
        advantage = generalized_advantage_estimate(
            root_inputs.reward,
            root_inputs.discount,
            torch.cat((info.value, final_value.unsqueeze(1)), dim=1),
            root_inputs.is_last(),
            self._discount,
            self._gae_lambda,
        )
        sample = info.sample if self.action_distribution.clips else action
        return inputs, PPOTrainInfo(sample, info.log_prob, info.value, advantage, advantage + info.value)

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: PPOTrainInfo) -> AlgStep:
        """The policy and the value of rows `[N]` now; `info` is a PPOLossInfo."""
        parameters, value = self.actor_critic(inputs.observation)
        log_prob, entropy = self.action_distribution.evaluate(parameters, rollout_info.sample)
        is_valid = inputs.step_type != StepType.LAST
        return AlgStep((), state, PPOLossInfo(log_prob, entropy, value, rollout_info, is_valid))

    def calc_loss(self, info: PPOLossInfo) -> LossInfo:
        """The loss of each row, LAST rows among them; they are left to the caller. `extra` holds means without them."""
        old = info.collected
        advantage = masked_normalize(old.advantage, info.is_valid) if self._normalize_advantage else old.advantage
        log_ratio = info.log_prob - old.log_prob
        ratio = log_ratio.exp()
        policy_loss = clipped_surrogate_loss(ratio, advantage, self._clip_ratio)
        if self._value_clip is None:
            value_loss = squared_error(info.value, old.returns)
        else:
            value_loss = clipped_squared_error(info.value, old.value, old.returns, self._value_clip)
        loss = torch.add(policy_loss, value_loss, alpha=self._value_loss_weight)
        if self._entropy_weight:
            loss = torch.sub(loss, info.entropy, alpha=self._entropy_weight)
        with torch.no_grad():
            metrics = {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": info.entropy,
                "approximate_kl": approximate_kl(log_ratio),
                "clip_fraction": clip_fraction(ratio, self._clip_ratio),
            }
            extra = masked_means(metrics, info.is_valid)
            extra["explained_variance"] = masked_explained_variance(old.value, old.returns, info.is_valid)
        return LossInfo(loss, extra)

    def after_train_iter(self, progress: Progress) -> None:
        """Sets the clip ratio of the next iteration."""
        self._clip_ratio = self._clip_schedule(progress.fraction)


def _check_range(name: str, value: float, minimum: float, maximum: float) -> None:
    if not (minimum <= value <= maximum and math.isfinite(value)):
        raise ValueError(f"PPOAlgorithm.{name} is {value}; expected a finite number in [{minimum}, {maximum}]")


def _build(
    actor_critic: Callable[..., torch.nn.Module],
    observation_spec: nest.Nest,
    action_spec: nest.Nest,
    num_parameters: int,
) -> torch.nn.Module:
    """Builds the network and tries it: values of shape `[N, 1]` would broadcast in the loss without an error."""
    if isinstance(actor_critic, torch.nn.Module):
        raise ValueError(
            f"PPOAlgorithm.actor_critic is a {type(actor_critic).__name__} that is already built; expected its "
            "constructor: in a gin file, write @ActorCriticNetwork without the parentheses"
        )
    network = actor_critic(observation_spec=observation_spec, action_spec=action_spec)
    with torch.no_grad():
        parameters, value = network(specs.zeros(observation_spec, (2,)))
    if parameters.shape != (2, num_parameters) or value.shape != (2,):
        raise ValueError(
            f"for 2 observations {type(network).__name__} returned parameters of shape {tuple(parameters.shape)} and "
            f"values of shape {tuple(value.shape)}; the action spec needs {(2, num_parameters)} and {(2,)}"
        )
    return network
