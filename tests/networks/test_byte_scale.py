import pytest
import torch

from alfish.networks.byte_scale import byte_scale
from alfish.networks.mlp import ObservationFlattener
from alfish.specs import BoundedTensorSpec, TensorSpec


@pytest.mark.parametrize(
    ("spec", "scale"),
    [
        (TensorSpec((2,), torch.uint8), 1 / 255),
        (BoundedTensorSpec((2,), torch.uint8, 0, 255), 1 / 255),
        (BoundedTensorSpec((2,), torch.uint8, 0, 1), 1.0),
        (BoundedTensorSpec((2,), torch.uint8, 0, (1, 4)), 0.25),
        (BoundedTensorSpec((2,), torch.uint8, 0, 0), 1 / 255),
        (BoundedTensorSpec((2,), torch.float32, 0.0, 100.0), 1.0),
        (TensorSpec((2,), torch.bool), 1.0),
    ],
)
def test_the_largest_byte_becomes_one(spec, scale):
    assert byte_scale(spec) == pytest.approx(scale)


def test_a_board_of_zeros_and_ones_is_read_as_such():
    flatten = ObservationFlattener(BoundedTensorSpec((2, 2), torch.uint8, 0, 1))
    board = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.uint8)
    assert flatten(board).tolist() == [[0.0, 1.0, 1.0, 0.0]]
