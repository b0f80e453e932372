"""The losses of an unrolled MuZero model: pure functions of its outputs and their targets."""

from typing import NamedTuple

import torch
import torch.nn.functional

from alfish import nest
from alfish.algorithms.muzero_targets import MuzeroTargets
from alfish.models.mcts_model import MCTSModel
from alfish.models.stochastic_unroll import StochasticUnrolled, chance_losses
from alfish.models.unroll import Unrolled
from alfish.ops.policy_losses import candidate_cross_entropy
from alfish.ops.sampled_policies import SampledPolicy
from alfish.ops.value_losses import categorical_cross_entropy


class UnrollInfo(NamedTuple):
    """What the loss needs.

    Attributes:
        unrolled: the model's outputs, `[B, T, ...]`; of a model with chance outcomes a StochasticUnrolled.
        targets: what they should be.
        consistency: `[B, T, R]`, the losses of the latents k = 1 … R against encodings of what was observed; `()` if
            they are not trained to agree.
        gradient_norm: `[B, T, R+1]`, the same everywhere: the norms of the latents' gradients, there after the
            backward pass; `()` in updates that do not report them.
    """

    unrolled: Unrolled | StochasticUnrolled
    targets: MuzeroTargets
    consistency: nest.Nest = ()
    gradient_norm: nest.Nest = ()


class LossMasks(NamedTuple):
    """Where what is learned, `[B, T, R+1]`.

    Attributes:
        known: bool, False beyond a time limit or a cut, which hides what would have followed.
        acts: bool, True where there is an action to choose: `known`, and not at or beyond the end of a game.
        weight: 1 at k = 0 and 1/R at k >= 1, so that the loss's size does not depend on R (Schrittwieser et al. 2020,
            appendix G); 0 where nothing is known.
    """

    known: torch.Tensor
    acts: torch.Tensor
    weight: torch.Tensor


def loss_masks(targets: MuzeroTargets) -> LossMasks:
    """See LossMasks."""
    known = ~(targets.beyond_episode_end & targets.is_partial.unsqueeze(-1))
    weight = torch.full_like(targets.value, 1.0 / (targets.value.shape[-1] - 1))
    weight[..., 0] = 1.0
    return LossMasks(known, known & ~targets.beyond_episode_end & ~targets.game_over, weight * known)


def muzero_losses(
    model: MCTSModel, actions: SampledPolicy, info: UnrollInfo, masks: LossMasks, train_policy: bool
) -> dict[str, torch.Tensor]:
    """The loss of each head, `[B, T]`, summed over k = 0 … R with `masks.weight` (Schrittwieser et al. 2020, eq. 1).

    Beyond a game's end the value and the reward learn their targets, 0 in this absorbing state, and the policy and the
    consistency learn nothing. Beyond a time limit or a cut nothing is learned.

    Args:
        model: whose heads they are. One that does not predict rewards, or the end of the game, has no such loss.
        actions: the family of its policy.
        info: what it said, and should have said.
        masks: from `loss_masks`.
        train_policy: whether the policy is learned.

    Returns:
        "policy", "value", "reward", "game_over", "consistency", as far as they are learned; of a model with chance
        outcomes also "chance" (outcomes and afterstate values) and "commitment" (Antonoglou et al. 2022, section 4).
    """
    unrolled, targets = info.unrolled, info.targets
    prediction, weight = unrolled.prediction, masks.weight
    losses = {}
    if train_policy:
        policy_loss = _policy_loss(actions, prediction.policy_logits, targets)
        losses["policy"] = (policy_loss * weight * masks.acts).sum(-1)
    losses["value"] = (model.value_loss(prediction.value_logits, targets.value) * weight).sum(-1)
    if model.predicts_reward:
        reward_loss = model.reward_loss(unrolled.reward_logits, targets.reward[..., 1:])
        losses["reward"] = (reward_loss * weight[..., 1:]).sum(-1)
    if model.predicts_game_over:
        game_over_loss = torch.nn.functional.binary_cross_entropy_with_logits(
            prediction.game_over_logit, targets.game_over.float(), reduction="none"
        )
        losses["game_over"] = (game_over_loss * weight).sum(-1)
    if isinstance(info.consistency, torch.Tensor):
        inside = weight * ~targets.beyond_episode_end
        losses["consistency"] = (info.consistency * inside[..., 1:]).sum(-1)
    if isinstance(unrolled, StochasticUnrolled):
        losses |= _chance_losses(model, unrolled, targets, weight)
    return losses


def policy_entropy(actions: SampledPolicy, parameters: torch.Tensor, targets: MuzeroTargets) -> torch.Tensor:
    """The entropy `[B, T, R+1]`, in nats, of the policy head's outputs `[B, T, R+1, P]`."""
    if isinstance(targets.candidates, torch.Tensor):
        return actions.entropy(parameters)
    return categorical_cross_entropy(parameters, torch.softmax(parameters, dim=-1))


def _policy_loss(actions: SampledPolicy, parameters: torch.Tensor, targets: MuzeroTargets) -> torch.Tensor:
    """`[B, T, R+1]`, of the policy head's outputs `[B, T, R+1, P]`."""
    if isinstance(targets.candidates, torch.Tensor):
        return candidate_cross_entropy(targets.policy, actions.log_prob(parameters, targets.candidates))
    return categorical_cross_entropy(parameters, targets.policy)


def _chance_losses(
    model: MCTSModel, unrolled: StochasticUnrolled, targets: MuzeroTargets, weight: torch.Tensor
) -> dict[str, torch.Tensor]:
    # The afterstate of step k follows the action from c(k): its value, rewards of the transition included, is that of
    # c(k), and there is an outcome only where the action led to a row.
    happened = weight[..., 1:] * ~targets.beyond_episode_end[..., 1:]
    outcome, commitment = chance_losses(unrolled)
    value = model.value_loss(unrolled.afterstate.value_logits, targets.value[..., :-1])
    return {"chance": ((outcome + value) * happened).sum(-1), "commitment": (commitment * happened).sum(-1)}
