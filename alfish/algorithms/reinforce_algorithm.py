"""REINFORCE, with an optional baseline and importance weights for actions of a slightly older policy.

Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning" (1992).
"""

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
from alfish.ops.off_policy_returns import importance_weights
from alfish.ops.returns import discounted_return
from alfish.ops.schedules import Schedule, as_schedule


@gin.configurable
class ReinforceAlgorithm(Algorithm):
    """Makes an action likelier the more its return beat the baseline, an estimate of the return.

        loss = -min(pi / mu, max_importance_weight) (G - b) log pi + value_loss_weight (b - G)^2 - entropy_weight H(pi)

    G is the discounted sum of the rewards to the end of the episode, as far as the window holds it; mu is the policy
    that collected (`docs/algorithms/reinforce.md`). A network that returns no value gives REINFORCE without a baseline.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: nest of BoundedTensorSpec: discrete choices, boxes, or several of them.
        network: called with `observation_spec` and `action_spec`, returns a module that maps observations `[N, ...]` to
            the parameters of the action distribution `[N, P]` and the baseline `[N]`; or to the parameters alone.
        encoder: makes what stands between the observation and the network, with or without memory.
        discount: gamma, in [0, 1], for each environment step.
        value_loss_weight: of the baseline's squared error; without effect if there is no baseline.
        entropy_weight: of the entropy bonus, a number or a schedule over the run, at least 0.
        max_importance_weight: the most that pi / mu counts, above 0; it is 1 while nothing has been learned since.
        normalize_advantage: G - b to mean 0 and standard deviation 1 in each mini-batch, LAST rows left out.
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
        network: Callable[..., torch.nn.Module] = ActorCriticNetwork,
        encoder: Callable[..., Encoder] = IdentityEncoder,
        discount: float = gin.REQUIRED,
        value_loss_weight: float = 0.5,
        entropy_weight: float | Schedule = 0.0,
        max_importance_weight: float = 1.0,
        normalize_advantage: bool = False,
        box_distribution: BoxDistribution = "normal",
        legal_mask_key: str | None = None,
    ):
        super().__init__(observation_spec, action_spec)
        check_in_range("ReinforceAlgorithm.discount", discount, 0.0, 1.0)
        check_in_range("ReinforceAlgorithm.value_loss_weight", value_loss_weight, 0.0)
        check_above("ReinforceAlgorithm.max_importance_weight", max_importance_weight, 0.0)
        self._discount = discount
        self._entropy_schedule = as_schedule(entropy_weight, "ReinforceAlgorithm.entropy_weight", minimum=0.0)
        self._weights = LossWeights(value_loss_weight, self._entropy_schedule(0.0), normalize_advantage)
        self._max_importance_weight = max_importance_weight
        self.policy = StochasticPolicy(
            observation_spec,
            action_spec,
            encoder,
            network,
            box_distribution,
            legal_mask_key,
            owner="ReinforceAlgorithm",
            network_setting="network",
            needs_value=False,
        )

    def rows_needed(self) -> RowsNeeded:
        """The row after the window: its reward, and its observation, whose value stands for what comes later."""
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
        """Returns to the end of the episode, and what they are above the baseline as it is now.

        Where the window ends inside an episode, and where a time limit cut it, the baseline of the last row stands for
        what comes later; without a baseline nothing does. See `discounted_return`.

        Args:
            root_inputs: `[B, T+1]` rows.
            rollout_info: `[B, T]`.
            batch_info: `action` is `[B, T]`.

        Returns:
            The first T rows, and what `train_step` needs of them.
        """
        window = split_window(self.policy, root_inputs, rollout_info, batch_info)
        baseline: nest.Nest = ()
        if self.policy.has_value:
            _, baseline = self.policy.unroll(root_inputs, batch_info.state)
        returns = discounted_return(
            root_inputs.reward,
            root_inputs.discount,
            baseline if self.policy.has_value else torch.zeros_like(root_inputs.reward),
            root_inputs.is_last(),
            self._discount,
        )
        if not self.policy.has_value:
            return window.inputs, PolicyTargets(window.sample, window.log_prob, returns)
        value = baseline[:, :-1]
        return window.inputs, PolicyTargets(window.sample, window.log_prob, returns - value, value, returns)

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: PolicyTargets) -> AlgStep:
        """What the policy says now of the rows; `info` is a PolicyLossInfo."""
        now = self.policy.evaluate(inputs, state, rollout_info.sample)
        return AlgStep((), (), PolicyLossInfo(now, rollout_info))

    def calc_loss(self, info: PolicyLossInfo) -> LossInfo:
        """The loss of each row, LAST rows among them; they are left to the caller. `extra` holds means without them."""
        return weighted_policy_loss(
            info, importance_weights(info.log_ratio, self._max_importance_weight), self._weights
        )

    def after_train_iter(self, progress: Progress) -> None:
        """Sets the entropy weight of the next iteration."""
        self._weights = self._weights._replace(entropy=self._entropy_schedule(progress.fraction))
