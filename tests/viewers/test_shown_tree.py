"""Which nodes are shown, and what is said of them."""

import numpy as np
import pytest
import torch
from viewer_trees import TableModel, full_result, searched

from alfish.mcts.settings import SearchSettings
from alfish.mcts.subtree import reroot
from alfish.mcts.tree import CHANCE, ILLEGAL
from alfish.viewers.shown_tree import Move, edge_name, played_name, shown_tree
from alfish.viewers.tree_arrays import tree_arrays


def nodes_of(shown, tree):
    """The number in the tree of every shown node, found by its actions."""
    nodes = [0]
    for place in range(1, len(shown.parents)):
        nodes.append(int(tree.children[nodes[shown.parents[place]], shown.actions[place]]))
    return nodes


def test_all_nodes_are_shown_with_their_numbers():
    result = full_result()
    tree, shown = tree_arrays(result.tree, 0), shown_tree(result)
    nodes = nodes_of(shown, tree)
    assert sorted(nodes) == np.flatnonzero(tree.visits > 0).tolist()
    assert shown.num_nodes == len(nodes)
    assert shown.depth == shown.depths.max()
    assert not shown.left_out
    np.testing.assert_array_equal(shown.visits, tree.visits[nodes])
    np.testing.assert_allclose(shown.values, tree.values[nodes])
    np.testing.assert_allclose(shown.raw_values, tree.raw_values[nodes])
    np.testing.assert_array_equal(shown.is_chance, tree.kinds[nodes] == CHANCE)
    behind = nodes[1:]
    np.testing.assert_allclose(shown.rewards[1:], tree.rewards[behind])
    np.testing.assert_allclose(shown.discounts[1:], tree.discounts[behind])
    np.testing.assert_allclose(
        shown.q_values[1:], tree.rewards[behind] + tree.discounts[behind] * tree.values[behind], rtol=1e-4, atol=1e-5
    )
    for numbers in (shown.q_values, shown.priors, shown.scores, shown.rewards, shown.discounts):
        assert np.isnan(numbers[0])
        assert np.isfinite(numbers[1:]).all()
    assert (shown.discounts == 0).any()
    assert shown.is_chance.any()


def test_parents_come_first_and_siblings_by_their_visits():
    shown = shown_tree(full_result())
    assert (shown.parents[1:] < np.arange(1, len(shown.parents))).all()
    for place in range(len(shown.parents)):
        assert (np.diff(shown.visits[shown.parents == place]) <= 0).all()


def test_who_moves():
    """The sign of the discounts on the way tells whose view a value is in, as `to_play` does."""
    shown = shown_tree(full_result())
    assert {-1, 1} == set(shown.views.tolist())
    np.testing.assert_array_equal(
        shown.views[shown.discounts != 0] == 1, (shown.players == shown.players[0])[shown.discounts != 0]
    )


@pytest.mark.parametrize(("min_visits", "max_depth"), [(3, None), (1, 2), (4, 3), (1000, None)])
def test_leaving_out(min_visits, max_depth):
    result = full_result()
    whole, shown = shown_tree(result), shown_tree(result, min_visits=min_visits, max_depth=max_depth)
    kept = (whole.visits >= min_visits) & (whole.depths <= (max_depth or 100))
    kept[0] = True
    assert len(shown.parents) == kept.sum()
    assert (shown.num_nodes, shown.depth) == (whole.num_nodes, whole.depth)
    for place in range(len(shown.parents)):
        visits = shown.visits[shown.parents == place].sum()
        hidden = shown.left_out.get(place, (0, 0))[1]
        node = nodes_of(shown, tree_arrays(result.tree, 0))[place]
        assert visits + hidden == tree_arrays(result.tree, 0).edge_visits[node].sum()


def test_edges_without_nodes():
    result = full_result()
    tree, shown = tree_arrays(result.tree, 0), shown_tree(result)
    nodes = nodes_of(shown, tree)
    assert shown.illegal[0] == [3]
    for place, node in enumerate(nodes):
        children = tree.children[node]
        if place and not (children >= 0).any():
            assert place not in shown.unvisited
            continue
        found = shown.unvisited.get(place, [])
        assert place not in shown.other_unvisited  # there are four actions
        assert {edge.action for edge in found} == set(np.flatnonzero((children < 0) & (children != ILLEGAL)).tolist())
        assert [edge.prior for edge in found] == sorted((edge.prior for edge in found), reverse=True)
        if tree.kinds[node] == CHANCE:
            assert place not in shown.illegal


def test_edges_that_are_no_actions_are_not_called_illegal():
    result = searched(10, (3,), legal_mask=torch.tensor([[True, False, True, False]]))
    assert shown_tree(result).illegal[0] == [1, 3]
    assert shown_tree(result, num_actions=3).illegal[0] == [1]
    assert 0 not in shown_tree(result, num_actions=0).illegal


@pytest.mark.parametrize(("num_simulations", "listed"), [(2, 4), (9, 10), (30, 16)])
def test_many_unvisited_edges_are_counted(num_simulations, listed):
    result = searched(num_simulations, model=TableModel(num_actions=60))
    shown = shown_tree(result)
    visited = shown.priors[shown.parents == 0]
    number, mass = shown.other_unvisited[0]
    assert len(shown.unvisited[0]) == listed
    assert number == 60 - listed - len(visited)
    assert mass + visited.sum() + sum(edge.prior for edge in shown.unvisited[0]) == pytest.approx(1.0, abs=1e-5)


def test_without_simulations_there_are_the_priors():
    shown = shown_tree(searched(0))
    assert len(shown.parents) == 1
    assert len(shown.unvisited[0]) == 4
    assert shown.value_range == (np.inf, -np.inf)


def test_the_row_is_chosen():
    result = searched(20, (3, 8))
    assert shown_tree(result, row=1).raw_values[0] == pytest.approx(TableModel().values[8].item())


def test_a_tree_that_was_retained():
    model = TableModel()
    result = searched(20, (3,), model=model)
    action = result.visits.argmax(dim=1)
    child = model.step(torch.tensor([3]), action)
    again = searched(15, child.latent, model=model, retained=reroot(result, action, 15))
    shown = shown_tree(again)
    assert shown.visits[0] > 16
    assert shown.num_nodes == len(shown.parents)


def test_names():
    result = full_result()
    shown = shown_tree(result)
    chance = int(np.flatnonzero(shown.is_chance)[0])
    assert edge_name(shown, 0, 1, "", ["a", "b"]) == "b"
    assert edge_name(shown, 0, 2, "", ["a", "b"]) == "2"
    assert edge_name(shown, chance, 1, "", ["a", "b"]) == "outcome 1"
    labelled = shown_tree(result, label=lambda node, action: f"{node}:{action}")
    nodes = nodes_of(labelled, tree_arrays(result.tree, 0))
    assert labelled.labels[0] == ""
    for place in range(1, len(nodes)):
        assert labelled.labels[place] == f"{nodes[labelled.parents[place]]}:{labelled.actions[place]}"
    assert played_name(Move(1, labelled, 2, 0.0, 0.0), ["a", "b", "c"]) == "0:2"
    assert played_name(Move(1, shown, 2, 0.0, 0.0), ["a", "b", "c"]) == "c"
    unvisited = shown_tree(searched(0, settings=SearchSettings()), label=lambda node, action: f"<{action}>")
    assert played_name(Move(1, unvisited, 2, 0.0, 0.0), []) == "<2>"
