"""Replay priorities of segments from the errors of their rows."""

import torch


def max_mean_priority(error: torch.Tensor, is_counted: torch.Tensor, max_share: float) -> torch.Tensor:
    """A mixture of the largest and the mean error of each segment.

    Kapturowski et al., "Recurrent Experience Replay in Distributed Reinforcement Learning" (R2D2, 2019), section 2.3:

        p = eta max_t |error[t]| + (1 - eta) mean_t |error[t]|

    over the counted rows; with T = 1 the error itself (Schaul et al. 2016, section 3.3). 0 where no row is counted.

    Args:
        error: `[B, T]`.
        is_counted: `[B, T]` bool; what it leaves out has no influence, even if it is NaN.
        max_share: eta, in [0, 1].

    Returns:
        `[B]`, at least 0.
    """
    size = torch.where(is_counted, error.abs(), 0.0)
    mean = size.sum(dim=1) / is_counted.sum(dim=1).clamp_min(1)
    return torch.lerp(mean, size.amax(dim=1), max_share)
