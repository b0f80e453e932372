"""Losses of a value estimate, elementwise: the caller masks and averages."""

import torch


def squared_error(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(value - target)^2, without the factor 1/2 (PPO, Schulman et al. 2017, equation 9).

    Args:
        value: `[...]`, with gradient.
        target: `[...]`, without.

    Returns:
        `[...]`.
    """
    return (value - target).square()


def clipped_squared_error(
    value: torch.Tensor, old_value: torch.Tensor, target: torch.Tensor, clip: float
) -> torch.Tensor:
    """The larger of the squared errors of the value and of the value kept within `clip` of its old estimate.

        max((V - target)^2, (V_old + clamp(V - V_old, -clip, clip) - target)^2)

    Engstrom et al., "Implementation Matters in Deep Policy Gradients" (2020), section 3. The gradient is 0 where the
    value has moved further than `clip` towards its target.

    Args:
        value: `[...]`, with gradient.
        old_value: `[...]`, the estimate while collecting.
        target: `[...]`.
        clip: in the units of the return, above 0.

    Returns:
        `[...]`.
    """
    kept = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum((value - target).square(), (kept - target).square())


def categorical_cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """-sum_k target[k] * log softmax(logits)[k], for values and rewards on a support and for policies.

    Schrittwieser et al., MuZero (2020), appendix F and equation 1. Its gradient in the logits is softmax - target.

    Args:
        logits: `[..., S]`, with gradient.
        target: `[..., S]`, probabilities. Rows of zeros give the loss 0.

    Returns:
        `[...]`.
    """
    return (target * torch.log_softmax(logits, dim=-1)).sum(-1).neg()


def huber_loss(value: torch.Tensor, target: torch.Tensor, threshold: float = 1.0) -> torch.Tensor:
    """Half of the squared error up to a threshold, linear beyond it: the gradient stays within ±threshold.

        e^2 / 2 if |e| <= threshold, else threshold (|e| - threshold / 2)      e = value - target

    Huber, "Robust Estimation of a Location Parameter" (1964); with threshold 1 the clipped error of DQN (Mnih et al.
    2015, methods, "Training algorithm").

    Args:
        value: `[...]`, with gradient.
        target: `[...]`, without.
        threshold: in the units of the return, above 0.

    Returns:
        `[...]`.
    """
    return torch.nn.functional.huber_loss(value, target, reduction="none", delta=threshold)
