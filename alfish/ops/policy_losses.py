"""Losses of a policy, elementwise: the caller masks and averages."""

import torch


def clipped_surrogate_loss(ratio: torch.Tensor, advantage: torch.Tensor, clip_ratio: float) -> torch.Tensor:
    """The clipped surrogate objective of PPO as a loss.

    Schulman et al., "Proximal Policy Optimization Algorithms" (2017), equation 7:

        loss = -min(ratio * A, clip(ratio, 1 - clip_ratio, 1 + clip_ratio) * A)

    The gradient is 0 where the ratio has already moved past the clip range in the direction that the advantage favours,
    and only there. Ends of episodes: a LAST row's action is ignored by the environment; leave such rows out.

    Args:
        ratio: `[...]`, pi(a|s) / pi_old(a|s), with gradient.
        advantage: `[...]`, without.
        clip_ratio: epsilon of the paper, at least 0.

    Returns:
        `[...]`.
    """
    clipped = ratio.clamp(1.0 - clip_ratio, 1.0 + clip_ratio)
    return torch.minimum(ratio * advantage, clipped * advantage).neg()


def approximate_kl(log_ratio: torch.Tensor) -> torch.Tensor:
    """Estimates KL(pi_old || pi) from actions of pi_old: (ratio - 1) - log ratio, unbiased and never negative.

    Schulman, "Approximating KL Divergence" (2020), estimator k3.

    Args:
        log_ratio: `[...]`, log pi(a|s) - log pi_old(a|s).

    Returns:
        `[...]`; its mean is the estimate.
    """
    return torch.expm1(log_ratio) - log_ratio


def clip_fraction(ratio: torch.Tensor, clip_ratio: float) -> torch.Tensor:
    """1 where the ratio lies outside of the clip range, 0 elsewhere; `[...]` float in and out."""
    return ((ratio - 1.0).abs() > clip_ratio).to(ratio.dtype)


def candidate_cross_entropy(policy: torch.Tensor, log_prob: torch.Tensor) -> torch.Tensor:
    """-sum_k policy[k] * log pi(a_k): a policy moved to what a search found among K candidates.

    Hubert et al., "Learning and Planning in Complex Action Spaces" (2021), section 5: the projection of the improved
    policy, which is 0 outside of the candidates.

    Args:
        policy: `[..., K]`, what the search found; 0 for candidates that it could not choose.
        log_prob: `[..., K]`, log pi of the candidates, with gradient; -inf only where `policy` is 0.

    Returns:
        `[...]`.
    """
    chosen = policy > 0.0
    return torch.where(chosen, policy * torch.where(chosen, log_prob, 0.0), 0.0).sum(-1).neg()
