"""The engine against the oracle: masks that differ from row to row, and what is read off the root."""

import numpy as np
import oracle_root
import pytest
from oracle import Improved, Regularised, TooClose
from search_cases import GAMES, RULES, draw_gumbel, draw_mask, engine_rule, engine_settings, make_game, oracle_search

from alfish.mcts.root_policies import halving_winner, root_policy
from alfish.mcts.search import search

B = 6
READINGS = ["visits", Improved(), Improved(3.0, 1.0), Regularised(), Regularised(0.3, 5.0, "siblings")]
HALVING = [name for name, settings in RULES.items() if "halving" in name or "gumbel" in name]


def engine_reading(reading):
    return reading if reading == "visits" else engine_rule(reading)


def search_both(kind, settings, num_simulations, seed):
    """A game with masks: the engine's result, and the oracle's search of each row, or None where rounding decides."""
    game = make_game(kind, B, seed)
    mask, gumbel = draw_mask(game, seed), draw_gumbel(game, settings, seed)
    result = search(game.root(), game, num_simulations, engine_settings(settings), mask, gumbel)
    assert (result.visits[~mask] == 0).all()
    found = []
    for row in range(B):
        try:
            found.append(oracle_search(game, row, settings, num_simulations, mask, gumbel))
        except TooClose:
            found.append(None)
    assert found.count(None) <= 1
    return game, result, found


@pytest.mark.parametrize("name", RULES)
def test_masks_and_root_policies(name):
    settings = RULES[name]
    for seed, kind in enumerate(["one_player", "illegal", "chance_turns_illegal"]):
        game, result, found = search_both(kind, settings, 24, 100 + seed)
        for reading in READINGS:
            policy = root_policy(result, engine_reading(reading)).numpy()
            np.testing.assert_allclose(policy.sum(1), 1.0, rtol=1e-5)
            for row, oracle in enumerate(found):
                if oracle:
                    expected = oracle_root.root_policy(oracle, reading)
                    assert result.visits[row].tolist() == [oracle.root.view().visits.get(a, 0) for a in range(game.A)]
                    wanted = [expected.get(action, 0.0) for action in range(game.A)]
                    np.testing.assert_allclose(policy[row], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_simulations", [0, 1, 3, 24])
@pytest.mark.parametrize("reading", READINGS, ids=str)
def test_root_policies_after_few_simulations(num_simulations, reading):
    game, result, found = search_both("illegal", RULES["improved"], num_simulations, 7)
    policy = root_policy(result, engine_reading(reading)).numpy()
    for row, oracle in enumerate(found):
        if oracle:
            expected = oracle_root.root_policy(oracle, reading)
            wanted = [expected.get(action, 0.0) for action in range(game.A)]
            np.testing.assert_allclose(policy[row], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", HALVING)
def test_the_winner_of_sequential_halving(name):
    for num_simulations in (0, 12, 24):
        for seed, kind in enumerate(GAMES):
            _, result, found = search_both(kind, RULES[name], num_simulations, 200 + seed)
            winners = halving_winner(result).tolist()
            assert [w for w, o in zip(winners, found, strict=True) if o] == [oracle_root.winner(o) for o in found if o]
