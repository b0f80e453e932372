import pytest
import torch

from alfish.networks.muzero_image_networks import ImageDynamics, ImageEncoding, ImagePrediction, ResidualBlock
from alfish.specs import BoundedTensorSpec, TensorSpec


def small_encoding(spec, channels=4, **options):
    return ImageEncoding(spec, channels=channels, num_blocks=1, **options)


@pytest.mark.parametrize(
    ("height", "width", "latent_shape"),
    [(84, 84, (4, 6, 6)), (96, 96, (4, 6, 6)), (33, 50, (4, 3, 4)), (7, 1, (4, 1, 1)), (16, 17, (4, 1, 2))],
)
def test_latent_shapes(height, width, latent_shape):
    encoding = small_encoding(BoundedTensorSpec((3, height, width), torch.uint8, 0, 255)).eval()
    assert encoding.latent_shape == latent_shape
    latent = encoding(torch.randint(256, (2, 3, height, width)).byte())
    assert latent.shape == (2, *latent_shape)
    assert latent.min() >= 0.0
    assert latent.max() <= 1.0


@pytest.mark.parametrize(("num_halvings", "side"), [(0, 10), (1, 5), (2, 3), (3, 2), (4, 1)])
def test_small_images_are_halved_less_often(num_halvings, side):
    encoding = small_encoding(BoundedTensorSpec((4, 10, 10), torch.uint8, 0, 1), num_halvings=num_halvings).eval()
    assert encoding.latent_shape == (4, side, side)
    assert encoding(torch.ones((2, 4, 10, 10)).byte()).shape == (2, 4, side, side)


@pytest.mark.parametrize("num_halvings", [-1, 5])
def test_there_are_up_to_four_halvings(num_halvings):
    with pytest.raises(ValueError, match=f"num_halvings is {num_halvings}; expected 0 to 4"):
        small_encoding(TensorSpec((1, 20, 20), torch.uint8), num_halvings=num_halvings)


def test_bytes_are_scaled_and_floats_are_not():
    bytes_encoding = small_encoding(TensorSpec((1, 20, 20), torch.uint8)).eval()
    float_encoding = small_encoding(TensorSpec((1, 20, 20))).eval()
    float_encoding.load_state_dict(bytes_encoding.state_dict())
    image = torch.randint(256, (2, 1, 20, 20)).byte()
    torch.testing.assert_close(bytes_encoding(image), float_encoding(image / 255.0))


@pytest.mark.parametrize("num_reward_outputs", [5, 0])
def test_dynamics_and_prediction(num_reward_outputs):
    latent = torch.rand(2, 4, 3, 2)
    dynamics, prediction = ImageDynamics((4, 3, 2), 3, num_reward_outputs), ImagePrediction((4, 3, 2), [3, 7, 1])
    following, reward = dynamics(latent, torch.tensor([0, 2]))
    heads = prediction(following)
    assert following.shape == latent.shape
    assert following.min() >= 0.0
    assert following.max() <= 1.0
    assert reward.shape == (2, num_reward_outputs)
    assert [tuple(head.shape) for head in heads] == [(2, 3), (2, 7), (2, 1)]
    assert not reward.any()
    assert not any(head.any() for head in heads)


def test_the_action_is_a_plane():
    dynamics = ImageDynamics((2, 3, 3), 4, 0).eval()
    seen = []
    dynamics._merge.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    latent = torch.rand(2, 2, 3, 3)
    dynamics(latent, torch.tensor([0, 3]))
    torch.testing.assert_close(seen[0][:, :2], latent)
    torch.testing.assert_close(seen[0][:, 2], torch.tensor([0.25, 1.0]).view(2, 1, 1).expand(2, 3, 3))


def run_all(image, action, networks):
    encoding, dynamics, prediction = networks
    latent = encoding(image)
    following, reward = dynamics(latent, action)
    return [latent, following, reward, *prediction(following)]


def test_rows_are_independent_in_evaluation_mode():
    spec = TensorSpec((2, 20, 20))
    networks = (small_encoding(spec), ImageDynamics((4, 2, 2), 3, 5), ImagePrediction((4, 2, 2), [3, 7]))
    image, action = torch.randn(6, 2, 20, 20), torch.randint(3, (6,))
    for network in networks:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # also the heads, which start at zero
        network.train()
    run_all(image, action, networks)  # moves the running statistics away from 0 and 1
    for network in networks:
        network.eval()
    for whole, alone in zip(run_all(image, action, networks), run_all(image[2:3], action[2:3], networks), strict=True):
        torch.testing.assert_close(whole[2:3], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(12, 1), (1, 12), (12, 2), (12, 3)])
def test_bfloat16_gradients_of_narrow_images(height, width):
    """Where a convolution strides along an axis of one pixel, oneDNN reads memory that nobody wrote."""
    torch.manual_seed(0)
    encoding = small_encoding(TensorSpec((36, height, width)), channels=32)
    first = encoding._layers[0]
    for _ in range(2):
        image, weight = torch.randn(16, 36, height, width), torch.randn(16, *encoding.latent_shape)
        gradients = []
        for mixed in (False, True):
            encoding.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                output = first(image)
                latent = encoding(image)
            (latent.float() * weight).sum().backward(retain_graph=True)
            assert all(parameter.grad.isfinite().all() for parameter in encoding.parameters())
            gradients.append(torch.autograd.grad(output.float().sum(), first.weight)[0])
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0.05, atol=0.5)


def test_strides_leave_axes_of_one_pixel():
    def strides(height, width, num_halvings):
        encoding = small_encoding(TensorSpec((3, height, width)), num_halvings=num_halvings)
        return [encoding._layers[0].stride, encoding._layers[4]._body[0].stride, encoding._layers[4]._shortcut.stride]

    assert strides(12, 1, 4) == [(2, 1), (2, 1), (2, 1)]
    assert strides(2, 12, 2) == [(2, 2), (1, 2), (1, 2)]
    assert strides(12, 12, 1) == [(2, 2), (1, 1), (1, 1)]
    assert strides(12, 12, 0) == [(1, 1), (1, 1), (1, 1)]


def test_residual_block_by_hand():
    block = ResidualBlock(1, 1).eval()
    torch.nn.init.zeros_(block._body[0].weight)
    image = torch.tensor([[[[-1.0, 2.0]]]])
    # The body is 0 with running statistics 0 and 1: what is left is the input, rectified.
    assert block(image).tolist() == [[[[0.0, 2.0]]]]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ImageEncoding(TensorSpec((84, 84))), "one .channels, height, width. image"),
        (lambda: ImageEncoding({"camera": TensorSpec((1, 84, 84))}), "one .channels, height, width. image"),
        (
            lambda: ImageEncoding(TensorSpec((1, 84, 84)), channels=1),
            r"ImageEncoding\.channels is 1; it must be at least 2",
        ),
        (lambda: ImageEncoding(TensorSpec((1, 84, 84)), num_blocks=0), r"ImageEncoding\.num_blocks is 0"),
        (lambda: ImageDynamics((4, 2, 2), 3, 5, num_blocks=0), r"ImageDynamics\.num_blocks is 0"),
        (lambda: ImageDynamics((4, 2, 2), 3, 5, reward_channels=0), r"ImageDynamics\.reward_channels is 0"),
        (lambda: ImageDynamics((4, 2, 2), 3, 5, reward_hidden_size=0), r"ImageDynamics\.reward_hidden_size is 0"),
        (lambda: ImagePrediction((4, 2, 2), [3], num_blocks=0), r"ImagePrediction\.num_blocks is 0"),
        (lambda: ImagePrediction((4, 2, 2), [3], head_channels=-1), r"ImagePrediction\.head_channels is -1"),
        (lambda: ImagePrediction((4, 2, 2), [3], head_hidden_size=0), r"ImagePrediction\.head_hidden_size is 0"),
    ],
)
def test_sizes_out_of_range_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
