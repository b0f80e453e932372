"""The sampled policy of a box of real numbers: normals clipped to its bounds.

One of the families of `sampled_policies.py`, where their methods are described.
"""

import math
from typing import Any

import gin
import torch

from alfish.specs import BoundedTensorSpec

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_SHIFT = math.log(math.e - 1.0)  # softplus(_SHIFT) is 1
_INSIDE = 1.0 - 1e-6


@gin.configurable
class SampledBox(torch.nn.Module):
    """Independent normals, one for each of D real numbers, clipped to the bounds of a box.

    The unit is half the width of the box, counted from its middle: a bounded number lies in [-1, 1]. Where a number has
    no bound, its unit is 1, counted from the bound that it has, or from 0. The parameters are D outputs m and then D
    outputs s of a network:

        mean = tanh(m), or m where a bound is missing
        std = smallest_std + (initial_std - smallest_std) softplus(s + log(e - 1))

    so that outputs of 0 give the mean 0 and the std `initial_std`. A mean stays within the bounds: a bound takes up to
    half of the probability, and there is always something else to try.

    A clipped normal has the density of the normal within the bounds and, on each bound, the probability of what lies
    beyond it (Fujita and Maeda 2018, https://arxiv.org/abs/1802.07564); log probabilities are of this
    mixture, in the unit above. The temperature τ multiplies the std by √τ; `math.inf` gives the uniform distribution
    within the bounds.

    Args:
        action_spec: a floating-point spec.
        smallest_std: lower limit of the std, above 0.
        initial_std: of an output of 0, larger than `smallest_std`.

    Raises:
        ValueError: a std is out of its range.
    """

    num_choices: int | None = None
    minimum: torch.Tensor
    maximum: torch.Tensor
    middle: torch.Tensor
    unit: torch.Tensor
    is_bounded: torch.Tensor

    def __init__(self, action_spec: BoundedTensorSpec, smallest_std: float = 0.05, initial_std: float = 0.5):
        super().__init__()
        if not 0.0 < smallest_std < initial_std < math.inf:
            raise ValueError(
                f"SampledBox.smallest_std is {smallest_std} and initial_std is {initial_std}; expected"
                " 0 < smallest_std < initial_std"
            )
        self._smallest_std, self._spread = smallest_std, initial_std - smallest_std
        self._shape = action_spec.shape
        self._dtype = action_spec.dtype
        self.vector_size = math.prod(action_spec.shape)
        self.num_parameters = 2 * self.vector_size
        low, high = (bound.double().expand(action_spec.shape).flatten() for bound in action_spec.bounds())
        both = low.isfinite() & high.isfinite()
        self.has_uniform = bool(both.all())
        one_sided = torch.where(low.isfinite(), low, torch.where(high.isfinite(), high, 0.0))
        self._bounded = bool((low.isfinite() | high.isfinite()).any())
        self.register_buffer("is_bounded", both.clone(), persistent=False)
        for name, values in (
            ("minimum", low),
            ("maximum", high),
            ("middle", torch.where(both, 0.5 * low + 0.5 * high, one_sided)),
            # A width of 0 would divide by 0; such a number has one value only, whatever the unit.
            ("unit", torch.where(both & (high > low), 0.5 * high - 0.5 * low, 1.0)),
        ):
            self.register_buffer(name, values.float(), persistent=False)

    def sample(
        self, parameters: torch.Tensor, num: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """See SampledPolicy."""
        shape = (*parameters.shape[:-1], num, self.vector_size)
        options: dict[str, Any] = {"dtype": torch.float32, "device": parameters.device, "generator": generator}
        if temperature == math.inf:
            # Within the bounds, where the uniform distribution has its density.
            numbers = (2.0 * torch.rand(shape, **options) - 1.0).clamp_(-_INSIDE, _INSIDE)
        else:
            mean, std = self._mean_and_std(parameters, temperature)
            numbers = torch.addcmul(mean.unsqueeze(-2), std.unsqueeze(-2), torch.randn(shape, **options))
        action = torch.addcmul(self.middle, self.unit, numbers)
        if self._bounded:
            action = torch.clamp(action, self.minimum, self.maximum)
        return action.unflatten(-1, self._shape) if self._shape else action.squeeze(-1)

    def log_prob(self, parameters: torch.Tensor, action: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """See SampledPolicy."""
        action = self._flat(action)
        below, above = action <= self.minimum, action >= self.maximum
        if temperature == math.inf:
            return torch.where(below ^ above, -math.inf, torch.where(below, 0.0, -math.log(2.0))).sum(-1)
        mean, std = (part.unsqueeze(-2) for part in self._mean_and_std(parameters, temperature))
        distance = ((action - self.middle) / self.unit - mean) / std
        log_prob = -0.5 * distance.square() - std.log() - _HALF_LOG_TWO_PI
        if self._bounded:
            low, high = self._limits(0.0)  # a bound that is not there is never reached, and must not give NaN gradients
            log_prob = torch.where(below, torch.special.log_ndtr((low - mean) / std), log_prob)
            log_prob = torch.where(above, torch.special.log_ndtr((mean - high) / std), log_prob)
        return log_prob.sum(-1)

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        """See SampledPolicy: of the mixture of the density and the two bounds."""
        mean, std = self._mean_and_std(parameters, 1.0)
        # Beyond 30 standard deviations nothing is left, and the gradients of log_ndtr lose all digits.
        low, high = (((limit - mean) / std).clamp(-30.0, 30.0) for limit in self._limits(1e9))
        log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(-high)
        inside = (torch.special.ndtr(high) - torch.special.ndtr(low)).clamp_min(0.0)
        edges = low * _density(low) - high * _density(high)
        entropy = inside * (std.log() + _HALF_LOG_TWO_PI + 0.5) + 0.5 * edges
        return (entropy - log_low.exp() * log_low - log_high.exp() * log_high).sum(-1)

    def as_vector(self, action: torch.Tensor) -> torch.Tensor:
        """See SampledPolicy: in the unit of the box."""
        return (self._flat(action) - self.middle) / self.unit

    def from_environment(self, action: torch.Tensor) -> torch.Tensor:
        """See SampledPolicy."""
        clipped = torch.clamp(self._flat(action.float()), self.minimum, self.maximum)
        return clipped.view(action.shape)

    def to_environment(self, action: torch.Tensor) -> torch.Tensor:
        """See SampledPolicy."""
        return action.to(self._dtype)

    def _mean_and_std(self, parameters: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = parameters.chunk(2, dim=-1)
        mean = torch.tanh(mean) if self.has_uniform else torch.where(self.is_bounded, torch.tanh(mean), mean)
        std = self._smallest_std + self._spread * torch.nn.functional.softplus(std + _SHIFT)
        return mean, std if temperature == 1.0 else std * math.sqrt(temperature)

    def _limits(self, absent: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The bounds in the unit of the box; ±`absent` where there is none."""
        low, high = (self.minimum - self.middle) / self.unit, (self.maximum - self.middle) / self.unit
        return torch.where(low.isfinite(), low, -absent), torch.where(high.isfinite(), high, absent)

    def _flat(self, action: torch.Tensor) -> torch.Tensor:
        return action.flatten(-len(self._shape)) if self._shape else action.unsqueeze(-1)


def _density(number: torch.Tensor) -> torch.Tensor:
    return torch.exp(-0.5 * number.square() - _HALF_LOG_TWO_PI)
