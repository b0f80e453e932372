"""Distributions of floating-point actions between bounds: independent Beta distributions.

One of the families of `distributions.py`, where their methods are described.
"""

import math

import torch

from alfish.ops.box_distributions import BoxStretch, as_action, as_vector
from alfish.specs import BoundedTensorSpec

_LARGEST = 1.0e6
_INSIDE = 2.0**-24
_LOG_TWO = math.log(2.0)


class BetaDistribution(torch.nn.Module):
    """Independent Beta distributions between the bounds, for each of the D elements of the action.

        action = minimum + (maximum - minimum) * x,    x ~ Beta(a, b),    a = 1 + softplus(p),    b = 1 + softplus(q)

    Chou et al., "Improving Stochastic Policy Gradients in Continuous Control with Deep Reinforcement Learning using
    the Beta Distribution" (2017). The parameters are D numbers p and then D numbers q. With a and b at
    least 1 the density has one peak; a and b go up to 1e6, without a gradient beyond. No probability is lost beyond the
    bounds, as it is by a normal that is clipped.

    A *sample* is x; `clip` makes the action of it, and `clips` is True. The log probability is the density of
    2x - 1, the action in units of half the width of the box, whatever the environment's units; in these it is less
    by `sum(log(half_width))`, a constant. It is taken at least 2^-24 inside of the bounds, so it is finite for every
    x in [0, 1]. The mode is (a - 1) / (a + b - 2), and 1/2 where a = b = 1, the uniform distribution. The entropy is
    exact and never exceeds log 2 for each element. Both are computed in float64, because the logarithms of the Gamma
    function cancel.

    Args:
        action_spec: a floating-point spec with finite bounds. An element whose bounds are equal is always that.

    Raises:
        ValueError: an element has no bound.
    """

    clips = True
    has_rsample = True
    log_std_indices = ()

    def __init__(self, action_spec: BoundedTensorSpec):
        super().__init__()
        self.num_dims = math.prod(action_spec.shape)
        self.num_parameters = 2 * self.num_dims
        self._shape = action_spec.shape
        self._stretch = BoxStretch(action_spec, "Beta")

    def sample(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution."""
        excess = _excess(parameters)
        first, second = (1.0 + excess).chunk(2, dim=-1)
        sample = torch.distributions.Beta(first, second, validate_args=False).rsample()
        return as_action(sample, self._shape), _log_prob(excess, sample)

    def rsample(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution; `clip` keeps the gradient.

        By implicit differentiation of the distribution function (Figurnov et al., "Implicit Reparameterization
        Gradients", 2018), as torch.distributions does it.
        """
        return self.sample(parameters)

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        """See ActionDistribution."""
        first, second = (_excess(parameters) + torch.finfo(parameters.dtype).tiny).chunk(2, dim=-1)
        return as_action(first / (first + second), self._shape)

    def clip(self, sample: torch.Tensor) -> torch.Tensor:
        """See ActionDistribution: stretched to the bounds; differentiable."""
        return self._stretch(2.0 * sample - 1.0)

    def evaluate(self, parameters: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution."""
        excess = _excess(parameters)
        return _log_prob(excess, as_vector(sample, self._shape)), _entropy(excess)


def _excess(parameters: torch.Tensor) -> torch.Tensor:
    """Of a and then of b, what is above 1; `[..., 2D]`."""
    return torch.nn.functional.softplus(parameters).clamp_max(_LARGEST)


def _log_normaliser(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The logarithm of twice the Beta function: of 2x - 1 instead of x; the arguments are a - 1 and b - 1."""
    return torch.lgamma(1.0 + first) + torch.lgamma(1.0 + second) - torch.lgamma(2.0 + first + second) + _LOG_TWO


def _log_prob(excess: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    first, second = excess.double().chunk(2, dim=-1)
    inside = sample.double().clamp(_INSIDE, 1.0 - _INSIDE)
    kernel = first * torch.log(inside) + second * torch.log1p(-inside)
    return (kernel - _log_normaliser(first, second)).sum(-1).to(excess.dtype)


def _entropy(excess: torch.Tensor) -> torch.Tensor:
    first, second = excess.double().chunk(2, dim=-1)
    digammas = first * torch.digamma(1.0 + first) + second * torch.digamma(1.0 + second)
    both = (first + second) * torch.digamma(2.0 + first + second)
    return (_log_normaliser(first, second) - digammas + both).sum(-1).to(excess.dtype)
