"""What a tensor looks like before it exists: shape, dtype and, where they are known, bounds."""

import dataclasses
import math
from typing import Any, TypeGuard

import numpy as np
import torch

from alfish import nest

Bound = float | tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of one tensor, without batch or time axes.

    Args:
        shape: sizes of the axes; `()` for a scalar.
        dtype: a torch dtype.
    """

    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32

    @property
    def num_bytes(self) -> int:
        """Bytes that one tensor of this spec takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def zeros(self, outer_dims: tuple[int, ...] = (), device: torch.device | str = "cpu") -> torch.Tensor:
        """A tensor of zeros of shape `outer_dims + shape`."""
        return torch.zeros(outer_dims + self.shape, dtype=self.dtype, device=device)


@dataclasses.dataclass(frozen=True)
class BoundedTensorSpec(TensorSpec):
    """A TensorSpec whose elements lie in `[minimum, maximum]`, both ends included.

    Args:
        minimum: a number, or nested tuples that broadcast to `shape`.
        maximum: likewise. An integer dtype makes the spec discrete: the values `minimum, …, maximum`.
    """

    minimum: Bound = 0.0
    maximum: Bound = 1.0

    @classmethod
    def from_arrays(
        cls, shape: tuple[int, ...], dtype: torch.dtype, minimum: np.ndarray | float, maximum: np.ndarray | float
    ) -> "BoundedTensorSpec":
        """Builds a spec from bounds given as arrays; a bound that is the same everywhere becomes one number."""
        return cls(tuple(shape), dtype, _compact(minimum), _compact(maximum))

    @property
    def is_discrete(self) -> bool:
        """True if the elements are integers."""
        return not self.dtype.is_floating_point

    @property
    def num_values(self) -> int:
        """How many values a discrete scalar spec has: the axis A of an action.

        Raises:
            ValueError: the spec is not a discrete scalar.
        """
        if not is_choice(self):
            raise ValueError(f"{self} is not one discrete choice; expected an integer dtype and the shape ()")
        return int(self.maximum) - int(self.minimum) + 1  # type: ignore[arg-type]  # scalars have scalar bounds

    def bounds(self, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """`(minimum, maximum)` as tensors of this spec's dtype that broadcast to its shape."""
        return (
            torch.as_tensor(self.minimum, dtype=self.dtype, device=device),
            torch.as_tensor(self.maximum, dtype=self.dtype, device=device),
        )


def is_choice(spec: nest.Nest) -> TypeGuard[BoundedTensorSpec]:
    """True for one discrete choice: a BoundedTensorSpec of integers with the shape `()`, and not a nest of them."""
    return isinstance(spec, BoundedTensorSpec) and spec.is_discrete and spec.shape == ()


def _compact(bound: np.ndarray | float) -> Bound:
    array = np.asarray(bound)
    if array.size and (array == array.flat[0]).all():
        return array.flat[0].item()
    return _nested_tuple(array.tolist())


def _nested_tuple(values: Any) -> Any:
    return tuple(_nested_tuple(value) for value in values) if isinstance(values, list) else values


def zeros(specs: nest.Nest, outer_dims: tuple[int, ...] = (), device: torch.device | str = "cpu") -> nest.Nest:
    """A nest of zeros for a nest of specs, each of shape `outer_dims + spec.shape`."""
    return nest.map_structure(lambda spec: spec.zeros(outer_dims, device), specs)


def spec_of(tensors: nest.Nest, outer_dims: int = 0) -> nest.Nest:
    """The specs of a nest of tensors, without their first `outer_dims` axes."""
    return nest.map_structure(lambda tensor: TensorSpec(tuple(tensor.shape[outer_dims:]), tensor.dtype), tensors)


def num_bytes(specs: nest.Nest) -> int:
    """Bytes of one element of a nest of specs."""
    return sum(spec.num_bytes for spec in nest.leaves(specs))
