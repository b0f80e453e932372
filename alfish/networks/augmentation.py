"""Augmentation of observations while a model is trained: shifted images, and brighter or darker ones.

An augmentation is built from the observation's spec and changes a batch of observations `[N, ...]`. Each row of the
batch gets draws of its own; the frames of a row, stacked along its first axis, share them unless `channels_per_frame`
says how many channels one frame has. Draws come from torch's global generator, on the device of the observation.

Of a nested observation those leaves are changed that can be, or those that `keys` names; the others pass as they are.
"""

from collections.abc import Callable, Sequence

import gin
import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.specs import TensorSpec

Augmentation = Callable[[nest.Nest], nest.Nest]
"""From observations `[N, ...]` to augmented ones."""

MakesAugmentation = Callable[..., Augmentation]
"""From the spec of an observation to an augmentation, such as the classes below."""


@gin.configurable
class RandomShift:
    """Shifts images by up to `pixels` in each direction; what comes into view repeats the edge.

    Kostrikov, Yarats and Fergus, "Image augmentation is all you need" (2021): padding by repetition and a random crop
    of the old size. EfficientZero (Ye et al. 2021, appendix A) uses the same, of 4 pixels.

    Args:
        observation_spec: the observation; `(C, H, W)` leaves of any dtype are shifted.
        pixels: the largest shift, at least 1.
        channels_per_frame: None: the frames of a row are shifted alike. A number: each group of so many channels on its
            own.
        keys: paths of the leaves to shift; None for all images.

    Raises:
        ValueError: a number is out of range, or there is no image.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        pixels: int = 4,
        channels_per_frame: int | None = None,
        keys: Sequence[str] | None = None,
    ):
        check_at_least("RandomShift.pixels", pixels, 1)
        self._pixels = pixels
        self._is_changed = _chosen_leaves("RandomShift", "images (C, H, W)", _is_image, observation_spec, keys)
        self._channels_per_frame = channels_per_frame
        _check_frames("RandomShift", channels_per_frame, observation_spec, self._is_changed)

    def __call__(self, observation: nest.Nest) -> nest.Nest:
        """Observations `[N, ...]` to shifted ones of the same dtypes."""
        return _change(self._shift, self._is_changed, self._channels_per_frame, observation)

    def _shift(self, image: torch.Tensor) -> torch.Tensor:
        """`[N, F, C, H, W]`, one shift for each of `[N, F]`."""
        num, frames, channels, height, width = image.shape
        drawn = torch.randint(-self._pixels, self._pixels + 1, (2, num, frames, 1, 1, 1), device=image.device)
        # Reading from the nearest pixel that exists is reading from an image padded by its edge, without the padding.
        row = (torch.arange(height, device=image.device).view(-1, 1) + drawn[0]).clamp_(0, height - 1)
        column = (torch.arange(width, device=image.device) + drawn[1]).clamp_(0, width - 1)
        batch = torch.arange(num, device=image.device).view(-1, 1, 1, 1, 1)
        frame = torch.arange(frames, device=image.device).view(-1, 1, 1, 1)
        channel = torch.arange(channels, device=image.device).view(-1, 1, 1)
        return image[batch, frame, channel, row, column]


@gin.configurable
class RandomIntensity:
    """Multiplies an observation by 1 + scale * z, with z normal and cut off at -2 and 2.

    Kostrikov, Yarats and Fergus 2021, appendix; EfficientZero (Ye et al. 2021) uses it with 0.05 beside the shift.

    Args:
        observation_spec: the observation; leaves of floats and of uint8 are changed, and become float32.
        scale: in (0, 0.5), so that nothing changes its sign.
        channels_per_frame: None: the frames of a row share z. A number: each group of so many channels has its own.
        keys: paths of the leaves to change; None for all. A mask of legal actions must not be among them.

    Raises:
        ValueError: a number is out of range, or there is no such leaf.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        scale: float = 0.05,
        channels_per_frame: int | None = None,
        keys: Sequence[str] | None = None,
    ):
        if not 0.0 < scale < 0.5:
            raise ValueError(f"RandomIntensity.scale is {scale}; it must be in (0, 0.5)")
        self._scale = scale
        self._is_changed = _chosen_leaves("RandomIntensity", "floats or uint8", _is_intensity, observation_spec, keys)
        self._channels_per_frame = channels_per_frame
        _check_frames("RandomIntensity", channels_per_frame, observation_spec, self._is_changed)

    def __call__(self, observation: nest.Nest) -> nest.Nest:
        """Observations `[N, ...]` to brighter and darker ones, in the units that they had."""
        return _change(self._multiply, self._is_changed, self._channels_per_frame, observation)

    def _multiply(self, image: torch.Tensor) -> torch.Tensor:
        """`[N, F, ...]`, one factor for each of `[N, F]`."""
        shape = (*image.shape[:2], *[1] * (image.dim() - 2))
        return image * torch.randn(shape, device=image.device).clamp_(-2.0, 2.0).mul_(self._scale).add_(1.0)


def make_augmentation(
    augmentation: MakesAugmentation | Sequence[MakesAugmentation], observation_spec: nest.Nest
) -> Augmentation:
    """Builds one augmentation, or several that are applied in turn.

    Args:
        augmentation: what builds it from `observation_spec`, or a sequence of those: `(@RandomShift, @RandomIntensity)`
            in a gin file.
        observation_spec: of what is augmented.

    Raises:
        ValueError: one of them is no constructor, or cannot augment such observations.
    """
    makers = augmentation if isinstance(augmentation, Sequence) else [augmentation]
    for maker in makers:
        if not callable(maker) or isinstance(maker, RandomShift | RandomIntensity):
            raise ValueError(
                f"augmentation holds {maker!r}; expected constructors, such as @RandomShift without brackets"
            )
    built = [maker(observation_spec) for maker in makers]

    def in_turn(observation: nest.Nest) -> nest.Nest:
        for each in built:
            observation = each(observation)
        return observation

    return in_turn


def _is_image(spec: TensorSpec) -> bool:
    return len(spec.shape) == 3


def _is_intensity(spec: TensorSpec) -> bool:
    return spec.dtype.is_floating_point or spec.dtype == torch.uint8


def _chosen_leaves(
    owner: str,
    kind: str,
    can_change: Callable[[TensorSpec], bool],
    observation_spec: nest.Nest,
    keys: Sequence[str] | None,
) -> list[bool]:
    """For each leaf of the observation whether it is changed."""
    found = {path: can_change(spec) for path, spec in nest.leaves_with_paths(observation_spec)}
    if keys is not None:
        for key in keys:
            if not found.get(key, False):
                able = [path for path, can in found.items() if can]
                raise ValueError(f"{owner}.keys names {key!r}; expected leaves of {kind}, of which there are {able}")
        return [path in keys for path in found]
    if not any(found.values()):
        raise ValueError(f"{owner} changes {kind}, and the observation {observation_spec} has none; leave it out")
    return list(found.values())


def _check_frames(
    owner: str, channels_per_frame: int | None, observation_spec: nest.Nest, is_changed: list[bool]
) -> None:
    if channels_per_frame is None:
        return
    check_at_least(f"{owner}.channels_per_frame", channels_per_frame, 1)
    for spec, changed in zip(nest.leaves(observation_spec), is_changed, strict=True):
        if changed and (not spec.shape or spec.shape[0] % channels_per_frame):
            raise ValueError(
                f"{owner}.channels_per_frame is {channels_per_frame}, which does not divide the first axis of the "
                f"shape {tuple(spec.shape)}; set it to the channels of one frame, or None for one frame"
            )


def _change(
    function: Callable[[torch.Tensor], torch.Tensor],
    is_changed: list[bool],
    channels_per_frame: int | None,
    observation: nest.Nest,
) -> nest.Nest:
    """Applies a function of `[N, F, ...]` to the leaves `[N, ...]` of its choice, F frames of a row side by side."""

    def change(leaf: torch.Tensor) -> torch.Tensor:
        if channels_per_frame is None:
            return function(leaf.unsqueeze(1)).squeeze(1)
        return function(leaf.unflatten(1, (-1, channels_per_frame))).flatten(1, 2)

    changed = [
        change(leaf) if chosen else leaf for leaf, chosen in zip(nest.leaves(observation), is_changed, strict=True)
    ]
    return nest.unflatten(nest.structure(observation), changed)
