"""From Gymnasium's spaces to specs, one registered function per kind of space."""

import dataclasses
import functools
from typing import Any

import gymnasium
import numpy as np
import torch

from alfish import nest, specs

_INTEGER_DTYPES = {
    np.dtype(np.bool_): torch.uint8,
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.int8): torch.int8,
    np.dtype(np.int16): torch.int16,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
    # torch has these in name only: no arithmetic, no indexing.
    np.dtype(np.uint16): torch.int32,
    np.dtype(np.uint32): torch.int64,
}


@dataclasses.dataclass(frozen=True)
class Codec:
    """How one leaf of a space becomes a tensor, and back.

    Args:
        spec: of the tensor.
        dtype: of the environment's array.
        offset: the environment's value minus the tensor's: discrete values start at 0 in a tensor. None for 0.
        maximum: the largest tensor value of a discrete leaf, uint64; None for others.
    """

    spec: specs.BoundedTensorSpec
    dtype: np.dtype
    offset: np.ndarray | None = None
    maximum: np.ndarray | None = None


def observation_codecs(space: gymnasium.Space) -> nest.Nest:
    """The codecs of an observation space, nested like it.

    Floats become float32, `uint8` stays `uint8`, `Discrete` and `MultiDiscrete` become int64 that starts at 0.

    Raises:
        ValueError: names the path of a space that has no tensor form, and what to do.
    """
    return _codecs(space, "observation")


def action_codecs(space: gymnasium.Space) -> nest.Nest:
    """The codecs of an action space, nested like it. Discrete actions are int64 that start at 0, Boxes float32.

    Raises:
        ValueError: names the path of a space that has no tensor form, and what to do.
    """
    codecs = _codecs(space, "action")

    def as_action(path: str, codec: Codec) -> Codec:
        if codec.spec.dtype.is_floating_point:
            return codec
        if codec.maximum is None:
            raise ValueError(
                f"action{path and '.' + path} is a Box of {codec.dtype}; an action is Discrete, MultiDiscrete, "
                "MultiBinary, a float Box, or a Dict or Tuple of these: add a wrapper that offers one of them"
            )
        return dataclasses.replace(codec, spec=dataclasses.replace(codec.spec, dtype=torch.int64))

    return nest.map_with_path(as_action, codecs)


def outside(values: np.ndarray, maximum: np.ndarray) -> np.ndarray:
    """Where integers are not in `0…maximum`."""
    # Seen as unsigned, a negative number is a huge one: one comparison instead of two, at every step.
    unsigned = values.view(np.uint64) if values.dtype == np.int64 else values.astype(np.int64).view(np.uint64)
    return unsigned > maximum


def specs_of(codecs: nest.Nest) -> nest.Nest:
    """The specs of a nest of codecs."""
    return nest.map_structure(lambda codec: codec.spec, codecs)


@functools.singledispatch
def _codecs(space: Any, path: str) -> nest.Nest:
    raise ValueError(
        f"{path} is of the space {type(space).__name__}, which has no tensor form ({space}); use Box, Discrete, "
        "MultiDiscrete, MultiBinary, or a Dict or Tuple of these: add a wrapper that converts it, "
        "e.g. gymnasium.wrappers.TransformObservation or gymnasium.wrappers.FlattenObservation"
    )


@_codecs.register
def _(space: gymnasium.spaces.Dict, path: str) -> nest.Nest:
    return {key: _codecs(part, f"{path}.{key}") for key, part in space.spaces.items()}


@_codecs.register
def _(space: gymnasium.spaces.Tuple, path: str) -> nest.Nest:
    return tuple(_codecs(part, f"{path}.{i}") for i, part in enumerate(space.spaces))


@_codecs.register
def _(space: gymnasium.spaces.Box, path: str) -> nest.Nest:
    dtype = np.dtype(space.dtype)
    if dtype.kind == "f":
        # Bounds beyond float32 are no bounds.
        with np.errstate(over="ignore"):
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return Codec(specs.BoundedTensorSpec.from_arrays(space.shape, torch.float32, low, high), dtype)
    if dtype not in _INTEGER_DTYPES:
        raise ValueError(
            f"{path} is a Box of {dtype}, which torch has not; add a wrapper that makes it int64 or float32"
        )
    # astype: a bool has no numeric bounds.
    low, high = space.low.astype(np.int64), space.high.astype(np.int64)
    return Codec(specs.BoundedTensorSpec.from_arrays(space.shape, _INTEGER_DTYPES[dtype], low, high), dtype)


@_codecs.register
def _(space: gymnasium.spaces.Discrete, path: str) -> nest.Nest:
    return _discrete((), np.dtype(space.dtype), np.asarray(space.n), np.asarray(space.start))


@_codecs.register
def _(space: gymnasium.spaces.MultiDiscrete, path: str) -> nest.Nest:
    return _discrete(space.shape, np.dtype(space.dtype), np.asarray(space.nvec), np.asarray(space.start))


@_codecs.register
def _(space: gymnasium.spaces.MultiBinary, path: str) -> nest.Nest:
    spec = specs.BoundedTensorSpec(space.shape, torch.int8, 0, 1)
    return Codec(spec, np.dtype(space.dtype), None, np.asarray(1, np.uint64))


def _discrete(shape: tuple[int, ...], dtype: np.dtype, counts: np.ndarray, start: np.ndarray) -> Codec:
    maximum = counts.astype(np.int64) - 1
    return Codec(
        spec=specs.BoundedTensorSpec.from_arrays(shape, torch.int64, 0, maximum),
        dtype=dtype,
        offset=start.astype(np.int64) if start.any() else None,
        maximum=maximum.astype(np.uint64),
    )
