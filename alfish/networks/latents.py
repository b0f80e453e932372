"""Small tools for latents: normalising, scaling gradients, flattening."""

import torch

from alfish import nest


def normalize_latent(latent: torch.Tensor) -> torch.Tensor:
    """Scales each row's latent to [0, 1] by its own minimum and maximum (Schrittwieser et al. 2020, appendix G).

    Args:
        latent: `[B, ...]`.

    Returns:
        `[B, ...]`; a row whose elements are all equal becomes 0.
    """
    flat = latent.flatten(1)
    # Two reductions: on the CPU `aminmax` along an axis takes 6 times as long as both.
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    return ((flat - low) / (high - low + 1e-5)).view_as(latent)


def scale_gradient(tensor: torch.Tensor, scale: float) -> torch.Tensor:
    """The tensor unchanged, whose gradient is multiplied by `scale` on the way back."""
    if not tensor.requires_grad or scale == 1.0:
        return tensor
    scaled = tensor.view_as(tensor)
    scaled.register_hook(lambda gradient: gradient * scale)
    return scaled


def flat_latents(latent: nest.Nest) -> torch.Tensor:
    """A nest of latents `[N, ...]` as one matrix `[N, D]`."""
    parts = [leaf.flatten(1) for leaf in nest.leaves(latent)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
