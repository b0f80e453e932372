"""The engine against the oracle: every rule that draws nothing, on every kind of game, node by node."""

import pytest
from oracle import TooClose
from random_game import RandomGame
from search_cases import (
    GAMES,
    RULES,
    assert_near,
    assert_same_tree,
    draw_gumbel,
    engine_settings,
    make_game,
    oracle_search,
)

from alfish.mcts.search import search
from alfish.mcts.tree import Tree

B = 3
SIMULATIONS = 36
MOST_TOO_CLOSE = 0.1
"""The share of all searches that may be left out because rounding decides them."""


def compare(game, settings, num_simulations, gumbel):
    """Compares all rows; returns how many were left out."""
    result = search(game.root(), game, num_simulations, engine_settings(settings), None, gumbel)
    assert (result.visits.sum(1) == num_simulations).all()
    tree, too_close = Tree(*(field.numpy() for field in result.tree)), 0
    for row in range(game.B):
        try:
            found = oracle_search(game, row, settings, num_simulations, None, gumbel)
        except TooClose:
            too_close += 1
            continue
        assert_same_tree(tree, row, 0, found.root)
        view = found.root.view()
        assert result.visits[row].tolist() == [view.visits.get(action, 0) for action in range(game.A)]
        assert_near(result.value[row].item(), view.value)
        for action, value in enumerate(result.q_values[row].tolist()):
            assert_near(value, view.q_values.get(action, 0.0))
        if settings.value_range != "node" and found.low is not None:
            assert_near(tree.value_range[row, 0], found.low)
            assert_near(tree.value_range[row, 1], found.high)
    return too_close


@pytest.mark.parametrize("name", RULES)
def test_equals_the_oracle(name):
    too_close = 0
    for seed, kind in enumerate(GAMES):
        game = make_game(kind, B, seed)
        simulations = SIMULATIONS if SIMULATIONS % RULES[name].leaves == 0 else 2 * RULES[name].leaves
        too_close += compare(game, RULES[name], simulations, draw_gumbel(game, RULES[name], seed))
    assert too_close <= MOST_TOO_CLOSE * B * len(GAMES)


@pytest.mark.parametrize(("B", "A", "num_simulations"), [(1, 1, 6), (1, 3, 180), (2, 18, 2), (2, 18, 72), (33, 2, 12)])
@pytest.mark.parametrize("name", ["siblings", "gumbel", "regularised", "leaves_2"])
def test_sizes(name, B, A, num_simulations):
    game = RandomGame(B, A, [0.95, -0.95, 0.0], seed=31, illegal=0.1)
    assert compare(game, RULES[name], num_simulations, draw_gumbel(game, RULES[name], 31)) <= max(B // 10, 1)
