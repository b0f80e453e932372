"""Memory that searches leave to one another: given on when the last tensor in it is gone, and never before."""

import gc
import threading

import pytest
import torch

from alfish.mcts import memory
from alfish.mcts.memory import MOST_BLOCKS, SMALLEST_BLOCK, empty
from alfish.mcts.records import RootNode, Step
from alfish.mcts.search import search

LARGE = (4, SMALLEST_BLOCK)


@pytest.fixture(autouse=True)
def own_blocks(monkeypatch):
    blocks: dict[tuple[int, int], torch.Tensor] = {}
    monkeypatch.setattr(memory, "_free_blocks", lambda: blocks)
    return blocks


def test_a_block_is_given_on_when_its_last_tensor_is_gone(own_blocks):
    first = empty(LARGE, torch.float32, "cpu")
    address = first.data_ptr()
    view = first.view(torch.int32)[1, 5:]
    del first
    gc.collect()
    assert not own_blocks
    assert empty(LARGE, torch.float32, "cpu").data_ptr() != address
    own_blocks.clear()
    del view
    assert [key[1] for key in own_blocks] == [address]
    assert empty(LARGE, torch.float32, "cpu").data_ptr() == address


def test_a_tensor_is_like_that_of_torch(own_blocks):
    for dtype in (torch.float32, torch.uint8, torch.bool, torch.bfloat16, torch.int64):
        tensor = empty(LARGE, dtype, "cpu")
        assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (LARGE, dtype, True)
        assert tensor.data_ptr() % 64 == 0
        assert not tensor.requires_grad
    assert empty((2, 0, 3), torch.float32, "cpu").shape == (2, 0, 3)


def test_a_much_larger_block_is_not_taken_and_small_tensors_take_none(own_blocks):
    del_me = empty((16 * SMALLEST_BLOCK,), torch.uint8, "cpu")
    del del_me
    assert len(own_blocks) == 1
    small, medium = empty((8,), torch.uint8, "cpu"), empty((7 * SMALLEST_BLOCK,), torch.uint8, "cpu")
    assert len(own_blocks) == 1
    large = empty((8 * SMALLEST_BLOCK,), torch.uint8, "cpu")
    assert not own_blocks
    del small, medium, large
    assert len(own_blocks) == 2


def test_only_the_latest_blocks_are_kept(own_blocks):
    tensors = [empty((SMALLEST_BLOCK + i,), torch.uint8, "cpu") for i in range(MOST_BLOCKS + 3)]
    tensors.reverse()
    while tensors:
        tensors.pop()
    assert sorted(size for size, _ in own_blocks) == [SMALLEST_BLOCK + i for i in range(3, MOST_BLOCKS + 3)]


def test_a_finished_search_keeps_its_numbers_while_others_run():
    B, A, num_simulations = 16, 8, 40

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        priors, values = torch.randn(B, A, generator=generator), torch.randn(B, generator=generator)

        def model(latent, action):
            value = (latent.sum(1) + action).sin()
            return Step(latent.roll(1, 1) + action.unsqueeze(1), value, torch.full((B,), 0.9), priors, value)

        return search(RootNode(torch.randn(B, 128, generator=generator), priors, values), model, num_simulations)

    kept, alone = run(0), {seed: run(seed).tree.q_values.clone() for seed in range(4)}
    latents, q_values = kept.latents.clone(), kept.tree.q_values.clone()
    wrong = []

    def work(seed):
        for _ in range(5):
            if not torch.equal(run(seed).tree.q_values, alone[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert torch.equal(kept.latents, latents)
    assert torch.equal(kept.tree.q_values, q_values)


def test_no_more_than_a_limit_of_bytes_is_kept(own_blocks, monkeypatch):
    monkeypatch.setattr(memory, "MOST_BYTES", 3 * SMALLEST_BLOCK)
    tensors = [empty((SMALLEST_BLOCK,), torch.uint8, "cpu") for _ in range(4)]
    tensors.append(empty((5 * SMALLEST_BLOCK,), torch.uint8, "cpu"))
    while tensors:
        tensors.pop(0)
        assert sum(size for size, _ in own_blocks) <= 3 * SMALLEST_BLOCK
    assert not own_blocks
