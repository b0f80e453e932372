"""Encoding, dynamics and prediction networks of a MuZero model for image observations.

Residual networks after Schrittwieser et al. 2020 (appendix F) at the size of EfficientZero (Ye et al. 2021, appendix
A.1): 64 channels, one block per stage, latents of 6 x 6 for frames of 84 x 84 or 96 x 96.
"""

from collections.abc import Sequence

import gin
import torch

from alfish.checks import check_at_least
from alfish.networks.byte_scale import byte_scale
from alfish.networks.latents import normalize_latent
from alfish.specs import TensorSpec

_MOST_HALVINGS = 4


def _convolution(inputs: int, outputs: int, stride: tuple[int, int] = (1, 1)) -> torch.nn.Conv2d:
    return torch.nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


class ResidualBlock(torch.nn.Module):
    """Two 3 x 3 convolutions with batch normalisation, and the input added before the last rectifier.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: of the first convolution, along both axes; if it is not 1 or the channels change, the input passes a
            convolution too.
    """

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int] = (1, 1)):
        super().__init__()
        self._body = torch.nn.Sequential(
            _convolution(inputs, outputs, stride),
            torch.nn.BatchNorm2d(outputs),
            torch.nn.ReLU(inplace=True),
            _convolution(outputs, outputs),
            torch.nn.BatchNorm2d(outputs),
        )
        same = stride == (1, 1) and inputs == outputs
        self._shortcut = torch.nn.Identity() if same else _convolution(inputs, outputs, stride)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H/stride, W/stride]`."""
        return torch.relu_(self._body(image) + self._shortcut(image))


def _strides(height: int, width: int, num_halvings: int) -> list[tuple[int, int]]:
    """The strides of two convolutions that halve an image at most twice.

    Along an axis of one pixel there is nothing to halve, and a stride of 2 gives the same as 1. But there, oneDNN's
    gradients of bfloat16 weights are wrong, and often not finite (torch 2.13 on the CPU).
    """
    strides = []
    for stage in range(2):
        step = 2 if stage < num_halvings else 1
        strides.append((step if height > 1 else 1, step if width > 1 else 1))
        height, width = -(-height // step), -(-width // step)
    return strides


def _check_sizes(owner: str, **sizes: int) -> None:
    for name, size in sizes.items():
        check_at_least(f"{owner}.{name}", size, 1)


def _tower(channels: int, num_blocks: int) -> list[torch.nn.Module]:
    return [ResidualBlock(channels, channels) for _ in range(num_blocks)]


@gin.configurable
class ImageEncoding(torch.nn.Module):
    """From stacked frames to a latent image in [0, 1], smaller on each side: 16 times with four halvings.

    Args:
        observation_spec: one `(C, H, W)` spec. uint8 is scaled to [0, 1], see `byte_scale`.
        channels: of the latent.
        num_blocks: residual blocks at the last resolution.
        num_halvings: h, how often height and width are halved, 0 to 4; small images need fewer. The halvings that are
            left out are the last ones, with the block between them.

    Attributes:
        latent_shape: `(channels, ⌈H/2^h⌉, ⌈W/2^h⌉)`.

    Raises:
        ValueError: the observation is not one image, or a size is out of its range.
    """

    def __init__(self, observation_spec: TensorSpec, channels: int = 64, num_blocks: int = 1, num_halvings: int = 4):
        super().__init__()
        if not isinstance(observation_spec, TensorSpec) or len(observation_spec.shape) != 3:
            raise ValueError(f"ImageEncoding reads one (channels, height, width) image, not {observation_spec}")
        check_at_least("ImageEncoding.channels", channels, 2)
        check_at_least("ImageEncoding.num_blocks", num_blocks, 1)
        if not 0 <= num_halvings <= _MOST_HALVINGS:
            raise ValueError(f"ImageEncoding.num_halvings is {num_halvings}; expected 0 to {_MOST_HALVINGS}")
        depth, height, width = observation_spec.shape
        half = channels // 2
        strides = _strides(height, width, num_halvings)
        layers = [
            _convolution(depth, half, strides[0]),
            torch.nn.BatchNorm2d(half),
            torch.nn.ReLU(inplace=True),
            ResidualBlock(half, half),
            ResidualBlock(half, channels, strides[1]),
            ResidualBlock(channels, channels),
        ]
        if num_halvings >= 3:
            layers += [torch.nn.AvgPool2d(3, stride=2, padding=1), ResidualBlock(channels, channels)]
        if num_halvings >= 4:
            layers.append(torch.nn.AvgPool2d(3, stride=2, padding=1))
        self._scale = byte_scale(observation_spec)
        self._layers = torch.nn.Sequential(*layers, *_tower(channels, num_blocks))
        shrinks = 2**num_halvings
        self.latent_shape = (channels, -(-height // shrinks), -(-width // shrinks))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """`[B, C, H, W]` to `[B, *latent_shape]`."""
        return normalize_latent(self._layers(observation.float() * self._scale))


@gin.configurable
class ImageDynamics(torch.nn.Module):
    """From a latent image and a discrete action to the next latent and the reward's logits.

    The action enters as a plane of `(action + 1) / A`, as in EfficientZero; the reward is read off the next latent.

    Args:
        latent_shape: `(C, H, W)`.
        num_actions: A.
        num_reward_outputs: logits of the reward; 0 for none.
        num_blocks: residual blocks.
        reward_channels: channels of the reward head.
        reward_hidden_size: size of the reward head's hidden layer.

    Raises:
        ValueError: a size is smaller than 1.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        num_actions: int,
        num_reward_outputs: int,
        num_blocks: int = 1,
        reward_channels: int = 16,
        reward_hidden_size: int = 32,
    ):
        super().__init__()
        _check_sizes(
            "ImageDynamics",
            num_blocks=num_blocks,
            reward_channels=reward_channels,
            reward_hidden_size=reward_hidden_size,
        )
        channels = latent_shape[0]
        self._num_actions = num_actions
        self._merge = torch.nn.Sequential(_convolution(channels + 1, channels), torch.nn.BatchNorm2d(channels))
        self._tower = torch.nn.Sequential(*_tower(channels, num_blocks))
        self._reward: torch.nn.Module | None = None
        if num_reward_outputs > 0:
            self._reward = _Head(latent_shape, reward_channels, reward_hidden_size, num_reward_outputs)

    def forward(self, latent: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[B, C, H, W]` and `[B]` in `0 … A−1` to the next latent `[B, C, H, W]` and reward logits `[B, S]`."""
        plane = ((action + 1) / self._num_actions).to(latent.dtype).view(-1, 1, 1, 1)
        planes = plane.expand(-1, 1, *latent.shape[2:])
        merged = torch.relu_(self._merge(torch.cat((latent, planes), dim=1)) + latent)
        next_latent = normalize_latent(self._tower(merged))
        reward = latent.new_empty((len(latent), 0)) if self._reward is None else self._reward(next_latent)
        return next_latent, reward


class _Head(torch.nn.Module):
    def __init__(self, latent_shape: tuple[int, ...], channels: int, hidden_size: int, num_outputs: int):
        super().__init__()
        in_channels, height, width = latent_shape
        outputs = torch.nn.Linear(hidden_size, num_outputs)
        # Zero heads: at first the policy is uniform and the value 0, instead of noise that a search would amplify.
        torch.nn.init.zeros_(outputs.weight)
        torch.nn.init.zeros_(outputs.bias)
        self._layers = torch.nn.Sequential(
            torch.nn.Conv2d(in_channels, channels, kernel_size=1, bias=False),
            torch.nn.BatchNorm2d(channels),
            torch.nn.ReLU(inplace=True),
            torch.nn.Flatten(),
            torch.nn.Linear(channels * height * width, hidden_size, bias=False),
            torch.nn.BatchNorm1d(hidden_size),
            torch.nn.ReLU(inplace=True),
            outputs,
        )

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self._layers(latent)


@gin.configurable
class ImagePrediction(torch.nn.Module):
    """From a latent image to the logits of all heads, which share one residual tower.

    Args:
        latent_shape: `(C, H, W)`.
        head_sizes: outputs of each head.
        num_blocks: residual blocks of the tower.
        head_channels: channels of each head.
        head_hidden_size: size of each head's hidden layer.

    Raises:
        ValueError: a size is smaller than 1.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        head_sizes: Sequence[int],
        num_blocks: int = 1,
        head_channels: int = 16,
        head_hidden_size: int = 32,
    ):
        super().__init__()
        _check_sizes(
            "ImagePrediction", num_blocks=num_blocks, head_channels=head_channels, head_hidden_size=head_hidden_size
        )
        self._tower = torch.nn.Sequential(*_tower(latent_shape[0], num_blocks))
        self._heads = torch.nn.ModuleList(
            _Head(latent_shape, head_channels, head_hidden_size, size) for size in head_sizes
        )

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`[B, C, H, W]` to `[B, size]` of each head."""
        features = self._tower(latent)
        return tuple(head(features) for head in self._heads)
