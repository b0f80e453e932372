"""Convolutions before the heads of an algorithm."""

import math
from collections.abc import Sequence

import gin
import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.networks.byte_scale import byte_scale
from alfish.networks.mlp import ObservationFlattener
from alfish.specs import TensorSpec

_MAX_CHANNELS = 4  # that a picture has: of a last axis as short, more likely channels than its width
_MNIH_2015 = ((32, 8, 4), (64, 4, 2), (64, 3, 1))


@gin.configurable
class ImageEncoder(torch.nn.Module):
    """The convolutions of Mnih et al., "Human-level control through deep reinforcement learning" (2015), and one layer.

    Rectified linear units follow every layer; weights are orthogonal with gain sqrt(2), biases 0. Of a nested
    observation, every leaf with three axes is an image with convolutions of its own; the others are read as
    `ObservationFlattener` says and join the images before the last layer.

    Args:
        observation_spec: nest of TensorSpec with an image `(C, H, W)` in it. uint8 is scaled to [0, 1], see
            `byte_scale`.
        convolutions: channels, kernel size and stride of each; the default, of the paper, is for images of 84 x 84 and
            needs at least 36 x 36. For small ones, such as boards of 10 x 10, `((16, 3, 1), (32, 3, 1))` will do.
        num_features: of the last layer, at least 1.

    Raises:
        ValueError: there is no image, one is smaller than what the convolutions need, or a size is out of its range.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        convolutions: Sequence[tuple[int, int, int]] = _MNIH_2015,
        num_features: int = 512,
    ):
        super().__init__()
        check_at_least("ImageEncoder.num_features", num_features, 1)
        leaves = nest.leaves_with_paths(observation_spec)
        self._is_image = [isinstance(spec, TensorSpec) and len(spec.shape) == 3 for _, spec in leaves]
        if not any(self._is_image):
            raise ValueError(
                f"ImageEncoder found no image in the observation {observation_spec}; expected an entry of shape "
                "(channels, height, width), or use @MLPEncoder"
            )
        images = [named for named, is_image in zip(leaves, self._is_image, strict=True) if is_image]
        others = tuple(spec for (_, spec), is_image in zip(leaves, self._is_image, strict=True) if not is_image)
        self._flatten = ObservationFlattener(others) if others else None
        self.towers = torch.nn.ModuleList(_tower(path, spec, convolutions) for path, spec in images)
        self._scales = [byte_scale(spec) for _, spec in images]
        with torch.no_grad():
            size = sum(
                tower(torch.zeros(1, *spec.shape)).shape[1]
                for tower, (_, spec) in zip(self.towers, images, strict=True)
            )
        self.output = torch.nn.Linear(size + (0 if self._flatten is None else self._flatten.size), num_features)
        _initialize(self.output)
        self.output_spec = TensorSpec((num_features,))

    def initial_state(self, batch_size: int) -> nest.Nest:
        """See Encoder."""
        del batch_size
        return ()

    def step(self, observation: nest.Nest, state: nest.Nest) -> tuple[torch.Tensor, nest.Nest]:
        """See Encoder."""
        return self.unroll(observation, (), ()), state

    def unroll(self, observation: nest.Nest, state: nest.Nest, begins: nest.Nest) -> torch.Tensor:
        """See Encoder."""
        del state, begins
        leaves = nest.leaves(observation)
        images = [leaf for leaf, is_image in zip(leaves, self._is_image, strict=True) if is_image]
        outer = images[0].shape[:-3]
        parts = [
            tower(image.reshape(-1, *image.shape[-3:]) * scale).unflatten(0, outer)
            for tower, image, scale in zip(self.towers, images, self._scales, strict=True)
        ]
        if self._flatten is not None:
            others = tuple(leaf for leaf, is_image in zip(leaves, self._is_image, strict=True) if not is_image)
            parts.append(self._flatten(others))
        return torch.relu_(self.output(parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)))


def _tower(path: str, spec: TensorSpec, convolutions: Sequence[tuple[int, int, int]]) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    inputs, height, width = spec.shape
    for channels, kernel_size, stride in convolutions:
        for name, value in (("channels", channels), ("kernel size", kernel_size), ("stride", stride)):
            check_at_least(f"the {name} in ImageEncoder.convolutions", value, 1)
        if min(height, width) < kernel_size:
            channels_last = spec.shape[2] <= _MAX_CHANNELS < min(spec.shape[:2])
            hint = "; or, if its last axis is that of the channels, wrap the environment in @ChannelsFirst"
            raise ValueError(
                f"{path or 'the observation'} is an image of {spec.shape[1]} x {spec.shape[2]}, which is too small for "
                f"ImageEncoder.convolutions = {tuple(convolutions)} (channels, kernel size, stride): give smaller or "
                f"fewer ones, such as ((16, 3, 1), (32, 3, 1)){hint if channels_last else ''}"
            )
        layer = torch.nn.Conv2d(inputs, channels, kernel_size, stride)
        _initialize(layer)
        layers += [layer, torch.nn.ReLU(inplace=True)]
        inputs, height, width = channels, (height - kernel_size) // stride + 1, (width - kernel_size) // stride + 1
    return torch.nn.Sequential(*layers, torch.nn.Flatten())


def _initialize(layer: torch.nn.Linear | torch.nn.Conv2d) -> None:
    torch.nn.init.orthogonal_(layer.weight, math.sqrt(2.0))
    assert layer.bias is not None
    torch.nn.init.zeros_(layer.bias)
