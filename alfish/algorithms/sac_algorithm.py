"""Soft actor-critic: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018b).

Of discrete actions: Christodoulou, "Soft Actor-Critic for Discrete Action Settings" (2019).
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.legal_masks import LegalMask
from alfish.algorithms.soft_policies import (
    Expected,
    SoftBoxPolicy,
    SoftDiscretePolicy,
    SoftPolicy,
    Trained,
    detached,
)
from alfish.checks import check_above, check_at_least, check_in_range
from alfish.data_structures import AlgStep, BatchInfo, LossInfo, Progress, RowsNeeded, TimeStep
from alfish.networks.actor import ActorNetwork
from alfish.networks.critics import CriticsNetwork
from alfish.networks.encoders import Encoder, IdentityEncoder, on_rows, unroll_rows
from alfish.networks.network_checks import build_encoder, build_network, check_outputs, takes_argument
from alfish.ops.block_rows import ends_at_newest
from alfish.ops.distributions import BoxDistribution
from alfish.ops.masking import masked_means
from alfish.ops.off_policy_returns import one_step_target, soft_value
from alfish.ops.policy_losses import soft_actor_loss, temperature_loss
from alfish.ops.target_updates import TargetUpdate, check_target_update
from alfish.ops.value_losses import squared_error
from alfish.specs import is_choice

_MAX_TEMPERATURE = 1.0e9
"""Beyond, the squares of values in float32 soon overflow."""


class SACInfo(NamedTuple):
    """What `rollout_step` stores for each row.

    Attributes:
        value: `[B]`, the soft value of the row: the smallest Q of an action drawn from the policy plus the entropy
            term; for a representation that is learned beside, SAC itself does not read it.
    """

    value: torch.Tensor


class SACTrainInfo(NamedTuple):
    """What `preprocess_experience` hands to `train_step`, `[B, T]`.

    Attributes:
        action: as the environment got it.
        target: of Q.
        is_known: bool, False for the newest row of an episode that goes on: what its action led to is not stored yet.
    """

    action: nest.Nest
    target: torch.Tensor
    is_known: torch.Tensor


class SACLossInfo(NamedTuple):
    """What `train_step` hands to `calc_loss`.

    Attributes:
        q_taken: `[..., C]`, of the stored action, with gradient in the critics.
        target: of Q.
        q_value: of the policy now, with gradient in the policy alone.
        log_prob: likewise.
        target_entropy: in nats; `()` if it is the same everywhere.
        is_trained: bool, False on LAST rows and where the target is not known.
    """

    q_taken: torch.Tensor
    target: torch.Tensor
    q_value: torch.Tensor
    log_prob: torch.Tensor
    target_entropy: nest.Nest
    is_trained: torch.Tensor


class CriticSide(torch.nn.Module):
    """The critics and the encoder, which they alone train.

    Args:
        encoder: from observations to features.
        critics: from features, and the actions of boxes, to `[N, C]`, or `[N, C, A]`.
    """

    def __init__(self, encoder: Encoder, critics: torch.nn.Module):
        super().__init__()
        self.encoder = encoder
        self.critics = critics


@gin.configurable
class SACAlgorithm(Algorithm):
    """Soft actor-critic with C critics, their target networks and a temperature that is learned.

    One gradient step trains all three parts; none of the losses reaches the parameters of another one
    (`docs/algorithms/sac.md`).

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: a box or a nest of boxes, or one discrete choice.
        actor: called with the `observation_spec` that the encoder gives, `action_spec` and, for boxes
            if it takes that, `box_distribution`; returns a module from features `[N, ...]` to parameters of the policy,
            `[N, P]`.
        critics: called with `observation_spec` likewise and `action_spec`; returns a module from features and actions
            to `[N, C]`, or for a discrete choice from features to `[N, C, A]`.
        encoder: called with `observation_spec`, returns what stands before both. The critics train it, the policy reads
            its features. With memory, the algorithm is recurrent.
        box_distribution: the family of a box policy: "squashed_normal", "beta" or "normal".
        discount: gamma, in [0, 1], for each environment step.
        target_update: when and by how much the target networks follow, `@TargetUpdate()`.
        initial_temperature: alpha at the start, above 0 and at most 1e9; the weight of the entropy beside the return.
        learns_temperature: whether alpha is moved to where the policy has its target entropy; else it stays.
        target_entropy: in nats; of a box in units of half its width, of a "normal" in the action's own; at most
            the largest one that there is. None: -1 for
            each number of a box, and `target_entropy_share` of a discrete choice.
        target_entropy_share: the part of the largest entropy, log of the number of legal actions, in [0, 1].
        random_env_steps: so many environment steps at the start of the run, actions are drawn from all alike.
        legal_mask_key: for a discrete choice: where the observation is a dict, the entry `[A]` that is nonzero for
            legal actions. The networks see the whole observation. None: all actions are legal.

    Attributes:
        critic_side: the encoder and the critics that learn.
        target_side: their slow copies.
        actor: the policy's network.
        log_temperature: log alpha.

    Raises:
        ValueError: the actions are of another kind, an argument is out of its range, or parts do not fit.
    """

    needs_replay = True

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        actor: Callable[..., torch.nn.Module] = ActorNetwork,
        critics: Callable[..., torch.nn.Module] = CriticsNetwork,
        encoder: Callable[..., Encoder] = IdentityEncoder,
        box_distribution: BoxDistribution = "squashed_normal",
        discount: float = 0.99,
        target_update: TargetUpdate = gin.REQUIRED,
        initial_temperature: float = 1.0,
        learns_temperature: bool = True,
        target_entropy: float | None = None,
        target_entropy_share: float = 0.98,
        random_env_steps: int = 0,
        legal_mask_key: str | None = None,
    ):
        super().__init__(observation_spec, action_spec)
        check_in_range("SACAlgorithm.discount", discount, 0.0, 1.0)
        check_in_range("SACAlgorithm.target_entropy_share", target_entropy_share, 0.0, 1.0)
        check_above("SACAlgorithm.initial_temperature", initial_temperature, 0.0)
        check_in_range("SACAlgorithm.initial_temperature", initial_temperature, maximum=_MAX_TEMPERATURE)
        check_target_update("SACAlgorithm.target_update", target_update)
        self._legal = LegalMask(legal_mask_key, observation_spec, action_spec, "SACAlgorithm")
        features = build_encoder("SACAlgorithm.encoder", encoder, observation_spec)
        self._policy: SoftPolicy
        arguments = {"observation_spec": features.output_spec, "action_spec": action_spec}
        made = build_network("SACAlgorithm.critics", critics, **arguments)
        if is_choice(action_spec):
            self._policy = SoftDiscretePolicy(action_spec, target_entropy, target_entropy_share)
        else:
            self._policy = SoftBoxPolicy(action_spec, box_distribution, target_entropy)
            if takes_argument(actor, "box_distribution"):
                arguments["box_distribution"] = box_distribution
        self.actor = build_network("SACAlgorithm.actor", actor, **arguments)
        parameters = {"parameters": (self._policy.num_parameters,)}
        check_outputs("SACAlgorithm.actor", self.actor, (features.output_spec,), parameters)
        _check_critics(made, features.output_spec, action_spec)
        self.critic_side = CriticSide(features, made)
        self.target_side = copy.deepcopy(self.critic_side).requires_grad_(False)
        _check_random(random_env_steps, action_spec)
        log_temperature = torch.tensor(math.log(initial_temperature))
        self.log_temperature = torch.nn.Parameter(log_temperature, requires_grad=learns_temperature)
        self._encoder_learns = any(True for _ in self.critic_side.encoder.parameters())  # type: ignore[attr-defined]
        self._discount = discount
        self._target_update = target_update
        self._random_env_steps = random_env_steps
        self._acts_at_random = random_env_steps > 0

    def rows_needed(self) -> RowsNeeded:
        """The row after the segment, whose value stands for the future of its last row."""
        return RowsNeeded(future=1, future_observations=1)

    def initial_state(self, batch_size: int) -> nest.Nest:
        """The encoder's."""
        return self.critic_side.encoder.initial_state(batch_size)

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """The most likely actions; of a squashed normal that of its mean."""
        legal = self._legal.checked(time_step)
        features, state = self.critic_side.encoder.step(time_step.observation, state)
        return AlgStep(self._policy.best(self.actor(features), legal), state)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """Drawn actions; `info` is a SACInfo."""
        legal = self._legal.checked(time_step)
        features, state = self.critic_side.encoder.step(time_step.observation, state)
        parameters = self.actor(features)
        action, expected = self._policy.act(parameters, self.critic_side.critics, features, legal)
        value = soft_value(expected.q_value, expected.log_prob, self.log_temperature.exp())
        if self._acts_at_random:
            action = self._policy.any_action(parameters, legal)
        return AlgStep(action, state, SACInfo(value))

    @torch.no_grad()
    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: nest.Nest, batch_info: BatchInfo
    ) -> tuple[TimeStep, SACTrainInfo]:
        """The targets of Q (Haarnoja et al. 2018b, equations 3 and 5; Christodoulou 2019, equation 10).

            target[t] = r[t+1] + gamma d[t+1] (min_c Q_target(s[t+1], a) - alpha log pi(a|s[t+1])),    a ~ pi

        with the policy as it is now. Ends of episodes: after a termination the discount is 0 and nothing is
        bootstrapped, at a truncation the LAST row's value stands for what was lost. The target of a LAST row means
        nothing.

        Args:
            root_inputs: `[B, T+1]` rows.
            rollout_info: not read.
            batch_info: `action`, `position`, and with memory `state`.

        Returns:
            The first T rows, and what `train_step` needs of them.
        """
        del rollout_info
        next_rows = nest.map_structure(lambda leaf: leaf[:, 1:], root_inputs)
        target = one_step_target(
            next_rows.reward, next_rows.discount, self._next_value(root_inputs, next_rows, batch_info), self._discount
        )
        inputs, action = nest.map_structure(lambda leaf: leaf[:, :-1], (root_inputs, batch_info.action))
        return inputs, SACTrainInfo(action, target, ~ends_at_newest(root_inputs.is_last(), batch_info.position))

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: SACTrainInfo) -> AlgStep:
        """Q of the actions and what the policy expects now; `info` is a SACLossInfo. Rows `[N]`, or `[B, T]`."""
        features = unroll_rows(self.critic_side.encoder, inputs, state)
        legal = self._legal.read(inputs)
        masks = [] if legal is None else [legal]
        seen: Trained = on_rows(self._learn, inputs.step_type.ndim, features, rollout_info.action, *masks)
        wanted = self._policy.target_entropy(legal)
        target_entropy: nest.Nest = wanted if isinstance(wanted, torch.Tensor) else ()
        is_trained = rollout_info.is_known & ~inputs.is_last()
        info = SACLossInfo(seen.q_taken, rollout_info.target, *seen.expected, target_entropy, is_trained)
        return AlgStep((), state, info)

    def calc_loss(self, info: SACLossInfo) -> LossInfo:
        """The sum of three losses of each row, 0 where it is not trained on; `extra` holds means over the others.

        The critics': 1/2 (Q_c - target)^2 summed over them. The policy's: alpha log pi - Q. The temperature's:
        alpha (entropy - target entropy).
        """
        temperature = self.log_temperature.detach().exp()
        critic_loss = 0.5 * squared_error(info.q_taken, info.target.unsqueeze(-1)).sum(-1)
        actor_loss = soft_actor_loss(info.log_prob, info.q_value, temperature)
        loss = critic_loss + actor_loss
        if self.log_temperature.requires_grad:
            is_same = not nest.leaves(info.target_entropy)
            target_entropy = self._policy.target_entropy(None) if is_same else info.target_entropy
            loss = loss + temperature_loss(self.log_temperature, -info.log_prob, target_entropy)
        with torch.no_grad():
            metrics = {
                "critic_loss": critic_loss,
                "actor_loss": actor_loss,
                "entropy": -info.log_prob,
                "q_value": info.q_value,
                "target": info.target,
            }
            extra = masked_means(metrics, info.is_trained)
        return LossInfo(torch.where(info.is_trained, loss, 0.0), extra | {"temperature": temperature})

    def after_update(self, progress: Progress) -> None:
        """Lets the target networks follow."""
        self._target_update(self.target_side, self.critic_side, progress.updates)

    def after_train_iter(self, progress: Progress) -> None:
        """Ends the phase of random actions."""
        self._acts_at_random = progress.env_steps < self._random_env_steps

    def _next_value(self, rows: TimeStep, next_rows: TimeStep, batch_info: BatchInfo) -> torch.Tensor:
        """The soft value `[B, T]` of all rows but the first, by the target networks."""

        def seen(encoder: Encoder) -> nest.Nest:
            if not nest.leaves(batch_info.state):
                return unroll_rows(encoder, next_rows, ())
            return nest.map_structure(lambda leaf: leaf[:, 1:], unroll_rows(encoder, rows, batch_info.state))

        features = seen(self.critic_side.encoder)
        target_features = seen(self.target_side.encoder) if self._encoder_learns else features
        legal = self._legal.read(next_rows)
        masks = [] if legal is None else [legal]
        expected: Expected = on_rows(self._expect_of_target, 2, features, target_features, *masks)
        return soft_value(expected.q_value, expected.log_prob, self.log_temperature.exp())

    def _learn(self, features: nest.Nest, action: nest.Nest, legal: torch.Tensor | None = None) -> Trained:
        """What a training step needs of rows `[N]`."""
        parameters = self.actor(detached(features) if self._encoder_learns else features)
        return self._policy.learn(parameters, self.critic_side.critics, features, action, legal)

    def _expect_of_target(
        self, features: nest.Nest, target_features: nest.Nest, legal: torch.Tensor | None = None
    ) -> Expected:
        """What the policy expects of rows `[N]` by the target critics."""
        return self._policy.expect(self.actor(features), self.target_side.critics, target_features, legal)


def _check_random(random_env_steps: int, action_spec: nest.Nest) -> None:
    check_at_least("SACAlgorithm.random_env_steps", random_env_steps, 0)
    bounds = [bound for spec in nest.leaves(action_spec) for bound in spec.bounds()]
    if random_env_steps and not all(bool(bound.isfinite().all()) for bound in bounds):
        raise ValueError(
            f"SACAlgorithm.random_env_steps is {random_env_steps}, but no action can be drawn from all of {action_spec}"
            ", which has no bounds; set random_env_steps = 0"
        )


def _check_critics(critics: torch.nn.Module, features_spec: nest.Nest, action_spec: nest.Nest) -> None:
    """Tries them; how many critics there are is theirs to say."""
    num_critics = getattr(critics, "num_critics", None)
    if not isinstance(num_critics, int) or num_critics < 1:
        raise ValueError(
            f"SACAlgorithm.critics makes a {type(critics).__name__} whose num_critics is {num_critics}; expected how "
            "many values it gives for a row and an action, at least 1"
        )
    if is_choice(action_spec):
        check_outputs("SACAlgorithm.critics", critics, (features_spec,), {"Q": (num_critics, action_spec.num_values)})
    else:
        check_outputs("SACAlgorithm.critics", critics, (features_spec, action_spec), {"Q": (num_critics,)})
