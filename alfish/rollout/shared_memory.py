"""Memory that several processes see, and tensors that lie in it."""

from collections.abc import Sequence

import torch

from alfish.specs import TensorSpec

_ALIGNMENT = 64  # bytes of a cache line: two processes never write the same one


def shared_bytes(size: int) -> torch.Tensor:
    """Zeros in shared memory without a name, which is freed when the last process that has it ends, however it ends.

    Args:
        size: bytes.

    Returns:
        uint8 `[size]`; given to a process as it starts, it is the same memory there.

    Raises:
        ValueError: there is not so much shared memory.
    """
    try:
        return torch.zeros(size, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        raise ValueError(
            f"{size / 2**20:.0f} MiB of shared memory cannot be had ({error}); make the windows smaller, or give more "
            "(of a container: --shm-size)"
        ) from error


def num_bytes_of(layout: Sequence[TensorSpec]) -> int:
    """Bytes of a block that `carve` divides into such tensors."""
    return sum(_aligned(spec.num_bytes) for spec in layout)


def carve(block: torch.Tensor, layout: Sequence[TensorSpec]) -> list[torch.Tensor]:
    """Tensors in a block of bytes, one behind the other.

    Args:
        block: uint8 `[num_bytes_of(layout)]`, contiguous, on any device.
        layout: their shapes and dtypes.
    """
    tensors, begin = [], 0
    for spec in layout:
        part = block[begin : begin + spec.num_bytes]
        tensors.append(part.view(spec.dtype).view(spec.shape))
        begin += _aligned(spec.num_bytes)
    return tensors


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
