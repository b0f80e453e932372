"""SearchGraphs where there is no GPU; `test_cuda_simulator.py` and `test_cuda_device.py` test the rest."""

import logging

import pytest
import torch
from device_search_cases import CASES, Case, differences, model_of, run
from search_cases import RULES, engine_settings

from alfish.mcts import cuda_graphs, cuda_search
from alfish.mcts.cuda_graphs import SearchGraphs
from alfish.mcts.records import RetainedTrees, Step
from alfish.mcts.search import search
from alfish.mcts.tree import new_tree

PLAIN = Case()


def test_on_the_cpu_it_is_an_ordinary_search():
    for name in list(CASES)[:3]:
        assert differences(run(CASES[name], SearchGraphs().search), run(CASES[name], search)) == []


def test_a_graph_needs_room():
    with pytest.raises(ValueError, match="SearchGraphs.max_graphs is 0; it must be at least 1"):
        SearchGraphs(max_graphs=0)


@pytest.mark.parametrize("with_logits", [True, False])
def test_a_copy_of_the_trees_shares_nothing(with_logits):
    tree = new_tree(3, 4, 5, with_logits=with_logits)
    tree.visits[1, 2], tree.priors[1, 2, 3], tree.tried[2, 3, 4], tree.seeds[1] = 7, 0.5, 9, 4
    copy = cuda_graphs._copied(tree)
    for name, original, copied in zip(tree._fields, tree, copy, strict=True):
        assert torch.equal(original, copied), name
        assert original.stride() == copied.stride(), name
        assert original.numel() == 0 or original.data_ptr() != copied.data_ptr(), name


def test_searches_of_one_kind():
    model, settings = model_of(PLAIN), engine_settings(PLAIN.rule)

    def kind(model=model, step=None, simulations=8, settings=settings):
        root = model.root()
        inputs = cuda_search.root_inputs(root, None, None, seed=simulations)
        return cuda_graphs._kind(root, inputs, step or model.step, simulations, settings)

    assert kind() == kind()
    others = [
        kind(model_of(PLAIN)),
        kind(model_of(PLAIN._replace(num_trees=4)), step=model.step),
        kind(model_of(PLAIN._replace(game="turns")), step=model.step),
        kind(step=lambda latent, action: model.step(latent, action)),
        kind(simulations=9),
        kind(settings=engine_settings(RULES["siblings"])),
    ]
    assert kind() not in others
    assert len(set(others)) == len(others)


def test_a_model_that_cannot_be_found_again():
    class Unhashable(list):
        def __call__(self, latent, action) -> Step:
            raise AssertionError("not reached")

    root = model_of(PLAIN).root()
    inputs = cuda_search.root_inputs(root, None, None, 0)
    with pytest.raises(ValueError, match="the model Unhashable or the settings are not hashable"):
        cuda_graphs._kind(root, inputs, Unhashable(), 8, engine_settings(PLAIN.rule))


@pytest.mark.parametrize(("num_nodes", "first"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (9, 16)])
def test_retained_trees_of_similar_sizes_need_the_same_room(num_nodes, first):
    retained = RetainedTrees(new_tree(2, num_nodes + 8, 3), (), num_nodes, max_visits=num_nodes)
    assert cuda_search.room_for(retained, 8).first == num_nodes
    room = cuda_search.room_for(retained, 8, rounded=True)
    assert room.first == first
    assert room.max_visits >= num_nodes + 8
    assert room.with_logits


def test_missing_kernels_are_said_once(caplog):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    cuda_search.load_kernels.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert cuda_search.load_kernels() is None
        assert cuda_search.load_kernels() is None
    assert [record.message for record in caplog.records if "alfish[cuda]" in record.message] == [caplog.messages[-1]]
