"""Policies from which a search draws candidate actions (Hubert et al. 2021, https://arxiv.org/abs/2104.06303).

`make_sampled_policy(action_spec)` gives the family that fits a spec. Like the families of `distributions.py`, a family
is a function of one tensor of parameters, the output of a network. Unlike them it draws several actions per row, from
the policy sharpened or flattened by a temperature, from a generator of choice; it knows illegal choices; and what it
draws is the action itself, so that two draws are the same candidate exactly if they act the same: indices from 0 on for
choices, numbers within the bounds for a box.
"""

import math
from typing import Protocol

import torch

from alfish import nest
from alfish.ops.distributions import check_action_spec
from alfish.ops.masking import ILLEGAL_LOGIT
from alfish.ops.sampled_box import SampledBox
from alfish.specs import BoundedTensorSpec

_BELOW_ONE = 1.0 - 2.0**-50


class SampledPolicy(Protocol):
    """What the families below have in common. Shapes: `action` stands for the shape of one action.

    `temperature` is τ of π^(1/τ), normalised, larger than 0: 1 is the policy π itself, `math.inf` the uniform
    distribution over the legal actions.

    Attributes:
        num_parameters: size P of the last axis of the parameters.
        num_choices: A if an action is one discrete choice, else None.
        vector_size: size V of an action as a vector.
        has_uniform: False if the actions are unbounded, so that none is uniform.
    """

    num_parameters: int
    num_choices: int | None
    vector_size: int
    has_uniform: bool

    def sample(
        self, parameters: torch.Tensor, num: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """`[B, P]` -> `num` independent draws with replacement, `[B, num, action]`.

        `generator` is on the device of the parameters; None draws from torch's global one. No synchronisation.
        """

    def log_prob(self, parameters: torch.Tensor, action: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """`[..., P]` and `[..., K, action]` -> `[..., K]`, differentiable; -inf exactly for impossible actions."""

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        """`[..., P]` -> `[...]`, in nats."""

    def as_vector(self, action: torch.Tensor) -> torch.Tensor:
        """`[..., action]` -> `[..., V]` float32, as a network reads it."""

    def from_environment(self, action: torch.Tensor) -> torch.Tensor:
        """The environment's actions `[..., action]` as candidates. What is out of bounds goes to the nearest bound."""

    def to_environment(self, action: torch.Tensor) -> torch.Tensor:
        """Candidates `[..., action]` as the environment takes them."""


class SampledChoices(torch.nn.Module):
    """One discrete choice, or D independent ones; candidates are int64 indices from 0 on.

    The parameters are the logits of each choice, -inf for an illegal one; several choices have as many logits each as
    the one with the most values, and ignore the surplus. Draws invert the cumulative distribution in float64: their
    memory grows with A plus the number of draws, not with their product. A row with a NaN or +inf gives NaN log
    probabilities, so that whoever reads them notices.

    Args:
        action_spec: a discrete spec.
    """

    has_uniform = True
    first: torch.Tensor
    num_values: torch.Tensor

    def __init__(self, action_spec: BoundedTensorSpec):
        super().__init__()
        minimum, maximum = (bound.to(torch.int64).expand(action_spec.shape) for bound in action_spec.bounds())
        num_values = maximum - minimum + 1
        self._shape = action_spec.shape
        self._dtype = action_spec.dtype
        self._most = int(num_values.max())
        self._dims = num_values.numel()
        self._padded = bool((num_values < self._most).any())
        self.num_parameters = self.vector_size = self._dims * self._most
        self.num_choices = self._most if self._shape == () else None
        self.register_buffer("first", minimum.clone(), persistent=False)
        self.register_buffer("num_values", num_values.clone(), persistent=False)

    def sample(
        self, parameters: torch.Tensor, num: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """See SampledPolicy."""
        probabilities = torch.softmax(_tempered(self._logits(parameters), temperature), dim=-1)
        cumulative = probabilities.cumsum(-1, dtype=torch.float64)
        shape = (*cumulative.shape[:-1], num)
        uniform = torch.rand(shape, dtype=torch.float64, device=parameters.device, generator=generator)
        # Scaled to stay below the last entry: then the first entry above a number is there, and is never one that only
        # repeats the entry before it, as those of probability 0 do.
        uniform = uniform * (cumulative[..., -1:] * _BELOW_ONE)
        index = torch.searchsorted(cumulative, uniform, right=True)
        # Rows of NaN find nothing and point behind the last choice.
        return self._shaped(index.clamp_max_(self._most - 1).transpose(-1, -2))

    def log_prob(self, parameters: torch.Tensor, action: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """See SampledPolicy."""
        index = action.unsqueeze(-1) if self._shape == () else action.flatten(-len(self._shape))
        index = index.transpose(-1, -2)
        logits = self._logits(parameters)
        log_probabilities = torch.log_softmax(_tempered(logits, temperature), dim=-1).gather(-1, index)
        # Log probabilities too small for a float stay finite: -inf is for illegal choices.
        illegal = logits.gather(-1, index) == -math.inf
        return log_probabilities.clamp_min(ILLEGAL_LOGIT).masked_fill(illegal, -math.inf).sum(-2)

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        """See SampledPolicy."""
        log_probabilities = torch.log_softmax(self._logits(parameters), dim=-1)
        probabilities = log_probabilities.exp()
        return (probabilities * log_probabilities.clamp_min(ILLEGAL_LOGIT)).sum((-2, -1)).neg()

    def as_vector(self, action: torch.Tensor) -> torch.Tensor:
        """See SampledPolicy: one-hot vectors, one after the other."""
        index = action.unsqueeze(-1) if self._shape == () else action.flatten(-len(self._shape))
        choices = torch.arange(self._most, device=action.device)
        return (index.unsqueeze(-1) == choices).flatten(-2).float()

    def from_environment(self, action: torch.Tensor) -> torch.Tensor:
        """See SampledPolicy."""
        index = action.to(torch.int64) - self.first
        return torch.minimum(index.clamp_min(0), self.num_values - 1)

    def to_environment(self, action: torch.Tensor) -> torch.Tensor:
        """See SampledPolicy."""
        return (action + self.first).to(self._dtype)

    def _logits(self, parameters: torch.Tensor) -> torch.Tensor:
        logits = parameters.unflatten(-1, (self._dims, self._most))
        if self._padded:
            surplus = torch.arange(self._most, device=logits.device) >= self.num_values.flatten().unsqueeze(-1)
            logits = logits.masked_fill(surplus, -math.inf)
        return logits

    def _shaped(self, index: torch.Tensor) -> torch.Tensor:
        return index.unflatten(-1, self._shape) if self._shape else index.squeeze(-1)


def _tempered(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logits of π^(1/τ)."""
    if temperature == 1.0:
        return logits
    if temperature == math.inf:
        return torch.where(logits == -math.inf, logits, 0.0)
    # The maximum is taken off before the division, so that a small temperature cannot overflow.
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def make_sampled_policy(action_spec: nest.Nest) -> SampledChoices | SampledBox:
    """The family of sampled policies for the actions of a spec.

    Args:
        action_spec: one BoundedTensorSpec: a discrete one gives SampledChoices, a floating-point one SampledBox.

    Raises:
        ValueError: there can be no distribution of such actions (`check_action_spec`).
    """
    check_action_spec(action_spec)
    return SampledChoices(action_spec) if action_spec.is_discrete else SampledBox(action_spec)
