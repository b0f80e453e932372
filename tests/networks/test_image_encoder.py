import pytest
import torch

from alfish.networks.image_encoder import ImageEncoder
from alfish.specs import BoundedTensorSpec, TensorSpec

FRAMES = BoundedTensorSpec((4, 84, 84), torch.uint8, 0, 255)


def test_the_network_of_mnih_2015():
    encoder = ImageEncoder(FRAMES)
    # 32 x (4 * 8 * 8), 64 x (32 * 4 * 4), 64 x (64 * 3 * 3) and 512 x (64 * 7 * 7) weights, and biases.
    sizes = [32 * 256, 64 * 512, 64 * 576, 512 * 3136]
    assert [parameter.numel() for parameter in encoder.parameters() if parameter.ndim > 1] == sizes
    assert sum(parameter.numel() for parameter in encoder.parameters()) == sum(sizes) + 32 + 64 + 64 + 512
    assert encoder.output_spec == TensorSpec((512,)) and encoder.initial_state(3) == ()


def test_one_row_and_a_block_agree():
    encoder = ImageEncoder(TensorSpec((2, 6, 5), torch.uint8), convolutions=((3, 3, 1), (4, 2, 2)), num_features=7)
    observation = torch.randint(0, 256, (2, 3, 2, 6, 5), dtype=torch.uint8)
    block = encoder.unroll(observation, (), ())
    assert block.shape == (2, 3, 7)
    row, state = encoder.step(observation[:, 1], ())
    torch.testing.assert_close(block[:, 1], row)
    assert state == ()


def test_bytes_are_scaled():
    encoder = ImageEncoder(TensorSpec((1, 3, 3), torch.uint8), convolutions=((2, 3, 1),), num_features=4)
    with torch.no_grad():
        encoder.towers[0][0].weight.fill_(1.0)
        encoder.output.weight.fill_(1.0)
    image = torch.full((1, 1, 3, 3), 51, dtype=torch.uint8)
    # Nine pixels of 51 / 255 into each of two channels, both added up.
    torch.testing.assert_close(encoder.step(image, ())[0], torch.full((1, 4), 2 * 9 * 0.2))


def test_a_nest_of_images_and_numbers():
    spec = {"camera": TensorSpec((1, 4, 4)), "map": TensorSpec((2, 3, 3), torch.uint8), "speed": TensorSpec((2,))}
    encoder = ImageEncoder(spec, convolutions=((5, 2, 1),), num_features=6)
    assert encoder.output.weight.shape == (6, 5 * 3 * 3 + 5 * 2 * 2 + 2)
    observation = {
        "camera": torch.randn(2, 3, 1, 4, 4),
        "map": torch.zeros(2, 3, 2, 3, 3, dtype=torch.uint8),
        "speed": torch.randn(2, 3, 2, requires_grad=True),
    }
    features = encoder.unroll(observation, (), ())
    assert features.shape == (2, 3, 6)
    features.sum().backward()
    assert observation["speed"].grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("spec", "arguments", "message"),
    [
        (TensorSpec((4,)), {}, "found no image in the observation"),
        (TensorSpec((3, 10, 10)), {}, "the observation is an image of 10 x 10, which is too small"),
        (TensorSpec((84, 84, 3)), {}, "84 x 3, which is too small .* wrap the environment in @ChannelsFirst"),
        ({"map": TensorSpec((3, 10, 40))}, {}, "map is an image of 10 x 40"),
        (FRAMES, {"num_features": 0}, "ImageEncoder.num_features is 0"),
        (FRAMES, {"convolutions": ((8, 3, 0),)}, "the stride in ImageEncoder.convolutions is 0"),
    ],
)
def test_what_it_cannot_read_is_refused(spec, arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageEncoder(spec, **arguments)
