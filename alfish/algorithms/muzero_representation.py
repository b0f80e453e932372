"""The learner of a MuZero model: bootstrapped targets and the loss of an unrolled model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.muzero_targets import MuzeroTargets, muzero_targets
from alfish.data_structures import AlgStep, BatchInfo, LossInfo, RowsNeeded, TimeStep
from alfish.models.mcts_model import MCTSModel
from alfish.models.unroll import Unrolled, unroll
from alfish.ops.masking import masked_explained_variance, masked_mean


class SearchInfo(NamedTuple):
    """What a search leaves in the replay buffer.

    Attributes:
        policy: `[B, A]`, the improved policy.
        value: `[B]`, of the root.
    """

    policy: torch.Tensor
    value: torch.Tensor


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
        action_spec: one discrete choice of A.
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
    ):
        super().__init__(observation_spec, action_spec)
        name = "MuzeroRepresentationImpl"
        for setting, count in {"num_unroll_steps": num_unroll_steps, "td_steps": td_steps}.items():
            if count < 1:
                raise ValueError(f"{name}.{setting} is {count}; it must be at least 1")
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
            if not weight >= 0.0:
                raise ValueError(f"{name}.{part}_loss_weight is {weight}; it must be at least 0")
        self.discount = discount
        self.model = model(observation_spec, action_spec)
        self._num_unroll_steps = num_unroll_steps
        self._td_steps = td_steps
        self._gradient_scale = recurrent_gradient_scale
        self._reward_transform = reward_transform

    def rows_needed(self) -> RowsNeeded:
        return RowsNeeded(future=self._num_unroll_steps + self._td_steps)

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return AlgStep(self.model.encode(time_step.observation), state)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return self.predict_step(time_step, state)

    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: SearchInfo, batch_info: BatchInfo
    ) -> tuple[TimeStep, MuzeroTargets]:
        if self._reward_transform is not None:
            root_inputs = root_inputs._replace(reward=self._reward_transform(root_inputs.reward))
        targets = muzero_targets(
            root_inputs,
            root_inputs.prev_action - int(self.action_spec.minimum),
            rollout_info.policy,
            rollout_info.value,
            batch_info.position,
            self._num_unroll_steps,
            self._td_steps,
            self.discount,
        )
        num_starts = targets.reward.shape[1]
        return nest.map_structure(lambda leaf: leaf[:, :num_starts], root_inputs), targets

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: MuzeroTargets) -> AlgStep:
        unrolled = unroll(self.model, inputs.observation, rollout_info.action, self._gradient_scale)
        return AlgStep(unrolled.prediction.value_logits[:, 0], state, UnrollInfo(unrolled, rollout_info))

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
        log_policy = torch.log_softmax(prediction.policy_logits, dim=-1)
        policy_loss = -(targets.policy * log_policy).sum(-1)
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
        return LossInfo(loss, extra | self._report(unrolled, targets, log_policy, policy_mask, known))

    @torch.no_grad()
    def _report(
        self,
        unrolled: Unrolled,
        targets: MuzeroTargets,
        log_policy: torch.Tensor,
        policy_mask: torch.Tensor,
        known: torch.Tensor,
    ) -> dict[str, Any]:
        value = self.model.value_of(unrolled.prediction.value_logits)
        entropy = -(log_policy.exp() * log_policy).sum(-1)
        target_entropy = -torch.xlogy(targets.policy, targets.policy).sum(-1)
        last = targets.value.shape[-1] - 1
        return {
            "policy/entropy": masked_mean(entropy, policy_mask),
            "policy/target_entropy": masked_mean(target_entropy, policy_mask),
            "value/mean": masked_mean(value, known),
            "value/target_mean": masked_mean(targets.value, known),
            "value/explained_variance_0": masked_explained_variance(
                value[..., 0], targets.value[..., 0], known[..., 0]
            ),
            f"value/explained_variance_{last}": masked_explained_variance(
                value[..., last], targets.value[..., last], known[..., last]
            ),
        }
