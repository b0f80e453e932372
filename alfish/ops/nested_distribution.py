"""The distribution of a nest of actions: one family for each part, independent of each other.

One of the families of `distributions.py`, where their methods are described.
"""

from collections.abc import Sequence
from typing import Any

import torch

from alfish import nest


class NestedDistribution(torch.nn.Module):
    """Independent distributions of the parts of a nested action.

    The parameters are those of the parts, one after the other in the order of `nest.leaves` (dictionaries by their
    sorted keys). Samples, modes and actions are nests; log probabilities and entropies are the sums over the parts.

    Args:
        parts: a nest of action distributions, with the structure of the action.
    """

    def __init__(self, parts: nest.Nest):
        super().__init__()
        families = nest.leaves(parts)
        # torch.compile can follow a map over a nest of numbers, but not a treespec that was made outside.
        self._numbers = nest.unflatten(nest.structure(parts), range(len(families)))
        self._sizes = [family.num_parameters for family in families]
        self._parts: Any = torch.nn.ModuleList(families)  # to mypy a module's attributes are tensors or modules
        self.num_parameters = sum(self._sizes)
        self.clips = any(family.clips for family in families)
        self.has_rsample = all(family.has_rsample for family in families)
        starts = [sum(self._sizes[:i]) for i in range(len(families))]
        self.log_std_indices = tuple(
            start + index for start, family in zip(starts, families, strict=True) for index in family.log_std_indices
        )

    def sample(self, parameters: torch.Tensor) -> tuple[nest.Nest, torch.Tensor]:
        """See ActionDistribution."""
        return self._joined([part.sample(own) for part, own in self._split(parameters)])

    def rsample(self, parameters: torch.Tensor) -> tuple[nest.Nest, torch.Tensor]:
        """See ActionDistribution; only where every part has it."""
        return self._joined([part.rsample(own) for part, own in self._split(parameters)])

    def mode(self, parameters: torch.Tensor) -> nest.Nest:
        """See ActionDistribution."""
        return self._nested([part.mode(own) for part, own in self._split(parameters)])

    def clip(self, sample: nest.Nest) -> nest.Nest:
        """See ActionDistribution."""
        if not self.clips:
            return sample
        leaves = zip(self._parts, nest.leaves(sample), strict=True)
        return self._nested([part.clip(leaf) for part, leaf in leaves])

    def evaluate(self, parameters: torch.Tensor, sample: nest.Nest) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution."""
        pairs = zip(self._split(parameters), nest.leaves(sample), strict=True)
        log_probs, entropies = zip(*[part.evaluate(own, leaf) for (part, own), leaf in pairs], strict=True)
        return _total(log_probs), _total(entropies)

    def _split(self, parameters: torch.Tensor) -> list[tuple[Any, torch.Tensor]]:
        return list(zip(self._parts, parameters.split(self._sizes, dim=-1), strict=True))

    def _nested(self, leaves: Sequence[torch.Tensor]) -> nest.Nest:
        return nest.map_structure(lambda number: leaves[number], self._numbers)

    def _joined(self, drawn: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[nest.Nest, torch.Tensor]:
        samples, log_probs = zip(*drawn, strict=True)
        return self._nested(samples), _total(log_probs)


def _total(terms: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.stack(terms).sum(0)
