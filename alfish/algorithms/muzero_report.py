"""What is reported of the training of a MuZero model beside its losses: pure functions of one batch.

Decoding the values and rewards of all steps takes about as long as their losses do, so this is made once in every
`MuzeroRepresentationImpl.report_interval` updates, not in each.
"""

import torch

from alfish import nest
from alfish.algorithms.muzero_losses import LossMasks, UnrollInfo, policy_entropy
from alfish.models.mcts_model import MCTSModel
from alfish.networks.latents import flat_latents
from alfish.ops.masking import masked_explained_variances, masked_mean, masked_means
from alfish.ops.sampled_policies import SampledPolicy

_RANK_SAMPLE = 256
"""Rows that the rank of the latents is taken from."""

Report = dict[str, torch.Tensor]


@torch.no_grad()
def muzero_report(
    model: MCTSModel, actions: SampledPolicy, info: UnrollInfo, masks: LossMasks, train_policy: bool
) -> Report:
    """Scalars by name, without gradient; means over the batch.

    - `policy/entropy`, `policy/target_entropy`, in nats, where there is an action to choose: the loss of the policy
      cannot fall below the latter. Not if the policy is not trained.
    - `value/mean`, `value/target_mean` at k = 0; `value/explained_variance_k`, k = 0 … R, of the targets by the
      predictions. If that of step R stays far below that of step 0, the dynamics are not learned.
    - `reward/explained_variance_k`, k = 1 … R; `reward/error_where_zero` and `reward/error_elsewhere`, mean absolute
      errors where the true reward is 0 and where it is not (0 if the batch has none such), and
      `reward/share_not_zero` of the latter. A model that predicts 0 always has no error where it is zero.
    - `latent/norm` of encoded observations, the mean of Euclidean norms, and `latent/rank`; see `effective_rank`.
    - `latent/gradient_norm_k`, k = 0 … R: of the gradient of the batch's loss in the latents of step k, all that
      passes through them included.
    """
    report = _value_report(model, info, masks)
    if train_policy:
        entropy = policy_entropy(actions, info.unrolled.prediction.policy_logits, info.targets)
        target_entropy = -torch.xlogy(info.targets.policy, info.targets.policy).sum(-1)
        report |= masked_means({"policy/entropy": entropy, "policy/target_entropy": target_entropy}, masks.acts)
    if model.predicts_reward:
        report |= _reward_report(model, info, masks)
    report |= _latent_report(model, info)
    if isinstance(info.gradient_norm, torch.Tensor):
        # Views: the backward pass, which comes after this, fills them.
        report |= _numbered("latent/gradient_norm", info.gradient_norm.flatten(0, -2)[0], 0)
    return report


@torch.no_grad()
def priority_report(priority: torch.Tensor) -> Report:
    """The mean of priorities `[B]`, and their standard deviation in units of it: 0 samples uniformly."""
    mean = priority.mean()
    return {"priority/mean": mean, "priority/spread": priority.std(correction=0) / mean.clamp_min(1.0e-8)}


def effective_rank(rows: torch.Tensor) -> torch.Tensor:
    """How many directions the rows vary in: the participation ratio of their covariance's eigenvalues λ.

    (Σ λ)² / Σ λ², a scalar between 1 and min(N - 1, D): D if all directions vary alike, 1 if there is but one; 0 if
    the rows do not differ. The traces of a product say it without the eigenvalues, at the cost of one matrix product.
    The usual name for the same with an entropy is the effective rank (Roy and Vetterli 2007).

    Args:
        rows: `[N, D]`.
    """
    centred = rows - rows.mean(0)
    products = centred.T @ centred if rows.shape[1] < rows.shape[0] else centred @ centred.T
    return products.trace().square() / products.square().sum().clamp_min(torch.finfo(rows.dtype).tiny)


def _value_report(model: MCTSModel, info: UnrollInfo, masks: LossMasks) -> Report:
    value, target = model.value_of(info.unrolled.prediction.value_logits), info.targets.value
    explained = masked_explained_variances(value, target, masks.known)
    means = {"value/mean": value[..., 0].mean(), "value/target_mean": target[..., 0].mean()}
    return means | _numbered("value/explained_variance", explained, 0)


def _reward_report(model: MCTSModel, info: UnrollInfo, masks: LossMasks) -> Report:
    reward, target = model.rewards_of_unroll(info.unrolled.reward_logits), info.targets.reward[..., 1:]
    known = masks.known[..., 1:]
    explained = masked_explained_variances(reward, target, known)
    error, is_zero = (reward - target).abs(), target == 0.0
    return _numbered("reward/explained_variance", explained, 1) | {
        "reward/error_where_zero": masked_mean(error, known & is_zero),
        "reward/error_elsewhere": masked_mean(error, known & ~is_zero),
        "reward/share_not_zero": masked_mean((~is_zero).float(), known),
    }


def _latent_report(model: MCTSModel, info: UnrollInfo) -> Report:
    last_outer_axis = info.targets.value.dim() - 2
    encoded = nest.map_structure(lambda leaf: leaf.flatten(0, last_outer_axis)[:, 0], info.unrolled.latent)
    rows = flat_latents(model.state_of(encoded)).float()
    norm = torch.linalg.vector_norm(rows, dim=1).mean()
    return {"latent/norm": norm, "latent/rank": effective_rank(rows[:_RANK_SAMPLE])}


def _numbered(name: str, values: torch.Tensor, first: int) -> Report:
    return {f"{name}_{step}": value for step, value in enumerate(values.unbind(), start=first)}
