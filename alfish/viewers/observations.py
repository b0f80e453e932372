"""How an observation looks: a picture, as a PNG file made without a package for images, or numbers."""

import struct
import zlib

import numpy as np
import torch

from alfish import nest

LARGEST_SIDE = 320
"""Pixels of a picture's longer side, at most."""
LONGEST_TEXT = 64
"""Numbers of an observation that is written out, at most."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _COLOUR = 0, 2
_UNCHANGED, _DIFFERENCE_FROM_ABOVE = 0, 2


def picture_of(observation: nest.Nest) -> np.ndarray | None:
    """The first leaf that is an image, its newest frame if frames are stacked.

    Args:
        observation: nest of tensors, of one environment. An image is uint8, with the channels (1 or 3) first or last,
            or none; frames are stacked along the first axis, or along the channels, the newest last.

    Returns:
        uint8 `[H, W]` or `[H, W, 3]`; None if no leaf is an image.
    """
    for leaf in nest.leaves(observation):
        image = _newest_frame(np.asarray(leaf.cpu()))
        if image is not None:
            return image
    return None


def _newest_frame(image: np.ndarray) -> np.ndarray | None:
    if image.dtype != np.uint8 or not 2 <= image.ndim <= 4 or min(image.shape) == 0:
        return None
    if image.ndim == 4:
        image = image[-1]
    if image.ndim == 2:
        return image if min(image.shape) > 1 else None
    if image.shape[2] < image.shape[0]:
        image = image.transpose(2, 0, 1)
    # Three channels are colours, and so are the last three of stacked colours; else each channel is a frame.
    return image[-3:].transpose(1, 2, 0) if len(image) % 3 == 0 else image[-1]


def observation_text(observation: nest.Nest) -> str:
    """The numbers of an observation, leaf by leaf; empty if there are more than `LONGEST_TEXT`.

    Args:
        observation: nest of tensors, of one environment.
    """
    leaves = nest.leaves_with_paths(observation)
    if sum(leaf.numel() for _, leaf in leaves) > LONGEST_TEXT:
        return ""
    return ", ".join(f"{path} {_numbers(leaf)}".lstrip() for path, leaf in leaves)


def _numbers(leaf: torch.Tensor) -> str:
    text = np.array2string(leaf.cpu().numpy(), precision=3, suppress_small=True, separator=", ", max_line_width=100_000)
    return " ".join(text.split()).replace(" ,", ",").replace(" ]", "]")


def shrunk(image: np.ndarray, largest_side: int = LARGEST_SIDE) -> np.ndarray:
    """The image, made smaller by a whole number if a side is longer than `largest_side`; pixels are averaged.

    Args:
        image: uint8 `[H, W]` or `[H, W, 3]`.
        largest_side: pixels, at least 1.
    """
    factor = -(-max(image.shape[:2]) // largest_side)
    if factor <= 1:
        return image
    height, width = (max(side // factor, 1) for side in image.shape[:2])
    cut = image[: height * factor, : width * factor].astype(np.float32)
    rows, columns = (np.arange(0, side, factor) for side in cut.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(cut, rows, axis=0), columns, axis=1)
    counts = min(factor, image.shape[0]) * min(factor, image.shape[1])
    return np.rint(sums / counts).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    """A PNG file (ISO/IEC 15948) of an image.

    Args:
        image: uint8 `[H, W]` or `[H, W, 3]`, both sides at least 1.

    Raises:
        ValueError: it is no such image.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or not image.size:
        raise ValueError(f"an image is {image.dtype} {image.shape}; expected uint8 [H, W] or [H, W, 3]")
    height, width = image.shape[:2]
    lines = np.ascontiguousarray(image).reshape(height, -1)
    differences = np.diff(lines, axis=0, prepend=np.zeros_like(lines[:1]))  # modulo 256, as the format has it
    candidates = [_compressed(lines, _UNCHANGED), _compressed(differences, _DIFFERENCE_FROM_ABOVE)]
    header = struct.pack(">IIBBBBB", width, height, 8, _GRAY if image.ndim == 2 else _COLOUR, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", min(candidates, key=len)), (b"IEND", b""))
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _compressed(lines: np.ndarray, line_filter: int) -> bytes:
    """The lines `[H, bytes]`, each behind the number of its filter."""
    return zlib.compress(np.insert(lines, 0, line_filter, axis=1).tobytes(), 9)
