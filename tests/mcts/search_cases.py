"""The rules and the games with which the engine is compared with the oracle, and the two ways to say each rule."""

import math

import oracle
import torch
from oracle import Halving, Improved, Puct, Regularised, Settings
from random_game import RandomGame

from alfish.mcts.settings import ImprovedPolicy, RegularisedPolicy, SearchSettings, SequentialHalving
from alfish.mcts.settings import Puct as PuctRule

KNOWN = (-2.0, 1.0)

RULES = {
    "paper": Settings(),
    "parent": Settings(Puct(unvisited="parent"), Puct(unvisited="parent")),
    "siblings": Settings(Puct(unvisited="siblings"), Puct(unvisited="siblings")),
    "half": Settings(Puct(unvisited=0.5), Puct(unvisited=-0.2)),
    "weights": Settings(Puct(0.4, 3.0), Puct(2.0, 50.0), minimum_range=5.0),
    "no_prior": Settings(Puct(0.0, 1e30, 0.3), Puct(0.0, 1e30, 0.3)),
    "known_range": Settings(value_range=KNOWN),
    "known_range_parent": Settings(Puct(unvisited="parent"), Puct(unvisited="parent"), value_range=KNOWN),
    "node_range": Settings(value_range="node"),
    "node_range_parent": Settings(Puct(unvisited="parent"), Puct(unvisited="siblings"), value_range="node"),
    "depth_1": Settings(max_depth=1),
    "depth_3": Settings(Puct(unvisited="siblings"), Puct(unvisited="siblings"), max_depth=3),
    "gumbel": Settings(Halving(), Improved()),
    "gumbel_known_range": Settings(Halving(4, 10.0, 1.0), Improved(10.0, 1.0), value_range=KNOWN),
    "gumbel_node_range": Settings(Halving(3, 50.0, 0.3), Improved(50.0, 0.3), value_range="node"),
    "gumbel_one": Settings(Halving(1), Improved(), max_depth=4),
    "halving_puct": Settings(Halving(2), Puct(unvisited="parent"), value_range="node"),
    "improved": Settings(Improved(5.0, 0.5), Improved(5.0, 0.5)),
    "puct_improved": Settings(Puct(), Improved(), value_range="node"),
    "regularised": Settings(Regularised(), Regularised()),
    "regularised_siblings": Settings(Puct(), Regularised(0.5, 10.0, "siblings"), value_range="node"),
    "regularised_root": Settings(Regularised(unvisited=0.0), Puct(), value_range=KNOWN),
    "regularised_improved": Settings(Regularised(), Improved(), max_depth=3),
    "leaves_2": Settings(leaves=2),
    "leaves_4_parent": Settings(Puct(unvisited="parent"), Puct(unvisited="siblings"), leaves=4),
    "leaves_3_depth": Settings(value_range="node", max_depth=2, leaves=3),
    "leaves_gumbel": Settings(Halving(), Improved(), leaves=4),
    "leaves_regularised": Settings(Regularised(), Regularised(), value_range="node", leaves=3),
    "leaves_all_at_once": Settings(Improved(), Puct(unvisited="parent"), leaves=24),
}
"""Divisors of 24, 36 and 72 as numbers of leaves."""

DRAWN_RULES = {
    "random_ties": Settings(ties="random"),
    "random_ties_gumbel": Settings(Improved(), Improved(), ties="random", value_range=KNOWN),
    "random_ties_regularised": Settings(Regularised(), Regularised(), ties="random", leaves=2),
    "sampled": Settings(Regularised(sampled=True), Regularised(sampled=True)),
    "sampled_inside": Settings(Puct(), Regularised(1.0, 100.0, 0.0, sampled=True), leaves=2),
    "sampled_root": Settings(Regularised(sampled=True), Improved(), value_range="node", max_depth=3),
    "chance_sampled": Settings(chance="sampled"),
    "chance_sampled_gumbel": Settings(Halving(), Improved(), chance="sampled", leaves=3),
    "all_drawn": Settings(Regularised(sampled=True), Regularised(sampled=True), ties="random", chance="sampled"),
}

GAMES = {
    "one_player": {"A": 5, "discounts": [0.9]},
    "ends": {"A": 4, "discounts": [0.0, 1.0, 0.97]},
    "all_end": {"A": 5, "discounts": [0.0]},
    "one_action": {"A": 1, "discounts": [0.9]},
    "two_players": {"A": 6, "discounts": [-1.0, -0.9, 0.0]},
    "illegal": {"A": 7, "discounts": [0.9, 0.0], "illegal": 0.4},
    "ties": {"A": 5, "discounts": [1.0, 0.0, -1.0], "coarse": True, "illegal": 0.2},
    "turns": {"A": 5, "discounts": [1.0, 0.9, 0.0], "players": 2, "illegal": 0.2},
    "chance": {"A": 5, "discounts": [1.0, 0.9, 0.0], "chance": 0.5},
    "chance_turns_illegal": {"A": 6, "discounts": [1.0, 0.9], "chance": 0.4, "players": 2, "illegal": 0.4},
}
"""Arguments of RandomGame."""


def make_game(name, B, seed):
    return RandomGame(B, seed=seed, **GAMES[name])


def engine_rule(rule):
    """A rule of the oracle as one of the package."""
    kinds = {Puct: PuctRule, Improved: ImprovedPolicy, Halving: SequentialHalving, Regularised: RegularisedPolicy}
    return kinds[type(rule)](*rule)


def engine_settings(settings):
    return SearchSettings(
        root=engine_rule(settings.root),
        interior=engine_rule(settings.interior),
        value_range=settings.value_range,
        minimum_range=settings.minimum_range,
        max_depth=settings.max_depth,
        tie_breaking=settings.ties,
        chance=settings.chance,
        leaves_per_round=settings.leaves,
    )


def draw_mask(game, seed, root_logits=None):
    """`[B, A]` bool: another mask in each row, which leaves something of what is legal at the root."""
    generator = torch.Generator().manual_seed(seed)
    legal = (torch.from_numpy(game.logits[:, 0]) if root_logits is None else root_logits) > -math.inf
    scores = torch.rand(legal.shape, generator=generator).masked_fill(~legal, -1.0)
    return (scores > 0.5) | (scores == scores.amax(1, keepdim=True))


def draw_gumbel(game, settings, seed):
    """`[B, A]`, or None where the root does not halve."""
    if not isinstance(settings.root, Halving):
        return None
    generator = torch.Generator().manual_seed(seed)
    return -torch.empty(game.B, game.A).exponential_(generator=generator).log()


def oracle_search(game, row, settings, num_simulations, mask=None, gumbel=None, told=None):
    """The oracle's search for one row; raises TooClose where rounding decides."""
    root = game.root_answer(row, None if mask is None else mask[row].tolist())
    noise = None if gumbel is None else gumbel[row].tolist()
    return oracle.Search(game.one_row(row), root, settings, num_simulations, noise, told).run()


def assert_near(number, expected):
    assert math.isclose(number, expected, rel_tol=1e-5, abs_tol=1e-5), f"{number}, expected {expected}"


def assert_same_tree(tree, row, index, node):
    """Compares one node of the engine, of a Tree of arrays, with the oracle's, and what is below it."""
    place = (row, index)
    assert_near(tree.values[place], node.value_sum / node.visits)
    assert tree.visits[place] == node.visits
    assert tree.players[place] == (node.to_play or 0)
    assert tree.kinds[place] == node.is_chance
    children, visits = tree.children[place].tolist(), tree.edge_visits[place].tolist()
    values, priors = tree.q_values[place].tolist(), tree.priors[place].tolist()
    for action, behind in enumerate(children):
        child = node.children.get(action)
        assert visits[action] == (child.visits if child else 0)
        assert_near(values[action], child.q_value() if child else 0.0)
        assert_near(priors[action], node.priors.get(action, 0.0))
        if child:
            assert (tree.parents[row, behind], tree.actions[row, behind]) == (index, action)
            assert_near(tree.rewards[row, behind], child.reward)
            assert_near(tree.discounts[row, behind], child.discount)
            assert_same_tree(tree, row, behind, child)
        else:
            assert behind == (-1 if action in node.logits else -2)
