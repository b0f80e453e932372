"""Augmentations: what they do to images by hand, which draws are shared, and what they refuse."""

import math

import pytest
import torch

from alfish import nest
from alfish.networks.augmentation import RandomIntensity, RandomShift, make_augmentation
from alfish.specs import BoundedTensorSpec, TensorSpec

IMAGE = TensorSpec((4, 6, 5), torch.uint8)


def padded_crops(image, pixels):
    """All crops of an image `[C, H, W]` that was padded by its edge, by their offsets."""
    padded = torch.nn.functional.pad(image[None].float(), (pixels,) * 4, mode="replicate")[0].to(image.dtype)
    height, width = image.shape[1:]
    side = range(2 * pixels + 1)
    return {(y, x): padded[:, y : y + height, x : x + width] for y in side for x in side}


def offset_of(shifted, crops):
    return {offset for offset, crop in crops.items() if torch.equal(crop, shifted)}


def random_images(num=40, seed=0):
    return torch.randint(256, (num, *IMAGE.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_a_shift_is_a_crop_of_the_padded_image():
    torch.manual_seed(0)
    images = random_images(300)
    shifted = RandomShift(IMAGE, pixels=2)(images)
    assert shifted.dtype == torch.uint8
    found = set()
    for image, each in zip(images, shifted, strict=True):
        (offset,) = offset_of(each, padded_crops(image, 2))
        found.add(offset)
    assert len(found) == 25  # every offset is drawn


def test_a_shift_by_hand():
    image = torch.arange(4.0).view(1, 1, 2, 2)
    seen = {tuple(RandomShift(TensorSpec((1, 2, 2)), pixels=1)(image).flatten().tolist()) for _ in range(200)}
    rows = {(0, 1): (0, 1), (0, 0): (0, 0), (1, 1): (1, 1)}
    expected = {(2.0 * y0 + x0, 2.0 * y0 + x1, 2.0 * y1 + x0, 2.0 * y1 + x1) for y0, y1 in rows for x0, x1 in rows}
    assert seen == expected


def test_frames_share_a_shift_unless_told_otherwise():
    torch.manual_seed(1)
    images = random_images(30)
    apart = RandomShift(IMAGE, pixels=2, channels_per_frame=2)(images)
    different = 0
    for image, each in zip(images, apart, strict=True):
        first = offset_of(each[:2], padded_crops(image[:2], 2))
        second = offset_of(each[2:], padded_crops(image[2:], 2))
        assert len(first) == len(second) == 1
        different += first != second
    assert different > 20


def test_intensity_by_hand():
    torch.manual_seed(2)
    rows = torch.rand(20_000, 3) + 0.5
    factor = RandomIntensity(TensorSpec((3,)), scale=0.1)(rows) / rows
    torch.testing.assert_close(factor, factor[:, :1].expand(-1, 3))  # one draw for each row
    assert factor.min().item() == pytest.approx(0.8)
    assert factor.max().item() == pytest.approx(1.2)
    assert factor.mean().item() == pytest.approx(1.0, abs=0.003)
    # A normal cut off at two standard deviations keeps them at the cut: its variance is 0.92.
    assert factor[:, 0].std().item() == pytest.approx(0.1 * math.sqrt(0.92), rel=0.03)


def test_intensity_of_frames_apart_and_of_bytes():
    torch.manual_seed(3)
    images = random_images(8).clamp_min(1)
    factor = RandomIntensity(IMAGE, channels_per_frame=1)(images) / images
    assert factor.dtype == torch.float32
    each = factor.flatten(2)
    torch.testing.assert_close(each, each[..., :1].expand_as(each))
    assert each[..., 0].unique().numel() > 25


NESTED = {
    "image": IMAGE,
    "speed": TensorSpec((3,)),
    "legal": BoundedTensorSpec((2,), torch.bool),
    "small": TensorSpec((1, 2, 2)),
}


def nested(num=50):
    return {
        "image": random_images(num),
        "speed": torch.ones(num, 3),
        "legal": torch.ones(num, 2, dtype=torch.bool),
        "small": torch.arange(4.0).view(1, 1, 2, 2).repeat(num, 1, 1, 1),
    }


def changed_leaves(augmentation):
    before = nested()
    after = augmentation(nested())
    nest.check_same_structure(before, after, "the augmented observation")
    return {name for name in before if not torch.equal(before[name].float(), after[name].float())}


def test_which_leaves_are_changed():
    assert changed_leaves(RandomShift(NESTED)) == {"image", "small"}
    assert changed_leaves(RandomIntensity(NESTED)) == {"image", "small", "speed"}
    assert changed_leaves(RandomShift(NESTED, keys=("image",))) == {"image"}
    assert changed_leaves(RandomIntensity(NESTED, keys=["speed", "small"])) == {"speed", "small"}


def test_several_in_turn():
    calls = []

    def make(name):
        def built_of(spec):
            assert spec is IMAGE
            return lambda observation: calls.append(name) or observation + 1

        return built_of

    assert make_augmentation((make("a"), make("b")), IMAGE)(5) == 7
    assert calls == ["a", "b"]
    assert make_augmentation(make("c"), IMAGE)(5) == 6
    both = make_augmentation((RandomShift, RandomIntensity), IMAGE)(random_images())
    assert both.shape == (40, *IMAGE.shape)


def test_a_seed_reproduces_the_draws():
    augmented = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        augmented.append(make_augmentation((RandomShift, RandomIntensity), IMAGE)(random_images()))
    assert torch.equal(augmented[0], augmented[1])
    assert not torch.equal(augmented[0], augmented[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomShift(TensorSpec((3,))), r"RandomShift changes images \(C, H, W\), and the observation .* none"),
        (lambda: RandomIntensity(TensorSpec((3,), torch.int64)), "RandomIntensity changes floats or uint8"),
        (lambda: RandomShift(IMAGE, pixels=0), r"RandomShift\.pixels is 0"),
        (lambda: RandomShift(IMAGE, channels_per_frame=3), "channels_per_frame is 3, which does not divide"),
        (lambda: RandomShift(IMAGE, channels_per_frame=0), "channels_per_frame is 0"),
        (
            lambda: RandomIntensity(TensorSpec(()), channels_per_frame=1),
            r"does not divide the first axis of the shape \(\)",
        ),
        (
            lambda: RandomIntensity(BoundedTensorSpec((4, 2), torch.uint8, 0, 255), channels_per_frame=5),
            r"is 5, which does not divide the first axis of the shape \(4, 2\); set it to the channels of one",
        ),
        (lambda: RandomIntensity(IMAGE, scale=0.5), r"RandomIntensity\.scale is 0\.5"),
        (lambda: RandomShift(NESTED, keys=("speed",)), r"keys names 'speed'; expected .* \['image', 'small'\]"),
        (lambda: make_augmentation(RandomShift(IMAGE), IMAGE), "holds <.*; expected constructors, .* without brackets"),
        (lambda: make_augmentation((3,), IMAGE), "augmentation holds 3; expected constructors"),
    ],
)
def test_what_cannot_be_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
