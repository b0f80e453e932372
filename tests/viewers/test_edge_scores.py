"""The scores of edges: by hand, against what the search does next, and against the policies that it reads off."""

import math

import numpy as np
import pytest
import torch
from viewer_trees import TableModel, full_result, searched

from alfish.mcts.root_policies import root_policy
from alfish.mcts.settings import ImprovedPolicy, Puct, RegularisedPolicy, SearchSettings, SequentialHalving
from alfish.mcts.tree import CHANCE, ILLEGAL
from alfish.viewers.edge_scores import edge_scores, score_formulas
from alfish.viewers.tree_arrays import tree_arrays

RULES = {
    "puct": Puct(),
    "puct_parent": Puct(c1=0.7, c2=10.0, unvisited_value="parent"),
    "puct_siblings": Puct(unvisited_value="siblings"),
    "improved": ImprovedPolicy(value_scale=0.05),
    "regularised": RegularisedPolicy(sampled=False),
    "regularised_zero": RegularisedPolicy(sampled=False, unvisited_value=0.2),
}
RANGES = ["tree", "node", (-2.0, 3.0)]


def scores_of(result, row=0):
    return edge_scores(tree_arrays(result.tree, row), result.settings)


def test_puct_by_hand():
    settings = SearchSettings(root=Puct(c1=1.0, c2=2.0), value_range=(0.0, 2.0))
    tree = tree_arrays(searched(3, model=TableModel(num_actions=3), settings=settings).tree, 0)
    children, priors, q_values = tree.children.copy(), tree.priors.copy(), tree.q_values.copy()
    children[0], priors[0], q_values[0] = [1, 2, -1], [0.5, 0.2, 0.3], [1.0, 0.4, 0.0]
    visits, edge_visits = tree.visits.copy(), tree.edge_visits.copy()
    visits[0], edge_visits[0] = 4, [2, 1, 0]
    tree = tree._replace(children=children, priors=priors, q_values=q_values, visits=visits, edge_visits=edge_visits)
    tree = tree._replace(value_range=np.array([0.0, 2.0]))
    exploration = 2.0 * (1.0 + math.log(7.0 / 2.0))
    expected = [0.5 + exploration * 0.5 / 3, 0.2 + exploration * 0.2 / 2, 0.0 + exploration * 0.3]
    np.testing.assert_allclose(edge_scores(tree, settings)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("value_range", RANGES, ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_next_simulation_takes_the_largest_scores(rule, value_range):
    settings = SearchSettings(root=rule, interior=rule, value_range=value_range)
    model = TableModel(chance=True, endings=True, illegal=True, players=True)
    followed = 0
    for num_simulations in (0, 1, 2, 5, 17, 40):
        before = searched(num_simulations, (3, 8), settings, model).tree
        after = searched(num_simulations + 1, (3, 8), settings, model).tree
        for row in range(2):
            scores = edge_scores(tree_arrays(before, row), settings)
            node = 0
            while 0 <= node <= num_simulations and before.visits[row, node] > 0:
                taken = after.edge_visits[row, node] - before.edge_visits[row, node]
                if not taken.any():
                    break  # a simulation that ended here
                action = int(taken.argmax())
                assert scores[node, action] >= np.nanmax(scores[node]) - 1e-4
                followed += 1
                node = int(before.children[row, node, action])
    assert followed > 20


def test_halving_is_noise_and_the_improved_policys_logits():
    rule = SequentialHalving(max_considered=3, visit_offset=10.0, value_scale=0.3)
    settings = SearchSettings(root=rule, interior=ImprovedPolicy(), value_range="node")
    noise = torch.tensor([[0.5, -0.2, 1.0, 0.1]])
    result = searched(20, settings=settings, gumbel=noise)
    improved = root_policy(result, ImprovedPolicy(10.0, 0.3))[0].numpy()
    logits = scores_of(result)[0] - noise[0].numpy()
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), improved, atol=1e-5)


def test_a_sampled_rule_shows_its_probabilities():
    rule = RegularisedPolicy()
    result = searched(30, settings=SearchSettings(root=rule, interior=rule))
    np.testing.assert_allclose(scores_of(result)[0], root_policy(result, rule)[0].numpy(), atol=1e-5)


def test_chance_nodes_and_illegal_edges():
    result = full_result()
    tree, scores = tree_arrays(result.tree, 0), scores_of(result)
    nodes = np.flatnonzero((tree.kinds == CHANCE) & (tree.visits > 0))
    assert nodes.size
    legal = tree.children[nodes] != ILLEGAL
    np.testing.assert_allclose(scores[nodes][legal], (tree.priors / (1.0 + tree.edge_visits))[nodes][legal])
    assert np.isnan(scores[(tree.children == ILLEGAL)]).all()
    assert np.isnan(scores[tree.visits == 0]).all()
    assert np.isfinite(scores[(tree.children != ILLEGAL) & (tree.visits > 0)[:, None]]).all()


def test_every_rule_says_what_its_score_is():
    formulas = {score_formulas(SearchSettings(root=rule, interior=rule))["root"] for rule in RULES.values()}
    assert len(formulas) == 3
    assert "Gumbel" in score_formulas(SearchSettings(root=SequentialHalving(), interior=ImprovedPolicy()))["root"]
    assert score_formulas(SearchSettings(chance="sampled"))["chance"].startswith("prior: ")
