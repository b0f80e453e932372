"""Answers of the model in all layouts: the kernels read them where they lie, and must read the same numbers."""

import numpy as np
import pytest
import torch

from alfish.mcts.memory import SMALLEST_BLOCK
from alfish.mcts.records import RootNode, Step
from alfish.mcts.search import search

B, A, NUM_SIMULATIONS = 4, 3, 12


def spread(tensor):
    """A view with gaps on all axes."""
    wide = tensor.new_zeros([2 * size + 1 for size in tensor.shape])
    view = wide[tuple(slice(1, None, 2) for _ in tensor.shape)]
    return view.copy_(tensor)


def columns(tensor):
    """A view with gaps between the rows only."""
    wide = torch.cat((tensor.unsqueeze(0), torch.zeros_like(tensor).unsqueeze(0))).movedim(0, 1).contiguous()
    return wide[:, 0]


def column_major(tensor):
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


class Reusing:
    """A model that writes each answer over the one before."""

    def __init__(self):
        self.buffers = {}

    def __call__(self, tensor):
        return self.buffers.setdefault(tensor.shape, tensor.clone()).copy_(tensor)


LAYOUTS = {
    "spread": lambda: spread,
    "columns": lambda: columns,
    "column-major": lambda: column_major,
    "one buffer for all": Reusing,
    "double": lambda: torch.Tensor.double,
}


def run(shape, answer=lambda tensor: tensor, answer_numbers=lambda tensor: tensor, num_trees=B):
    generator = torch.Generator().manual_seed(0)
    root_latent, weights = torch.randn(num_trees, *shape, generator=generator), torch.randn(A, generator=generator)

    def model(latent, action):
        factor = weights[action].view(num_trees, *[1] * len(shape))
        new = (latent * factor).sin() + factor
        value = new.reshape(num_trees, -1).sum(1)
        logits = value.unsqueeze(1) * weights
        return Step(answer(new), answer_numbers(value.cos()), torch.full((num_trees,), 0.9), logits, value)

    root = RootNode(root_latent, torch.randn(num_trees, A, generator=generator), torch.zeros(num_trees))
    return search(root, model, NUM_SIMULATIONS)


def assert_same(result, expected):
    assert torch.equal(result.latents, expected.latents)
    assert torch.equal(result.tree.children, expected.tree.children)
    np.testing.assert_array_equal(result.q_values, expected.q_values)


@pytest.mark.parametrize("num_trees", [1, B])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 1, 4)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_latents(name, shape, num_trees):
    expected = run(shape, num_trees=num_trees)
    assert_same(run(shape, LAYOUTS[name](), num_trees=num_trees), expected)


@pytest.mark.parametrize("name", ["spread", "one buffer for all", "double"])
def test_rewards(name):
    assert_same(run((5,), answer_numbers=LAYOUTS[name]()), run((5,)))


def test_one_latent_for_all_rows():
    def of_the_first_row(latent):
        return latent[:1].expand(B, -1)

    expected = run((5,), lambda latent: of_the_first_row(latent).contiguous())
    assert_same(run((5,), of_the_first_row), expected)


def test_latents_in_memory_of_an_earlier_search():
    shape = (SMALLEST_BLOCK // 64,)
    expected = run(shape)
    kept = expected.latents.clone()
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            assert_same(run(shape), expected)
    assert torch.equal(expected.latents, kept)
