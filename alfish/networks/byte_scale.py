"""How networks read observations of bytes."""

import torch

from alfish.specs import BoundedTensorSpec, TensorSpec


def byte_scale(spec: TensorSpec) -> float:
    """What an observation is multiplied by: uint8 goes to [0, 1], other dtypes stay as they are.

    Args:
        spec: of the observation. The largest value of uint8 is that of its bounds, 255 where it has none or only 0: a
            board of zeros and ones is read as such.
    """
    if spec.dtype != torch.uint8:
        return 1.0
    largest = int(spec.bounds()[1].max()) if isinstance(spec, BoundedTensorSpec) else 0
    return 1.0 / (largest or 255)
