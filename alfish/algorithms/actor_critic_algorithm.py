"""The advantage actor-critic: A2C (Mnih et al. 2016); for data of an older policy, V-trace (Espeholt et al. 2018)."""

from collections.abc import Callable

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.policy_gradient import LossWeights, PolicyLossInfo, PolicyTargets, weighted_policy_loss
from alfish.algorithms.stochastic_policy import PolicyInfo, StochasticPolicy, split_window
from alfish.checks import check_above, check_in_range
from alfish.data_structures import AlgStep, BatchInfo, LossInfo, Progress, RowsNeeded, TimeStep
from alfish.networks.actor_critic import ActorCriticNetwork
from alfish.networks.encoders import Encoder, IdentityEncoder
from alfish.ops.distributions import BoxDistribution
from alfish.ops.off_policy_returns import v_trace
from alfish.ops.schedules import Schedule, as_schedule


@gin.configurable
class ActorCriticAlgorithm(Algorithm):
    """Makes an action likelier the more it was worth than expected, as a value says that is learned beside the policy.

        loss = -A log pi + value_loss_weight (V - v)^2 - entropy_weight H(pi)

    A and v are those of `v_trace`, from the policy and the value as they are when a window arrives. On a window that
    the same policy collected this is A2C with λ-returns; on an older one, as engines in other processes hand it over,
    V-trace corrects for the difference (`docs/algorithms/actor_critic.md`). A window is meant for one pass.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: nest of BoundedTensorSpec: discrete choices, boxes, or several of them.
        actor_critic: called with `observation_spec` and `action_spec`, returns a module that maps observations
            `[N, ...]` to the parameters of the action distribution `[N, P]` and values `[N]`.
        encoder: makes what stands between the observation and the network, with or without memory.
        discount: gamma, in [0, 1], for each environment step.
        v_trace_lambda: λ in [0, 1]; 1 gives A2C's returns over the window, and IMPALA's V-trace.
        max_rho: limit of the weights of temporal differences and of A, at least 1.
        max_c: limit of the weights of the trace, in (0, max_rho].
        value_loss_weight: of the squared error of the value, which has no factor 1/2.
        entropy_weight: of the entropy bonus, a number or a schedule over the run, at least 0.
        normalize_advantage: A to mean 0 and standard deviation 1 in each mini-batch, LAST rows left out.
        box_distribution: the family of floating-point actions.
        legal_mask_key: where the observation is a dict, the entry `[B, A]` that is nonzero for legal actions of one
            discrete choice. None: all actions are legal.

    Raises:
        ValueError: an argument is out of its range, or the network does not fit the specs.
    """

    on_policy = True

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        actor_critic: Callable[..., torch.nn.Module] = ActorCriticNetwork,
        encoder: Callable[..., Encoder] = IdentityEncoder,
        discount: float = gin.REQUIRED,
        v_trace_lambda: float = 1.0,
        max_rho: float = 1.0,
        max_c: float = 1.0,
        value_loss_weight: float = 0.5,
        entropy_weight: float | Schedule = 0.0,
        normalize_advantage: bool = False,
        box_distribution: BoxDistribution = "normal",
        legal_mask_key: str | None = None,
    ):
        super().__init__(observation_spec, action_spec)
        check_in_range("ActorCriticAlgorithm.discount", discount, 0.0, 1.0)
        check_in_range("ActorCriticAlgorithm.v_trace_lambda", v_trace_lambda, 0.0, 1.0)
        check_in_range("ActorCriticAlgorithm.value_loss_weight", value_loss_weight, 0.0)
        check_in_range("ActorCriticAlgorithm.max_rho", max_rho, 1.0)
        check_above("ActorCriticAlgorithm.max_c", max_c, 0.0)
        if max_c > max_rho:
            raise ValueError(f"ActorCriticAlgorithm.max_c is {max_c}; expected at most max_rho, {max_rho} here")
        self._discount = discount
        self._v_trace_lambda = v_trace_lambda
        self._max_rho = max_rho
        self._max_c = max_c
        self._entropy_schedule = as_schedule(entropy_weight, "ActorCriticAlgorithm.entropy_weight", minimum=0.0)
        self._weights = LossWeights(value_loss_weight, self._entropy_schedule(0.0), normalize_advantage)
        self.policy = StochasticPolicy(
            observation_spec,
            action_spec,
            encoder,
            actor_critic,
            box_distribution,
            legal_mask_key,
            owner="ActorCriticAlgorithm",
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
        """Actions that are drawn; `info` is a PolicyInfo."""
        return self.policy.rollout(time_step, state)

    @torch.no_grad()
    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: PolicyInfo, batch_info: BatchInfo
    ) -> tuple[TimeStep, PolicyTargets]:
        """Value targets and advantages by V-trace, from the policy and the value as they are now.

        Args:
            root_inputs: `[B, T+1]` rows.
            rollout_info: `[B, T]`.
            batch_info: `action` is `[B, T]`.

        Returns:
            The first T rows, and what `train_step` needs of them.
        """
        window = split_window(self.policy, root_inputs, rollout_info, batch_info)
        parameters, value = self.policy.unroll(root_inputs, batch_info.state)
        log_prob, _ = self.policy.distribution.evaluate(parameters[:, :-1], window.sample)
        value_target, advantage = v_trace(
            root_inputs.reward,
            root_inputs.discount,
            value,
            root_inputs.is_last(),
            log_prob - window.log_prob,
            self._discount,
            self._max_rho,
            self._max_c,
            self._v_trace_lambda,
        )
        return window.inputs, PolicyTargets(window.sample, window.log_prob, advantage, value[:, :-1], value_target)

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: PolicyTargets) -> AlgStep:
        """What the policy and the value say now of the rows; `info` is a PolicyLossInfo."""
        now = self.policy.evaluate(inputs, state, rollout_info.sample)
        return AlgStep((), (), PolicyLossInfo(now, rollout_info))

    def calc_loss(self, info: PolicyLossInfo) -> LossInfo:
        """The loss of each row, LAST rows among them; they are left to the caller. `extra` holds means without them."""
        return weighted_policy_loss(info, None, self._weights)  # V-trace's advantage has its importance weight

    def after_train_iter(self, progress: Progress) -> None:
        """Sets the entropy weight of the next iteration."""
        self._weights = self._weights._replace(entropy=self._entropy_schedule(progress.fraction))
