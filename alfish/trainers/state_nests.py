"""States as they are stored: nests of dicts, lists and tuples of tensors and plain values, and paths into them."""

import collections
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

LARGE_BYTES = 1 << 20
"""Tensors of at least this many bytes are stored in files of their own, if numpy knows their dtype."""

KEY_TYPES = (str, int)
PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes)

Path = tuple[str | int, ...]


def split(state: Any, name: str) -> tuple[Any, dict[Path, torch.Tensor]]:
    """Divides a state into what `torch.save` shall write and the large tensors.

    Args:
        state: a nest.
        name: of its component, for messages.

    Returns:
        A copy of the nest with CPU tensors, None in place of each large one; and the large ones, as they are, by path.

    Raises:
        ValueError: the nest holds something that could not be loaded safely again; names its path and type.
    """
    large: dict[Path, torch.Tensor] = {}

    def store(path: Path, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if _has_file_of_its_own(value):
                large[path] = value
                return None
            return _without_spare_memory(value)
        if type(value) in PLAIN_TYPES:
            return value
        raise ValueError(
            f"the state of {name!r} cannot be stored: {show((name, *path))} is a {type(value).__qualname__}; expected "
            "dicts, lists and tuples of torch tensors and plain numbers, strings, bytes, booleans or None. Convert it "
            "in state_dict()"
        )

    return _rebuild(state, store, name), large


def join(state: Any, large: Mapping[Path, torch.Tensor]) -> Any:
    """The inverse of `split`.

    Raises:
        ValueError: a path leads nowhere.
    """
    used = set()

    def place(path: Path, value: Any) -> Any:
        if path not in large:
            return value
        if value is not None:
            raise ValueError(f"{show(path)} is there twice")
        used.add(path)
        return large[path]

    joined = _rebuild(state, place, "state")
    for path in large:
        if path not in used:
            raise ValueError(f"{show(path)} is not in the state that a tensor is stored for")
    return joined


def checksum(state: Any) -> str:
    """A SHA-256 of the paths and the values of a nest."""
    digest = hashlib.sha256()
    for path, value in _leaves(state, ()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{path!r} {value.dtype} {tuple(value.shape)}\n".encode())
            flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        else:
            digest.update(f"{path!r} {value!r}\n".encode())
    return digest.hexdigest()


def show(path: Path) -> str:
    """A path for messages: keys and indices joined by dots."""
    return ".".join(map(str, path))


def _rebuild(value: Any, function: Callable[[Path, Any], Any], name: str, path: Path = ()) -> Any:
    """A copy of a nest with `function(path, leaf)` in place of each leaf."""
    if isinstance(value, dict):
        copy = {}
        for key, item in value.items():
            if type(key) not in KEY_TYPES:
                raise ValueError(f"the state of {name!r} has the key {key!r} at {show((name, *path))}; use str or int")
            copy[key] = _rebuild(item, function, name, (*path, key))
        if not hasattr(value, "_metadata"):
            return copy
        # A module's state carries the versions of its parts, by which torch reads states of older versions.
        return _with_metadata(copy, value._metadata)
    if type(value) in (list, tuple):
        return type(value)(_rebuild(item, function, name, (*path, index)) for index, item in enumerate(value))
    return function(path, value)


def _with_metadata(state: dict[Any, Any], metadata: Any) -> dict[Any, Any]:
    ordered = collections.OrderedDict(state)
    ordered._metadata = metadata  # type: ignore[attr-defined]
    return ordered


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        for key in sorted(value, key=repr):
            yield from _leaves(value[key], (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path, value


def _has_file_of_its_own(tensor: torch.Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.nbytes < LARGE_BYTES:
        return False
    try:
        torch.empty(0, dtype=tensor.dtype).numpy()
    except TypeError:
        return False
    return True


def _without_spare_memory(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU. torch.save writes all memory behind a view, so a small part of it is copied first."""
    tensor = tensor.detach().cpu()
    if tensor.layout == torch.strided and tensor.untyped_storage().nbytes() > tensor.nbytes:
        return tensor.clone()
    return tensor
