"""Distributions of actions: categorical, several categoricals, diagonal normal.

`make_action_distribution(action_spec)` gives the family that fits a spec. A family is a function of one tensor of
parameters, the output of a network; it holds no parameters itself. Written out instead of taken from
torch.distributions, whose objects cost more than a small network does when they are built for every step of a rollout.

Random numbers come from torch's global generator.
"""

import math
from typing import Protocol

import torch

from alfish import nest
from alfish.ops.masking import ILLEGAL_LOGIT
from alfish.specs import BoundedTensorSpec

_MAX_CHOICES = 1_000_000
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_SMALLEST = torch.finfo(torch.float32).tiny


def sample_categorical(logits: torch.Tensor) -> torch.Tensor:
    """Draws indices `[...]` int64 from logits `[..., A]`, normalised or not; a probability of 0 is never drawn."""
    # An exponential race: the first of A clocks with rates p rings with probability p. A third of multinomial's time.
    probabilities = torch.softmax(logits, dim=-1)
    # exponential_ may return 0; clamped, so that 0 / 0 cannot elect an impossible choice.
    clocks = torch.empty_like(probabilities).exponential_().clamp_min_(_SMALLEST)
    return (probabilities / clocks).argmax(dim=-1)


def categorical_log_prob(log_probabilities: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Picks `[...]` from normalised log probabilities `[..., A]` at int64 indices `[...]`."""
    return log_probabilities.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def categorical_entropy(log_probabilities: torch.Tensor) -> torch.Tensor:
    """The entropy `[...]`, in nats, of normalised, finite log probabilities `[..., A]`."""
    return (log_probabilities.exp() * log_probabilities).sum(-1).neg()


class ActionDistribution(Protocol):
    """What the families below have in common.

    A *sample* is what the log probability is taken of; an *action* is what the environment gets. They differ only where
    `clips` is True.

    Attributes:
        num_parameters: size P of the last axis of the parameters.
        clips: True if `clip` may change a sample, so that training needs the sample beside the action.
    """

    num_parameters: int
    clips: bool

    def sample(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[..., P]` -> a sample `[..., *action shape]` and its log probability `[...]`."""

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        """`[..., P]` -> the most likely sample."""

    def clip(self, sample: torch.Tensor) -> torch.Tensor:
        """The action for a sample."""

    def evaluate(self, parameters: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The log probability `[...]` of given samples and the entropy `[...]` in nats; differentiable."""


class Categorical(torch.nn.Module):
    """One discrete choice of A; the parameters are A logits.

    Args:
        action_spec: a discrete scalar spec.
    """

    clips = False

    def __init__(self, action_spec: BoundedTensorSpec):
        super().__init__()
        self.num_parameters = action_spec.num_values
        self._first = int(action_spec.bounds()[0])
        self._dtype = action_spec.dtype

    def sample(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution."""
        log_probabilities = torch.log_softmax(parameters, dim=-1)
        index = sample_categorical(log_probabilities)
        return self._to_action(index), categorical_log_prob(log_probabilities, index)

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        """See ActionDistribution."""
        return self._to_action(parameters.argmax(dim=-1))

    def clip(self, sample: torch.Tensor) -> torch.Tensor:
        """See ActionDistribution."""
        return sample

    def evaluate(self, parameters: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution."""
        log_probabilities = torch.log_softmax(parameters, dim=-1)
        index = sample.to(torch.int64)
        if self._first:
            index = index - self._first
        return categorical_log_prob(log_probabilities, index), categorical_entropy(log_probabilities)

    def _to_action(self, index: torch.Tensor) -> torch.Tensor:
        return (index + self._first if self._first else index).to(self._dtype)


class MultiCategorical(torch.nn.Module):
    """D independent discrete choices, one for each element of the action.

    The parameters are D times as many logits as the element with the most values has; an element with fewer values
    ignores the surplus, which gets no gradient.

    Args:
        action_spec: a discrete spec that is not a scalar; its elements may have different bounds.
    """

    clips = False
    first: torch.Tensor
    surplus: torch.Tensor

    def __init__(self, action_spec: BoundedTensorSpec):
        super().__init__()
        minimum, maximum = (bound.to(torch.int64).expand(action_spec.shape) for bound in action_spec.bounds())
        num_values = (maximum - minimum + 1).flatten()
        self._dims = num_values.numel()
        self._most = int(num_values.max())
        self.num_parameters = self._dims * self._most
        self._shape = action_spec.shape
        self._dtype = action_spec.dtype
        self._padded = bool((num_values < self._most).any())
        self.register_buffer("first", minimum.flatten(), persistent=False)
        self.register_buffer("surplus", torch.arange(self._most) >= num_values.unsqueeze(-1), persistent=False)

    def sample(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution."""
        log_probabilities = torch.log_softmax(self._logits(parameters), dim=-1)
        index = sample_categorical(log_probabilities)
        return self._to_action(index), categorical_log_prob(log_probabilities, index).sum(-1)

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        """See ActionDistribution."""
        return self._to_action(self._logits(parameters).argmax(dim=-1))

    def clip(self, sample: torch.Tensor) -> torch.Tensor:
        """See ActionDistribution."""
        return sample

    def evaluate(self, parameters: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution."""
        log_probabilities = torch.log_softmax(self._logits(parameters), dim=-1)
        index = sample.flatten(-len(self._shape)).to(torch.int64) - self.first
        return categorical_log_prob(log_probabilities, index).sum(-1), categorical_entropy(log_probabilities).sum(-1)

    def _logits(self, parameters: torch.Tensor) -> torch.Tensor:
        logits = parameters.unflatten(-1, (self._dims, self._most))
        return logits.masked_fill(self.surplus, ILLEGAL_LOGIT) if self._padded else logits

    def _to_action(self, index: torch.Tensor) -> torch.Tensor:
        return (index + self.first).to(self._dtype).unflatten(-1, self._shape)


class DiagonalNormal(torch.nn.Module):
    """Independent normals, one for each of the D elements of the action.

    The parameters are D means and then D logarithms of standard deviations. An action is a sample clipped to the bounds
    of the spec; the log probability and the entropy are those of the sample before it is clipped.

    Args:
        action_spec: a floating-point spec, bounded or not.
    """

    minimum: torch.Tensor
    maximum: torch.Tensor

    def __init__(self, action_spec: BoundedTensorSpec):
        super().__init__()
        self.num_dims = math.prod(action_spec.shape)
        self.num_parameters = 2 * self.num_dims
        self._shape = action_spec.shape
        self._dtype = action_spec.dtype
        self._is_vector = len(action_spec.shape) == 1
        minimum, maximum = action_spec.bounds()
        self.clips = bool(minimum.isfinite().any() or maximum.isfinite().any())
        self.register_buffer("minimum", minimum, persistent=False)
        self.register_buffer("maximum", maximum, persistent=False)

    def sample(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution."""
        mean, log_std = parameters.chunk(2, dim=-1)
        noise = torch.randn_like(mean)
        log_prob = -(0.5 * noise.square() + log_std + _HALF_LOG_TWO_PI).sum(-1)
        return self._to_shape(torch.addcmul(mean, log_std.exp(), noise)), log_prob

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        """See ActionDistribution."""
        return self._to_shape(parameters[..., : self.num_dims])

    def clip(self, sample: torch.Tensor) -> torch.Tensor:
        """See ActionDistribution."""
        return torch.clamp(sample, self.minimum, self.maximum) if self.clips else sample

    def evaluate(self, parameters: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution."""
        mean, log_std = parameters.chunk(2, dim=-1)
        if not self._is_vector:
            sample = sample.flatten(-len(self._shape)) if self._shape else sample.unsqueeze(-1)
        noise = (sample.to(mean.dtype) - mean) * torch.exp(-log_std)
        log_prob = -(0.5 * noise.square() + log_std + _HALF_LOG_TWO_PI).sum(-1)
        return log_prob, (log_std + (0.5 + _HALF_LOG_TWO_PI)).sum(-1)

    def _to_shape(self, sample: torch.Tensor) -> torch.Tensor:
        sample = sample.to(self._dtype)
        if self._is_vector:
            return sample
        return sample.unflatten(-1, self._shape) if self._shape else sample.squeeze(-1)


def make_action_distribution(action_spec: nest.Nest) -> Categorical | MultiCategorical | DiagonalNormal:
    """The family of distributions for the actions of a spec.

    Args:
        action_spec: one BoundedTensorSpec: a discrete scalar gives Categorical, a discrete array MultiCategorical, a
            floating-point one DiagonalNormal.

    Raises:
        ValueError: `check_action_spec`.
    """
    check_action_spec(action_spec)
    if not action_spec.is_discrete:
        return DiagonalNormal(action_spec)
    return Categorical(action_spec) if action_spec.shape == () else MultiCategorical(action_spec)


def check_action_spec(action_spec: nest.Nest) -> None:
    """Checks that there can be a distribution of the actions of a spec.

    Raises:
        ValueError: the spec is a nest, has no elements, has bounds in the wrong order, or allows too many values to
            have a logit for each.
    """
    if not isinstance(action_spec, BoundedTensorSpec):
        raise ValueError(
            f"there is no action distribution for {action_spec!r}; expected one BoundedTensorSpec: join the parts of a "
            "nested action into one array in the environment, or write a distribution for them"
        )
    if 0 in action_spec.shape:
        raise ValueError(f"the action spec {action_spec} has no elements; expected at least one")
    minimum, maximum = action_spec.bounds()
    if not action_spec.is_discrete:
        if not bool((minimum <= maximum).all()):
            raise ValueError(f"the action spec {action_spec} has a minimum above its maximum")
        return
    most = int((maximum.to(torch.float64) - minimum.to(torch.float64)).max()) + 1
    least = int((maximum.to(torch.float64) - minimum.to(torch.float64)).min()) + 1
    if least < 1 or most * math.prod(action_spec.shape) > _MAX_CHOICES:
        raise ValueError(
            f"the action spec {action_spec} has elements of {least} to {most} values; a logit for each value needs "
            f"between 1 and {_MAX_CHOICES} in all: check the bounds, or use a floating-point action"
        )
