"""Memory of large searches: what the results of earlier ones have left is given to the next.

The system hands memory out page by page when it is first written, which takes as long as writing it some twenty times,
and takes it back when it is freed. So a block is not freed with the last tensor in it, but kept for the next search.
"""

import functools
import math
import weakref

import torch

SMALLEST_BLOCK = 1 << 17
"""Bytes. Smaller tensors come from memory that an allocator keeps anyway."""
MOST_BLOCKS = 8
"""How many blocks are kept: those of two searches of different sizes, in turns, with a few leaves of latents each."""
MOST_BYTES = 1 << 29
"""Bytes that are kept in all, so that one large search does not hold its memory for the rest of the run."""
_WORST_FIT = 2


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """A tensor with any contents, like `torch.empty`; on the CPU, perhaps in memory that others have left.

    Args:
        shape: of the tensor.
        dtype: of the tensor.
        device: where it is.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes < SMALLEST_BLOCK or torch.device(device).type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    block = _free_block(num_bytes)
    # Lives as long as a tensor in the block does, however they were made from one another.
    lease = block.numpy()
    weakref.finalize(lease, _keep, block).atexit = False
    return torch.from_numpy(lease)[:num_bytes].view(dtype).view(shape)


@functools.cache
def _free_blocks() -> dict[tuple[int, int], torch.Tensor]:
    """Blocks in which there is no tensor, by size and address.

    The one state of the process that is kept outside of objects: see the house's rules in docs/architecture.md.
    """
    return {}


def _free_block(num_bytes: int) -> torch.Tensor:
    blocks = _free_blocks()
    for size, address in sorted(blocks):
        if num_bytes <= size <= _WORST_FIT * num_bytes:
            # Another thread may have been faster.
            block = blocks.pop((size, address), None)
            if block is not None:
                return block
    return torch.empty(num_bytes, dtype=torch.uint8, device="cpu")


def _keep(block: torch.Tensor) -> None:
    blocks = _free_blocks()
    blocks[block.numel(), block.data_ptr()] = block
    while len(blocks) > MOST_BLOCKS or sum(size for size, _ in tuple(blocks)) > MOST_BYTES:
        for oldest in tuple(blocks)[:1]:  # another thread may have taken the last one
            blocks.pop(oldest, None)
