"""Ways in which the outputs of a network stand for a scalar, such as a value or a reward, and what they cost.

Each reads a scalar on a transformed scale (`value_transforms.py`). `CategoricalSupport`, MuZero's own, is defined
there; here are the protocol that a model asks of all of them, and the others:

    CategoricalSupport   S logits, a distribution over S bins; cross-entropy
    OrderedSupport       S - 1 logits, how much of each interval between bins is below it; binary cross-entropies
    QuantileSupport      N numbers, quantiles of the scalar's distribution; quantile Huber loss
    SquaredSupport       one number; squared error

Outputs of 0 stand for the middle of the bins, or 0: what a network whose heads start at zero predicts.
"""

import math
from typing import Protocol

import gin
import torch
import torch.nn.functional

from alfish.checks import check_at_least
from alfish.ops.value_losses import squared_error
from alfish.ops.value_transforms import IdentityTransform, ValueTransform, check_bins


class ScalarSupport(Protocol):
    """What a model needs to know of its value or reward head.

    Attributes:
        num_outputs: S, how many outputs of the network stand for one scalar.
        transform: how the scale of rewards is compressed.
    """

    num_outputs: int
    transform: ValueTransform

    def to_transformed(self, logits: torch.Tensor) -> torch.Tensor:
        """What outputs `[..., S]` stand for, `[...]`, on the transformed scale; differentiable."""

    def to_scalar(self, logits: torch.Tensor) -> torch.Tensor:
        """What outputs `[..., S]` stand for, `[...]`, on the scale of rewards; differentiable."""

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss `[...]` of outputs `[..., S]`, with gradient, against scalars `[...]` on the scale of rewards."""


@gin.configurable
class OrderedSupport(torch.nn.Module):
    """Ordered regression: one binary question for each interval between two of S evenly spaced bins.

    Cheng, Wang and Pollastri, "A neural network approach to ordinal regression" (2008), with intervals instead of
    ranks. Output k is the logit of the share of the interval from bin k to bin k+1 that lies below the scalar x on the
    transformed scale:

        y[k] = clip((x - bin[k]) / width, 0, 1)      loss = -sum_k (y[k] log p[k] + (1 - y[k]) log(1 - p[k]))
        x = bin[0] + width * sum_k p[k]              p = sigmoid(logits)

    y[k] is 1 below x, 0 above it, and shared in the interval that holds x, so that x comes back exactly. Unlike bins
    that are classes, neighbours that are wrong cost little and those far off much. The loss is a sum over S-1
    questions: larger than a cross-entropy over S bins by a factor that grows with S.

    Args:
        minimum: the transformed value of bin 0.
        maximum: the transformed value of bin S-1. A value whose transform lies beyond an end is clamped to it.
        num_bins: S, at least 2.
        transform: how the scale of rewards is compressed.

    Raises:
        ValueError: fewer than 2 bins, or ends that are not finite or not in order.
    """

    lower_bins: torch.Tensor

    def __init__(self, minimum: float, maximum: float, num_bins: int, transform: ValueTransform | None = None):
        super().__init__()
        check_bins("OrderedSupport", minimum, maximum, num_bins)
        self.num_outputs = int(num_bins) - 1
        self.transform: ValueTransform = IdentityTransform() if transform is None else transform
        self._minimum = float(minimum)
        self._width = (float(maximum) - float(minimum)) / self.num_outputs
        bins = torch.linspace(float(minimum), float(maximum), int(num_bins), dtype=torch.float64).to(torch.float32)
        self.register_buffer("lower_bins", bins[:-1].clone(), persistent=False)

    def to_transformed(self, logits: torch.Tensor) -> torch.Tensor:
        """See ScalarSupport."""
        return torch.sigmoid(logits).sum(-1) * self._width + self._minimum

    def to_scalar(self, logits: torch.Tensor) -> torch.Tensor:
        """See ScalarSupport."""
        return self.transform.inverse(self.to_transformed(logits))

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See ScalarSupport."""
        transformed = self.transform.forward(target).unsqueeze(-1)
        below = ((transformed - self.lower_bins) * (1.0 / self._width)).clamp(0.0, 1.0)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, below, reduction="none").sum(-1)


@gin.configurable
class QuantileSupport(torch.nn.Module):
    """Quantile regression: N outputs are the quantiles (i + 1/2) / N of the scalar on the transformed scale.

    Dabney, Rowland, Bellemare and Munos, "Distributional reinforcement learning with quantile regression" (2018),
    equations 9 and 10. With u = h(target) - output[i] and tau[i] = (i + 1/2) / N

        loss = mean_i |tau[i] - (u < 0)| L(u) / kappa      L(u) = u^2 / 2 if |u| <= kappa, else kappa (|u| - kappa / 2)

    The scalar is the mean of the quantiles, which a network need not keep in order. The paper sums over i; the mean is
    of the same size for any N. Divided by kappa, as in the authors' later papers, the loss of a kappa towards 0 is the
    quantile loss itself, |tau[i] - (u < 0)| |u|.

    Args:
        num_quantiles: N, at least 1.
        kappa: up to which error the loss is quadratic, at least 0, on the transformed scale. 0: nowhere.
        transform: how the scale of rewards is compressed.

    Raises:
        ValueError: an argument is out of range.
    """

    levels: torch.Tensor

    def __init__(self, num_quantiles: int, kappa: float = 1.0, transform: ValueTransform | None = None):
        super().__init__()
        check_at_least("QuantileSupport.num_quantiles", num_quantiles, 1)
        if not 0.0 <= kappa < math.inf:
            raise ValueError(f"QuantileSupport.kappa is {kappa}; it must be a finite number of at least 0")
        self.num_outputs = int(num_quantiles)
        self.transform: ValueTransform = IdentityTransform() if transform is None else transform
        self._kappa = float(kappa)
        self.register_buffer("levels", (torch.arange(num_quantiles) + 0.5) / num_quantiles, persistent=False)

    def to_transformed(self, logits: torch.Tensor) -> torch.Tensor:
        """See ScalarSupport."""
        return logits.mean(-1)

    def to_scalar(self, logits: torch.Tensor) -> torch.Tensor:
        """See ScalarSupport."""
        return self.transform.inverse(self.to_transformed(logits))

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See ScalarSupport."""
        error = self.transform.forward(target).unsqueeze(-1) - logits
        size = error.abs()
        if self._kappa > 0.0:
            kappa = self._kappa
            size = torch.where(size <= kappa, size.square() * (0.5 / kappa), size - 0.5 * kappa)
        return ((self.levels - (error.detach() < 0.0).to(error.dtype)).abs() * size).mean(-1)


@gin.configurable
class SquaredSupport(torch.nn.Module):
    """Plain regression: one output, the scalar on the transformed scale, with its squared error as the loss.

    Args:
        transform: how the scale of rewards is compressed; None leaves it, and the errors are those of rewards.
    """

    num_outputs = 1

    def __init__(self, transform: ValueTransform | None = None):
        super().__init__()
        self.transform: ValueTransform = IdentityTransform() if transform is None else transform

    def to_transformed(self, logits: torch.Tensor) -> torch.Tensor:
        """See ScalarSupport."""
        return logits.squeeze(-1)

    def to_scalar(self, logits: torch.Tensor) -> torch.Tensor:
        """See ScalarSupport."""
        return self.transform.inverse(self.to_transformed(logits))

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See ScalarSupport."""
        return squared_error(logits.squeeze(-1), self.transform.forward(target))
