"""The learner of a MuZero model: bootstrapped targets and the loss of an unrolled model."""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.mcts_algorithm import SearchInfo
from alfish.algorithms.muzero_targets import MuzeroTargets, bootstrap_rows, episode_end_rows, muzero_targets
from alfish.checks import check_at_least
from alfish.data_structures import AlgStep, BatchInfo, LossInfo, Progress, RowsNeeded, TimeStep
from alfish.models.mcts_model import MCTSModel
from alfish.models.sampled_model import sampled_policy_of
from alfish.models.unroll import Unrolled, unroll
from alfish.ops.distributions import categorical_entropy
from alfish.ops.masking import masked_explained_variance, masked_means
from alfish.ops.policy_losses import candidate_cross_entropy
from alfish.ops.target_updates import TargetUpdate


class UnrollInfo(NamedTuple):
    """What the loss needs.

    Attributes:
        unrolled: the model's outputs.
        targets: what they should be.
    """

    unrolled: Unrolled
    targets: MuzeroTargets


@gin.configurable
class MuzeroRepresentationImpl(Algorithm):
    """Trains a model so that, unrolled from a latent, it predicts rewards, values and search policies.

    Schrittwieser et al. 2020, "Mastering Atari, Go, chess and shogi by planning with a learned model", section 3 and
    appendix G. As a representation, its output is the latent of an observation.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one discrete choice of A, or what the model has a policy for.
        model: makes the model, given `observation_spec` and `action_spec`.
        num_unroll_steps: R, at least 1.
        td_steps: K, the n of the n-step value target, at least 1.
        discount: γ per environment step, in (0, 1].
        recurrent_gradient_scale: what is left of the gradient at the entrance of each dynamics step.
        value_loss_weight: of the value loss.
        reward_loss_weight: of the reward loss.
        policy_loss_weight: of the policy loss.
        game_over_loss_weight: of the loss of the game-over head, if the model has one.
        reward_transform: applied to the stored rewards before anything else, for example `@SignReward()`; None
            leaves them.
        target_update: how a target network follows the model; the value targets are then bootstrapped from what it says
            of the row at which the n steps end. None bootstraps from the value that the search found when the row was
            collected, which costs nothing but is as old as the row.
        random_action_after_episode_end: if True, the actions unrolled beyond an episode's end are drawn at random
            instead of repeating its last action, so that a game's end is learned to be absorbing whatever is done.

    Raises:
        ValueError: a number is out of range.
    """

    trains_on_last_rows = True

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        model: Callable[..., MCTSModel] = gin.REQUIRED,
        num_unroll_steps: int = gin.REQUIRED,
        td_steps: int = gin.REQUIRED,
        discount: float = gin.REQUIRED,
        recurrent_gradient_scale: float = 0.5,
        value_loss_weight: float = 0.25,
        reward_loss_weight: float = 1.0,
        policy_loss_weight: float = 1.0,
        game_over_loss_weight: float = 1.0,
        reward_transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        target_update: TargetUpdate | None = None,
        random_action_after_episode_end: bool = False,
    ):
        super().__init__(observation_spec, action_spec)
        name = "MuzeroRepresentationImpl"
        check_at_least(f"{name}.num_unroll_steps", num_unroll_steps, 1)
        check_at_least(f"{name}.td_steps", td_steps, 1)
        if not 0.0 < discount <= 1.0:
            raise ValueError(f"{name}.discount is {discount}; it must be in (0, 1]")
        if not 0.0 <= recurrent_gradient_scale <= 1.0:
            raise ValueError(f"{name}.recurrent_gradient_scale is {recurrent_gradient_scale}; it must be in [0, 1]")
        self._weights = {
            "value": value_loss_weight,
            "reward": reward_loss_weight,
            "policy": policy_loss_weight,
            "game_over": game_over_loss_weight,
        }
        for part, weight in self._weights.items():
            if not 0.0 <= weight < math.inf:
                raise ValueError(f"{name}.{part}_loss_weight is {weight}; it must be a finite number of at least 0")
        self.discount = discount
        self.model = model(observation_spec, action_spec)
        self._actions = sampled_policy_of(self.model, action_spec)
        self._num_unroll_steps = num_unroll_steps
        self._td_steps = td_steps
        self._gradient_scale = recurrent_gradient_scale
        self._reward_transform = reward_transform
        self._random_action_after_episode_end = random_action_after_episode_end
        self._target_update = target_update
        self._target_model: MCTSModel | None = None
        if target_update is not None:
            self._target_model = copy.deepcopy(self.model).requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self._target_model is not None:
            self._target_model.eval()  # its targets must not depend on what else is in the batch
        return self

    def rows_needed(self) -> RowsNeeded:
        future = self._num_unroll_steps + self._td_steps
        return RowsNeeded(future=future, future_observations=0 if self._target_model is None else future)

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return AlgStep(self.model.encode(time_step.observation), state)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return self.predict_step(time_step, state)

    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: SearchInfo, batch_info: BatchInfo
    ) -> tuple[TimeStep, MuzeroTargets]:
        if self._reward_transform is not None:
            root_inputs = root_inputs._replace(reward=self._reward_transform(root_inputs.reward))
        end_row = episode_end_rows(root_inputs.is_last(), batch_info.position)
        value = rollout_info.value if self._target_model is None else self._target_values(root_inputs, end_row)
        targets = muzero_targets(
            root_inputs,
            end_row,
            # FIRST rows hold 0 where an action is wanted, which need not be one of the actions. The loss masks what
            # becomes of it.
            self._actions.from_environment(root_inputs.prev_action),
            rollout_info.policy,
            value,
            self._num_unroll_steps,
            self._td_steps,
            self.discount,
            rollout_info.candidates,
        )
        if self._random_action_after_episode_end:
            targets = targets._replace(action=self._random_beyond_end(targets))
        num_starts = targets.reward.shape[1]
        return nest.map_structure(lambda leaf: leaf[:, :num_starts], root_inputs), targets

    def _random_beyond_end(self, targets: MuzeroTargets) -> torch.Tensor:
        """The actions `[B, T, R, ...]`, with draws from all actions beyond the end of the episode."""
        beyond, action = targets.beyond_episode_end[..., 1:], targets.action
        if self._actions.num_choices is not None:
            drawn = torch.randint_like(action, self._actions.num_choices)
        else:
            parameters = torch.zeros((1, self._actions.num_parameters), device=beyond.device)
            drawn = self._actions.sample(parameters, beyond.numel(), math.inf).view_as(action)
        return torch.where(beyond.view(*beyond.shape, *[1] * (action.dim() - beyond.dim())), drawn, action)

    def _target_values(self, rows: TimeStep, end_row: torch.Tensor) -> torch.Tensor:
        """The target network's values `[B, L]` of the rows at which n-step returns end; 0 elsewhere."""
        assert self._target_model is not None
        chosen = bootstrap_rows(end_row, self._td_steps, end_row.shape[1] - self._td_steps)
        batch = torch.arange(chosen.shape[0], device=chosen.device)[:, None]
        observation = nest.map_structure(lambda leaf: leaf[batch, chosen].flatten(0, 1), rows.observation)
        value_logits = self._target_model.predict(self._target_model.encode(observation)).value_logits
        value = self._target_model.value_of(value_logits).view_as(chosen)
        return torch.zeros_like(rows.reward).scatter_(1, chosen, value)

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: MuzeroTargets) -> AlgStep:
        unrolled = unroll(self.model, inputs.observation, rollout_info.action, self._gradient_scale)
        return AlgStep((), state, UnrollInfo(unrolled, rollout_info))

    def after_update(self, progress: Progress) -> None:
        if self._target_model is not None and self._target_update is not None:
            self._target_update(self._target_model, self.model, progress.updates)

    def calc_loss(self, info: UnrollInfo) -> LossInfo:
        """The weighted sum of all heads' losses over k = 0 … R, `[B, T]`.

        The loss at k ≥ 1 is divided by R, so that its size does not depend on R (appendix G). Beyond a game's end the
        value and the reward learn 0 (the absorbing state) and the policy learns nothing; beyond a time limit or a cut
        nothing is learned.
        """
        unrolled, targets = info
        prediction = unrolled.prediction
        known = ~(targets.beyond_episode_end & targets.is_partial.unsqueeze(-1))
        weight = torch.full_like(targets.value, 1.0 / self._num_unroll_steps)
        weight[..., 0] = 1.0
        weight = weight * known
        policy_loss, entropy = self._policy_loss_and_entropy(prediction.policy_logits, targets)
        policy_mask = known & ~targets.beyond_episode_end & ~targets.game_over
        parts = {
            "policy": (policy_loss * weight * policy_mask).sum(-1),
            "value": (self.model.value_loss(prediction.value_logits, targets.value) * weight).sum(-1),
        }
        if self.model.predicts_reward:
            reward_loss = self.model.reward_loss(unrolled.reward_logits, targets.reward[..., 1:])
            parts["reward"] = (reward_loss * weight[..., 1:]).sum(-1)
        if self.model.predicts_game_over:
            game_over_loss = torch.nn.functional.binary_cross_entropy_with_logits(
                prediction.game_over_logit, targets.game_over.float(), reduction="none"
            )
            parts["game_over"] = (game_over_loss * weight).sum(-1)
        loss = torch.stack([part * self._weights[name] for name, part in parts.items()]).sum(0)
        extra = {f"loss/{name}": part.detach() for name, part in parts.items()}
        return LossInfo(loss, extra | self._report(unrolled, targets, entropy, policy_mask, known))

    def _policy_loss_and_entropy(
        self, parameters: torch.Tensor, targets: MuzeroTargets
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both `[B, T, R+1]`, of the policy head's outputs `[B, T, R+1, P]`; the entropy without gradient."""
        if isinstance(targets.candidates, torch.Tensor):
            log_prob = self._actions.log_prob(parameters, targets.candidates)
            return candidate_cross_entropy(targets.policy, log_prob), self._actions.entropy(parameters.detach())
        log_policy = torch.log_softmax(parameters, dim=-1)
        return -(targets.policy * log_policy).sum(-1), categorical_entropy(log_policy.detach())

    @torch.no_grad()
    def _report(
        self,
        unrolled: Unrolled,
        targets: MuzeroTargets,
        entropy: torch.Tensor,
        policy_mask: torch.Tensor,
        known: torch.Tensor,
    ) -> dict[str, Any]:
        # The first and the last of the R+1 only: decoding a categorical value is the dearest part of the report.
        ends = [0, targets.value.shape[-1] - 1]
        value = self.model.value_of(unrolled.prediction.value_logits[..., ends, :])
        target, known_ends = targets.value[..., ends], known[..., ends]
        target_entropy = -torch.xlogy(targets.policy, targets.policy).sum(-1)
        report = masked_means({"policy/entropy": entropy, "policy/target_entropy": target_entropy}, policy_mask)
        report |= {"value/mean": value[..., 0].mean(), "value/target_mean": target[..., 0].mean()}
        for place, step in enumerate(ends):
            report[f"value/explained_variance_{step}"] = masked_explained_variance(
                value[..., place], target[..., place], known_ends[..., place]
            )
        return report
