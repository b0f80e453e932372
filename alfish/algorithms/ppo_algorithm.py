"""Proximal policy optimisation: Schulman et al., "Proximal Policy Optimization Algorithms" (2017)."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.stochastic_policy import PolicyInfo, StochasticPolicy, split_window
from alfish.checks import check_above, check_in_range
from alfish.data_structures import AlgStep, BatchInfo, LossInfo, Progress, RowsNeeded, TimeStep
from alfish.networks.actor_critic import ActorCriticNetwork
from alfish.networks.encoders import Encoder, IdentityEncoder
from alfish.ops.distributions import BoxDistribution
from alfish.ops.masking import masked_explained_variance, masked_means, masked_normalize
from alfish.ops.policy_losses import approximate_kl, clip_fraction, clipped_surrogate_loss
from alfish.ops.returns import generalized_advantage_estimate
from alfish.ops.schedules import Schedule, as_schedule
from alfish.ops.value_losses import clipped_squared_error, squared_error


class PPOTrainInfo(NamedTuple):
    """What `preprocess_experience` hands to `train_step`; `[B, T]`, or mini-batches of these rows.

    Attributes:
        sample: a nest, the action before it was clipped to its bounds.
        log_prob: of the sample, while collecting.
        value: V of the row, while collecting.
        advantage: the generalised advantage estimate, not normalised; 0 on LAST rows.
        returns: advantage + value, the target of the value.
    """

    sample: nest.Nest
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
    """PPO with a clipped surrogate objective and generalised advantage estimation.

        loss = L_clip + value_loss_weight * L_value - entropy_weight * entropy

    (equation 9 of the paper; `docs/algorithms/ppo.md`.)

    With a recurrent encoder it trains on sequences, each from the state as it was stored before its first row; the
    values and advantages are those of the rollout.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: a BoundedTensorSpec, a discrete choice, several, or a box; or a nest of them.
        actor_critic: called with the `observation_spec` of the encoder's features and `action_spec`, returns a module
            that maps features `[N, ...]` to the parameters of the action distribution `[N, P]` and values `[N]`.
        discount: gamma, in [0, 1], for each environment step.
        gae_lambda: lambda of the advantage estimate, in [0, 1].
        clip_ratio: epsilon of the surrogate objective, a number or a schedule over the run, above 0 at its start
            and in [0, 1] throughout.
        value_loss_weight: c1 of equation 9; the value loss has no factor 1/2.
        entropy_weight: c2 of equation 9, a number or a schedule over the run, nowhere below 0.
        normalize_advantage: to mean 0 and standard deviation 1 in each mini-batch, LAST rows left out.
        value_clip: how far the value may move from its estimate while collecting, in the units of the return; None for
            no limit.
        target_kl: the rest of a window's mini-batches is left out once the approximate KL of an update, the mean of
            its rows in nats, is larger; None for no such limit.
        encoder: makes what stands between the observation and the network, with or without memory.
        box_distribution: the family of floating-point actions.
        legal_mask_key: where the observation is a dict, its entry that is nonzero for legal actions; see LegalMask.

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
        entropy_weight: float | Schedule = 0.0,
        normalize_advantage: bool = True,
        value_clip: float | None = None,
        target_kl: float | None = None,
        encoder: Callable[..., Encoder] = IdentityEncoder,
        box_distribution: BoxDistribution = "normal",
        legal_mask_key: str | None = None,
    ):
        super().__init__(observation_spec, action_spec)
        check_in_range("PPOAlgorithm.discount", discount, 0.0, 1.0)
        check_in_range("PPOAlgorithm.gae_lambda", gae_lambda, 0.0, 1.0)
        check_in_range("PPOAlgorithm.value_loss_weight", value_loss_weight, 0.0)
        self._discount = discount
        self._gae_lambda = gae_lambda
        self._value_loss_weight = value_loss_weight
        self._normalize_advantage = normalize_advantage
        self._clip_schedule = as_schedule(clip_ratio, "PPOAlgorithm.clip_ratio", minimum=0.0, maximum=1.0)
        self._entropy_schedule = as_schedule(entropy_weight, "PPOAlgorithm.entropy_weight", minimum=0.0)
        self.after_train_iter(Progress())
        bounds = {"clip_ratio, at the start of the run,": self._clip_ratio, "value_clip": value_clip}
        for name, bound in (bounds | {"target_kl": target_kl}).items():
            if bound is not None:
                check_above(f"PPOAlgorithm.{name}", bound, 0.0)
        self._value_clip = value_clip
        self._target_kl = target_kl
        self.may_stop_early = target_kl is not None
        self.policy = StochasticPolicy(
            observation_spec,
            action_spec,
            encoder,
            actor_critic,
            box_distribution,
            legal_mask_key,
            owner="PPOAlgorithm",
            network_setting="actor_critic",
        )

    def rows_needed(self) -> RowsNeeded:
        """The row after the window, whose value stands for the future of its last row."""
        return RowsNeeded(future=1, future_observations=1)

    def initial_state(self, batch_size: int) -> nest.Nest:
        """The encoder's."""
        return self.policy.initial_state(batch_size)

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """The most likely actions."""
        return self.policy.predict(time_step, state)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """Sampled actions; `info` is a PolicyInfo."""
        return self.policy.rollout(time_step, state)

    @torch.no_grad()
    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: PolicyInfo, batch_info: BatchInfo
    ) -> tuple[TimeStep, PPOTrainInfo]:
        """Advantages and returns.

        The values of the rows 0 to T-1 are those of the rollout; the value of row T, which answered no action, is
        computed here, by the same weights unless an engine collected the window while they were trained. Episode ends:
        see `generalized_advantage_estimate`.

        Args:
            root_inputs: `[B, T+1]` rows.
            rollout_info: `[B, T]`.
            batch_info: `action` is `[B, T]`.

        Returns:
            The first T rows, and what `train_step` needs of them.
        """
        collected = split_window(self.policy, root_inputs, rollout_info, batch_info)
        value = rollout_info.value[:, : collected.inputs.reward.shape[1]]
        final_value = self._final_value(root_inputs, batch_info.state)
        advantage = generalized_advantage_estimate(
            root_inputs.reward,
            root_inputs.discount,
            torch.cat((value, final_value.unsqueeze(1)), dim=1),
            root_inputs.is_last(),
            self._discount,
            self._gae_lambda,
        )
        info = PPOTrainInfo(collected.sample, collected.log_prob, value, advantage, advantage + value)
        return collected.inputs, info

    def _final_value(self, rows: TimeStep, state: nest.Nest) -> torch.Tensor:
        """V of the last row `[B]`; with a memory, all rows are needed for it."""
        if nest.leaves(state):
            return self.policy.unroll(rows, state)[1][:, -1]
        return self.policy.unroll(nest.map_structure(lambda leaf: leaf[:, -1], rows), ())[1]

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: PPOTrainInfo) -> AlgStep:
        """The policy and the value of rows `[N]`, or of sequences `[B, T]`, now; `info` is a PPOLossInfo."""
        log_prob, entropy, value, is_valid = self.policy.evaluate(inputs, state, rollout_info.sample)
        return AlgStep((), (), PPOLossInfo(log_prob, entropy, value, rollout_info, is_valid))

    def calc_loss(self, info: PPOLossInfo) -> LossInfo:
        """The loss of each row, LAST rows among them; they are left to the caller. `extra` holds means without them."""
        old = info.collected
        advantage = masked_normalize(old.advantage, info.is_valid) if self._normalize_advantage else old.advantage
        # Of LAST rows, which answered no action, the ratio may overflow: a masked infinity still has a gradient of NaN.
        log_ratio = torch.where(info.is_valid, info.log_prob - old.log_prob, 0.0)
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

    def stops_early(self, metrics: Mapping[str, torch.Tensor | float]) -> bool:
        """Whether the policy has moved further from the one that collected than `target_kl`."""
        assert self._target_kl is not None
        return float(metrics["approximate_kl"]) > self._target_kl

    def after_train_iter(self, progress: Progress) -> None:
        """Sets the clip ratio and the weight of the entropy of the next iteration."""
        self._clip_ratio = self._clip_schedule(progress.fraction)
        self._entropy_weight = self._entropy_schedule(progress.fraction)
