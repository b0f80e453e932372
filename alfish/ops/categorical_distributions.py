"""Distributions of discrete actions: one choice, or several independent ones.

Two of the families of `distributions.py`, where their methods are described.

Illegal choices: pass the logits through `masking.mask_logits` before they come here. A masked choice has the
probability 0, is never drawn, is never the mode, adds 0 to the entropy and gets no gradient; its log probability is
about -1e30, finite, so that 0 times it is 0.
"""

import torch

from alfish.ops.masking import ILLEGAL_LOGIT
from alfish.specs import BoundedTensorSpec

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


class Categorical(torch.nn.Module):
    """One discrete choice of A; the parameters are A logits.

    Args:
        action_spec: a discrete scalar spec.
    """

    clips = False
    has_rsample = False
    log_std_indices = ()

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
    has_rsample = False
    log_std_indices = ()
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
