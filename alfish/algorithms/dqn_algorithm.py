"""Deep Q learning: Mnih et al., "Human-level control through deep reinforcement learning" (2015), and what followed."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.legal_masks import LegalMask, mask_if_any
from alfish.algorithms.q_function import QFunction, make_q_function
from alfish.checks import check_above, check_at_least, check_in_range, check_made
from alfish.data_structures import AlgStep, BatchInfo, LossInfo, Progress, RowsNeeded, TimeStep
from alfish.networks.encoders import Encoder, IdentityEncoder
from alfish.networks.q_network import QNetwork
from alfish.ops.block_rows import bootstrap_rows, ends_at_newest, episode_end_rows, take_rows
from alfish.ops.masking import masked_means
from alfish.ops.off_policy_returns import double_q_target
from alfish.ops.replay_priorities import max_mean_priority
from alfish.ops.returns import bootstrapped_return
from alfish.ops.schedules import Schedule, as_schedule
from alfish.ops.target_updates import TargetUpdate, check_target_update
from alfish.ops.value_losses import huber_loss, squared_error
from alfish.ops.value_transforms import IdentityTransform, ValueTransform


class DQNInfo(NamedTuple):
    """What `rollout_step` stores for each row.

    Attributes:
        value: `[B]`, the largest Q of the row's legal actions, as a return; for a representation that is learned beside
            (`docs/algorithms/representation_learner.md`); DQN itself does not read it.
    """

    value: torch.Tensor


class DQNTrainInfo(NamedTuple):
    """What `preprocess_experience` hands to `train_step`, `[B, T]` but for the state.

    Attributes:
        action: int64, the number of the action, from 0.
        target: of Q, on the scale that the network works on.
        is_known: bool, False for the newest row of an episode that goes on: what its action led to is not stored yet.
        state: `[B, ...]`, the recurrent state behind the burn-in; `()` without one.
    """

    action: torch.Tensor
    target: torch.Tensor
    is_known: torch.Tensor
    state: nest.Nest = ()


class DQNLossInfo(NamedTuple):
    """What `train_step` hands to `calc_loss`.

    Attributes:
        q_value: of the action now, with gradient.
        target: see DQNTrainInfo.
        is_known: see DQNTrainInfo.
        is_trained: bool, False on LAST rows and where the target is not known.
    """

    q_value: torch.Tensor
    target: torch.Tensor
    is_known: torch.Tensor
    is_trained: torch.Tensor


_NO_TRANSFORM = IdentityTransform()


@gin.configurable
class DQNAlgorithm(Algorithm):
    """Q learning from a replay buffer with a target network, for one discrete choice.

    Double (van Hasselt et al. 2016), duelling by its network (Wang et al. 2016), n-step (Sutton 1988; Hessel et al.
    2018), prioritised (Schaul et al. 2016) and recurrent (R2D2, Kapturowski et al. 2019): `docs/algorithms/dqn.md`.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one discrete choice of A.
        q_network: called with the `observation_spec` that the encoder gives and with `action_spec`, returns a module
            that maps features `[N, ...]` to Q, `[N, A]`: `@QNetwork` or `@DuellingQNetwork`.
        encoder: called with `observation_spec`, returns what stands before it; with memory, the algorithm is recurrent.
        discount: gamma, in [0, 1], for each environment step.
        num_steps: n of the n-step targets, at least 1. They are not corrected for the policy having changed.
        double: the network that learns chooses the action whose target value counts.
        epsilon: how often an action is drawn from all legal ones while collecting, in [0, 1]; a number, or a schedule
            over the run.
        target_update: when the target network follows, `@TargetUpdate()`.
        huber_threshold: errors are squared up to here and linear beyond, above 0; None squares them all.
        value_transform: the network works on transformed returns, `@SignedHyperbolicTransform()`, for rewards of any
            size (Pohlen et al. 2018; R2D2).
        prioritized: gives priorities, for a sampler that draws by them (`@PrioritizedSampler()`).
        max_priority_share: eta of R2D2, how much the largest error of a segment counts against the mean one, in [0, 1];
            without effect on segments of one row.
        burn_in: so many rows at the start of each segment are not trained on: the stored state, which an old network
            made, is brought up to date there (R2D2). At least 0, and below `ReplayBatches.segment_length`.
        legal_mask_key: where the observation is a dict, the entry `[A]` that is nonzero for legal actions. The network
            sees the whole observation. None: all actions are legal.

    Attributes:
        online: the encoder and the network that learn.
        target: their slow copies.

    Raises:
        ValueError: the actions are not one discrete choice, an argument is out of its range, or parts do not fit.
    """

    needs_replay = True
    priority_settings = ("DQNAlgorithm.prioritized = True", "DQNAlgorithm.prioritized = False")

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        q_network: Callable[..., torch.nn.Module] = QNetwork,
        encoder: Callable[..., Encoder] = IdentityEncoder,
        discount: float = 0.99,
        num_steps: int = 1,
        double: bool = True,
        epsilon: float | Schedule = gin.REQUIRED,
        target_update: TargetUpdate = gin.REQUIRED,
        huber_threshold: float | None = 1.0,
        value_transform: ValueTransform = _NO_TRANSFORM,
        prioritized: bool = False,
        max_priority_share: float = 0.9,
        burn_in: int = 0,
        legal_mask_key: str | None = None,
    ):
        super().__init__(observation_spec, action_spec)
        self.online = make_q_function("DQNAlgorithm", observation_spec, action_spec, q_network, encoder)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.legal_mask = LegalMask(legal_mask_key, observation_spec, action_spec, "DQNAlgorithm")
        check_in_range("DQNAlgorithm.discount", discount, 0.0, 1.0)
        check_in_range("DQNAlgorithm.max_priority_share", max_priority_share, 0.0, 1.0)
        if huber_threshold is not None:
            check_above("DQNAlgorithm.huber_threshold", huber_threshold, 0.0)
        check_at_least("DQNAlgorithm.num_steps", num_steps, 1)
        check_at_least("DQNAlgorithm.burn_in", burn_in, 0)
        check_target_update("DQNAlgorithm.target_update", target_update)
        is_transform = hasattr(value_transform, "forward") and hasattr(value_transform, "inverse")
        check_made("DQNAlgorithm.value_transform", value_transform, is_transform, "@SignedHyperbolicTransform()")
        self._is_recurrent = bool(nest.leaves(self.initial_state(1)))
        if burn_in and not self._is_recurrent:
            raise ValueError(
                f"DQNAlgorithm.burn_in is {burn_in}, but {type(self.online.encoder).__name__} has no memory that could "
                "be brought up to date; set burn_in = 0, or bind DQNAlgorithm.encoder = @RecurrentEncoder"
            )
        self._discount = discount
        self._num_steps = num_steps
        self._double = double
        self._epsilon_schedule = as_schedule(epsilon, "DQNAlgorithm.epsilon", minimum=0.0, maximum=1.0)
        self._epsilon = self._epsilon_schedule(0.0)
        self._target_update = target_update
        self._huber_threshold = huber_threshold
        self._value_transform = value_transform
        self._max_priority_share = max_priority_share
        self.burn_in = burn_in
        self._first_action = int(action_spec.minimum)
        self.gives_priorities = prioritized

    def rows_needed(self) -> RowsNeeded:
        """The n rows after the segment, whose observations the values behind the rewards are of."""
        return RowsNeeded(future=self._num_steps, future_observations=self._num_steps)

    def initial_state(self, batch_size: int) -> nest.Nest:
        """The encoder's."""
        return self.online.encoder.initial_state(batch_size)

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """The legal actions of the largest Q."""
        q_values, _, state = self._legal_q_values(time_step, state)
        return AlgStep(self._to_environment(q_values.argmax(dim=-1)), state)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """Epsilon-greedy legal actions; `info` is a DQNInfo."""
        q_values, legal, state = self._legal_q_values(time_step, state)
        value, greedy = q_values.max(dim=-1)
        # The largest of independent uniform numbers is equally likely each of the legal ones.
        drawn = mask_if_any(torch.rand_like(q_values), legal).argmax(dim=-1)
        explores = torch.rand_like(value) < self._epsilon
        action = self._to_environment(torch.where(explores, drawn, greedy))
        return AlgStep(action, state, DQNInfo(self._value_transform.inverse(value)))

    @torch.no_grad()
    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: nest.Nest, batch_info: BatchInfo
    ) -> tuple[TimeStep, DQNTrainInfo]:
        """Targets; with a burn-in also the state behind it.

            target[t] = h(r[t+1] + ... + gamma^{m-1} r[t+m] + gamma^m h^-1(Q_target(s[t+m], a*)))

        where m is n, or less where the episode ends, or is known, only so far; each gamma is multiplied by the
        environment's discount; h is `value_transform`; a* has the largest Q, of the network that learns if `double`.
        Ends of episodes: after a termination the discount is 0 and nothing is bootstrapped, at a truncation the LAST
        row's value stands for what was lost. The target of a LAST row means nothing.

        Args:
            root_inputs: `[B, T + n]` rows.
            rollout_info: not read.
            batch_info: `action`, `position`, and with memory `state`.

        Returns:
            The T rows without the burn-in, and what `train_step` needs of them.
        """
        del rollout_info
        num_rows = root_inputs.reward.shape[1] - self._num_steps
        is_last = root_inputs.is_last()
        end_row = episode_end_rows(is_last, batch_info.position)
        last = bootstrap_rows(end_row, self._num_steps, num_rows)
        steps = last - torch.arange(num_rows, device=last.device)
        value = self._value_transform.inverse(self._bootstrap_value(root_inputs, batch_info.state, last))
        value = torch.zeros_like(root_inputs.reward).scatter(1, last, value)
        returns = bootstrapped_return(
            root_inputs.reward, root_inputs.discount, value, steps, self._discount, self._num_steps
        )
        info = DQNTrainInfo(
            (batch_info.action[:, :num_rows] - self._first_action).long(),
            self._value_transform.forward(returns),
            ~ends_at_newest(is_last, batch_info.position)[:, :num_rows],
        )
        trained = slice(self.burn_in, num_rows)
        inputs, info = nest.map_structure(lambda leaf: leaf[:, trained], (root_inputs, info))
        if self.burn_in:
            info = info._replace(state=self.online.state_after(root_inputs, batch_info.state, self.burn_in))
        return inputs, info

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: DQNTrainInfo) -> AlgStep:
        """Q of the actions now; `info` is a DQNLossInfo. Rows `[N]`, or with memory `[B, T]`."""
        q_values = self.online(inputs, rollout_info.state if self.burn_in else state)
        q_value = q_values.gather(-1, rollout_info.action.unsqueeze(-1)).squeeze(-1)
        is_trained = rollout_info.is_known & ~inputs.is_last()
        return AlgStep((), state, DQNLossInfo(q_value, rollout_info.target, rollout_info.is_known, is_trained))

    def calc_loss(self, info: DQNLossInfo) -> LossInfo:
        """The loss of each row, 0 where it is not trained on; `extra` holds means over the others."""
        if self._huber_threshold is None:
            loss = 0.5 * squared_error(info.q_value, info.target)
        else:
            loss = huber_loss(info.q_value, info.target, self._huber_threshold)
        with torch.no_grad():
            td_error = (info.target - info.q_value).abs()
            metrics = {"q_value": info.q_value, "target": info.target, "absolute_td_error": td_error}
            extra = masked_means(metrics, info.is_trained)
            extra["epsilon"] = torch.full_like(extra["q_value"], self._epsilon)
            priority = self._priority(td_error, info) if self.gives_priorities else ()
        return LossInfo(torch.where(info.is_trained, loss, 0.0), extra, priority)

    def after_update(self, progress: Progress) -> None:
        """Lets the target network follow."""
        self._target_update(self.target, self.online, progress.updates)

    def after_train_iter(self, progress: Progress) -> None:
        """Sets epsilon for the next iteration."""
        self._epsilon = self._epsilon_schedule(progress.fraction)

    def _legal_q_values(
        self, time_step: TimeStep, state: nest.Nest
    ) -> tuple[torch.Tensor, torch.Tensor | None, nest.Nest]:
        """Q of rows `[B]` with illegal actions far below all others, the mask, and the next state."""
        legal = self.legal_mask.checked(time_step)
        features, state = self.online.encoder.step(time_step.observation, state)
        return mask_if_any(self.online.q_network(features), legal), legal, state

    def _to_environment(self, action: torch.Tensor) -> torch.Tensor:
        return (action + self._first_action).to(self.action_spec.dtype)

    def _bootstrap_value(self, rows: TimeStep, state: nest.Nest, last: torch.Tensor) -> torch.Tensor:
        """The value `[B, T]` of the rows `last` `[B, T]`, as the network works on it."""
        ends = rows._replace(
            step_type=take_rows(rows.step_type, last),
            observation=nest.map_structure(lambda leaf: take_rows(leaf, last), rows.observation),
        )
        legal = self.legal_mask.read(ends)

        def q_values(function: QFunction) -> torch.Tensor:
            # Without memory only the rows that are asked for; with it, all of them lead there.
            if not self._is_recurrent:
                return function(ends, ())
            return take_rows(function(rows, state), last)

        q_target = q_values(self.target)
        return double_q_target(q_values(self.online) if self._double else q_target, q_target, legal)

    def _priority(self, td_error: torch.Tensor, info: DQNLossInfo) -> torch.Tensor:
        priority = max_mean_priority(td_error, info.is_trained, self._max_priority_share)
        # A segment of nothing but the newest row keeps being drawn until its transition is known.
        waits = (~info.is_known).any(dim=1) & ~info.is_trained.any(dim=1)
        return torch.where(waits, priority.max(), priority)
