"""Transforms of values, and the categorical support that stands for a scalar as a distribution over S bins."""

import math
from typing import Protocol

import gin
import torch

from alfish.checks import check_at_least
from alfish.ops.value_losses import categorical_cross_entropy


class ValueTransform(Protocol):
    """A strictly increasing function of a value and its inverse, both elementwise and differentiable.

    A transform of one's own is equal to itself only, unless it defines `__eq__`: a model decodes two numbers of equal
    transforms at once.
    """

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """From the scale of rewards to the compressed scale."""

    def inverse(self, transformed: torch.Tensor) -> torch.Tensor:
        """From the compressed scale back."""


@gin.configurable
class IdentityTransform:
    """The transform that changes nothing."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Returns `value`."""
        return value

    def inverse(self, transformed: torch.Tensor) -> torch.Tensor:
        """Returns `transformed`."""
        return transformed

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


@gin.configurable
class SignedHyperbolicTransform:
    """h(x) = sign(x) * (sqrt(|x| + 1) - 1) + epsilon * x.

    Pohlen et al., "Observe and Look Further: Achieving Consistent Performance on Atari" (2018), section 3.2, and
    proposition A.2 for the inverse

        h^-1(y) = sign(y) * (((sqrt(1 + 4 epsilon (|y| + 1 + epsilon)) - 1) / (2 epsilon))^2 - 1).

    Both are computed in a form without the differences of nearly equal numbers, which lose three of float32's seven
    digits near 0 in the formulas above; the gradient at 0 is exact.

    Args:
        epsilon: slope of the linear part, at least 0; it makes the inverse Lipschitz continuous. The paper uses 0.01,
            MuZero (Schrittwieser et al. 2020, appendix F) 0.001.
    """

    def __init__(self, epsilon: float = 0.001):
        if not (math.isfinite(epsilon) and epsilon >= 0.0):
            raise ValueError(f"SignedHyperbolicTransform.epsilon is {epsilon}; expected a finite number >= 0")
        self.epsilon = epsilon

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """h, elementwise."""
        # sign(x) (sqrt(|x|+1) - 1) = x / (sqrt(|x|+1) + 1)
        return value / ((value.abs() + 1.0).sqrt() + 1.0) + self.epsilon * value

    def inverse(self, transformed: torch.Tensor) -> torch.Tensor:
        """The inverse of h, elementwise."""
        # With s half the square root above and t = y / (s + 1/2 + epsilon), the bracket is (1 + |t|)^2 - 1.
        half = 0.5 + self.epsilon
        root = (transformed.abs() * self.epsilon + half**2).sqrt()
        scaled = transformed / (root + half)
        return scaled * (scaled.abs() + 2.0)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), self.epsilon))


def check_bins(owner: str, minimum: float, maximum: float, num_bins: int) -> None:
    """Raises a ValueError if there are fewer than 2 bins, or their ends are not finite or not in order."""
    check_at_least(f"{owner}.num_bins", num_bins, 2)
    if not (math.isfinite(minimum) and math.isfinite(maximum) and minimum < maximum):
        raise ValueError(
            f"{owner}.minimum is {minimum} and .maximum is {maximum}; expected two finite numbers, the minimum below "
            "the maximum, on the transformed scale"
        )


@gin.configurable
class CategoricalSupport(torch.nn.Module):
    """Scalars as distributions over S evenly spaced bins of a transformed scale.

    MuZero (Schrittwieser et al. 2020, appendix F): a scalar is transformed, and a transformed scalar that lies between
    two bins becomes the two weights whose expectation it is ("two-hot"). What a network predicts is read as the
    expectation of its softmax, transformed back.

    Bin k stands for the transformed value minimum + k * (maximum - minimum) / (S - 1). A value whose transform lies
    beyond the ends is clamped to the nearest end: choose ends that the largest return does not reach.

    Args:
        minimum: the transformed value of bin 0.
        maximum: the transformed value of bin S-1.
        num_bins: S, at least 2.
        transform: how the scale of rewards is compressed.

    Raises:
        ValueError: fewer than 2 bins, or ends that are not finite or not in order.
    """

    bins: torch.Tensor

    def __init__(self, minimum: float, maximum: float, num_bins: int, transform: ValueTransform | None = None):
        super().__init__()
        check_bins("CategoricalSupport", minimum, maximum, num_bins)
        self.minimum = float(minimum)
        self.maximum = float(maximum)
        self.num_bins = self.num_outputs = int(num_bins)
        self.transform: ValueTransform = IdentityTransform() if transform is None else transform
        self._bins_per_unit = (num_bins - 1) / (self.maximum - self.minimum)
        bins = torch.linspace(self.minimum, self.maximum, num_bins, dtype=torch.float64).to(torch.float32)
        self.register_buffer("bins", bins, persistent=False)

    def to_probabilities(self, scalar: torch.Tensor) -> torch.Tensor:
        """The two-hot distributions of scalars; differentiable.

        Args:
            scalar: `[...]` float, on the scale of rewards.

        Returns:
            `[..., S]`, non-negative, each summing to 1. The distribution of a NaN holds NaN.
        """
        transformed = self.transform.forward(scalar).clamp(self.minimum, self.maximum)
        position = (transformed - self.minimum) * self._bins_per_unit
        # The clamp puts the top end into the last interval and keeps the index of a NaN inside the support.
        lower = position.detach().to(torch.int64).clamp_(0, self.num_bins - 2)
        upper_weight = (position - lower).unsqueeze(-1)
        lower = lower.unsqueeze(-1)
        # Scattering, and not relu(1 - |position - bin|), because S is up to 601: 40 times faster for 1536 scalars.
        probabilities = scalar.new_zeros(scalar.shape + (self.num_bins,))
        return probabilities.scatter_(-1, lower, 1.0 - upper_weight).scatter_(-1, lower + 1, upper_weight)

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The cross-entropy `[...]` of logits `[..., S]` against scalars `[...]` on the scale of rewards."""
        return categorical_cross_entropy(logits, self.to_probabilities(target))

    def to_scalar(self, logits: torch.Tensor) -> torch.Tensor:
        """The scalars that logits stand for: expectation of the softmax, then the inverse transform; differentiable.

        Args:
            logits: `[..., S]` float.

        Returns:
            `[...]`, on the scale of rewards.
        """
        return self.transform.inverse(self.to_transformed(logits))

    def to_transformed(self, logits: torch.Tensor) -> torch.Tensor:
        """Like `to_scalar`, on the transformed scale."""
        return torch.matmul(torch.softmax(logits, dim=-1), self.bins)

    def expectation(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Like `to_scalar` for probabilities `[..., S]`; inverts `to_probabilities` inside the support."""
        return self.transform.inverse(torch.matmul(probabilities, self.bins))
