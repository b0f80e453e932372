"""The loss that REINFORCE and the actor-critic share; they differ in the targets, not in what is done with them."""

from typing import NamedTuple

import torch

from alfish import nest
from alfish.algorithms.stochastic_policy import Evaluation
from alfish.data_structures import LossInfo
from alfish.ops.masking import masked_explained_variance, masked_means, masked_normalize
from alfish.ops.policy_losses import approximate_kl, policy_gradient_loss
from alfish.ops.value_losses import squared_error


class PolicyTargets(NamedTuple):
    """What `preprocess_experience` hands to `train_step`; `[B, T]`, or mini-batches of these rows.

    Attributes:
        sample: the action before it was clipped to its bounds.
        log_prob: log mu of it, where mu is the policy that collected.
        advantage: by how much the action was better than expected; 0 on LAST rows.
        value: V when the targets were made; `()` of a network without a value, and likewise the target.
        value_target: what V is moved to.
    """

    sample: nest.Nest
    log_prob: torch.Tensor
    advantage: torch.Tensor
    value: nest.Nest = ()
    value_target: nest.Nest = ()


class PolicyLossInfo(NamedTuple):
    """What `train_step` hands to `calc_loss`.

    Attributes:
        now: what the policy says now, with gradient.
        targets: what it is trained on.
    """

    now: Evaluation
    targets: PolicyTargets

    @property
    def log_ratio(self) -> torch.Tensor:
        """Log pi - log mu of the samples, `[...]`."""
        return self.now.log_prob - self.targets.log_prob


class LossWeights(NamedTuple):
    """How the parts of the loss are added.

    Attributes:
        value: of the squared error of the value, which has no factor 1/2.
        entropy: of the entropy, which is subtracted.
        normalize_advantage: to mean 0 and standard deviation 1 over the rows that count.
    """

    value: float
    entropy: float
    normalize_advantage: bool


def weighted_policy_loss(
    info: PolicyLossInfo, importance_weight: torch.Tensor | None, weights: LossWeights
) -> LossInfo:
    """The loss of each row, with a squared error of the value and an entropy bonus.

        loss = -importance_weight A log pi(a|s) + weights.value (V - target)^2 - weights.entropy H(pi)

    Ends of episodes: LAST rows have a loss too and are left to the caller; `extra` holds means without them.

    Args:
        info: `[...]`.
        importance_weight: `[...]`, without gradient; None where the advantage has it already.
        weights: of the parts.

    Returns:
        LossInfo `[...]`. Its `extra` also says how far pi is from mu: `approximate_kl`, KL(mu, pi) in nats.
    """
    now, targets = info.now, info.targets
    advantage = masked_normalize(targets.advantage, now.is_valid) if weights.normalize_advantage else targets.advantage
    policy_loss = policy_gradient_loss(now.log_prob, advantage, importance_weight)
    loss = policy_loss
    metrics = {"policy_loss": policy_loss, "entropy": now.entropy, "approximate_kl": approximate_kl(info.log_ratio)}
    if nest.leaves(now.value):
        value_loss = squared_error(now.value, targets.value_target)
        loss = torch.add(loss, value_loss, alpha=weights.value)
        metrics["value_loss"] = value_loss
    if weights.entropy:
        loss = torch.sub(loss, now.entropy, alpha=weights.entropy)
    with torch.no_grad():
        extra = masked_means(metrics, now.is_valid)
        if nest.leaves(now.value):
            extra["explained_variance"] = masked_explained_variance(targets.value, targets.value_target, now.is_valid)
    return LossInfo(loss, extra)
