"""Means and logits under a mask."""

from collections.abc import Mapping

import torch

ILLEGAL_LOGIT = -1.0e30
"""Exactly probability 0 after a softmax, and yet finite: 0 times it is 0, so entropies and gradients stay finite."""


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of the values where the mask holds; 0 if it holds nowhere.

    What the mask leaves out has no influence, even if it is NaN, and gets no gradient.

    Args:
        values: `[...]` float.
        mask: `[...]` bool, of the same shape.

    Returns:
        A scalar.
    """
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)


@torch.no_grad()
def masked_means(values: Mapping[str, torch.Tensor], mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Like `masked_mean` for several metrics at once and without gradient: one reduction instead of one for each.

    Args:
        values: names and `[...]` floats.
        mask: `[...]` bool, of the same shape.

    Returns:
        The same names and scalars.
    """
    rows = torch.where(mask, torch.stack(tuple(values.values())), 0.0).flatten(1)
    means = rows.sum(1) / mask.sum().clamp_min(1)
    return dict(zip(values, means.unbind(), strict=True))


def masked_normalize(values: torch.Tensor, mask: torch.Tensor, epsilon: float = 1.0e-8) -> torch.Tensor:
    """(values - mean) / (standard deviation + epsilon), both taken where the mask holds; 0 elsewhere.

    The standard deviation is the unbiased one. A single value becomes 0.

    Args:
        values: `[...]` float.
        mask: `[...]` bool, of the same shape.
        epsilon: added to the standard deviation.

    Returns:
        `[...]`.
    """
    count = mask.sum().clamp_min(1)
    centred = torch.where(mask, values - torch.where(mask, values, 0.0).sum() / count, 0.0)
    variance = centred.square().sum() / (count - 1).clamp_min(1)
    return centred / (variance.sqrt() + epsilon)


def masked_explained_variance(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1 - Var(target - prediction) / Var(target) where the mask holds: 1 is perfect, 0 no better than a constant.

    Args:
        prediction: `[...]` float.
        target: `[...]` float, of the same shape.
        mask: `[...]` bool, of the same shape.

    Returns:
        A scalar; 0 where the target does not vary.
    """
    columns = (each.reshape(-1, 1) for each in (prediction, target, mask))
    return masked_explained_variances(*columns).squeeze(0)


def masked_explained_variances(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`masked_explained_variance` of each column of `[..., K]`: `[K]`, in as many operations as of one."""
    mask = mask.flatten(0, -2)
    errors = torch.where(mask, torch.stack((target - prediction, target)).flatten(1, -2), 0.0)
    means = errors.sum(1, keepdim=True) / mask.sum(0).clamp_min(1)
    unexplained, total = torch.where(mask, errors - means, 0.0).square().sum(1).unbind()
    return torch.where(total > 0.0, 1.0 - unexplained / total, 0.0)


def mask_logits(logits: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
    """Logits of a categorical distribution that gives illegal choices the probability 0.

    If no choice of a row is legal, all of its choices are equally likely: a row that is masked later must not be NaN.

    Args:
        logits: `[..., A]` float.
        legal: `[..., A]` bool, broadcastable.

    Returns:
        `[..., A]`.
    """
    return torch.where(legal, logits, ILLEGAL_LOGIT)
