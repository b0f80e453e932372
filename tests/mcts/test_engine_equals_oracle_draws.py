"""The engine against the oracle where choices are left to chance.

The oracle follows the engine's simulations, says at each choice which actions were possible and how probable, and the
actions taken are tested against these probabilities. Seeds are fixed, so the tests are deterministic.
"""

import itertools
import math

import pytest
from oracle import TooClose
from random_game import Recorder
from search_cases import DRAWN_RULES, draw_gumbel, draw_mask, engine_settings, make_game, oracle_search

from alfish.mcts.search import search

B = 12
SIMULATIONS = 24
LARGEST_DEVIATION = 4.0
"""In standard deviations."""


def run(game, settings, seed=0, gumbel=None):
    recorder = Recorder(game)
    settings = engine_settings(settings)
    result = search(recorder.root(), recorder, SIMULATIONS, settings, draw_mask(game, 3), gumbel, seed)
    return result, recorder.paths


def follow(game, settings, result, paths, gumbel=None):
    """The oracle's searches on the engine's paths; compares what they found."""
    found = []
    for row in range(game.B):
        try:
            oracle = oracle_search(game, row, settings, SIMULATIONS, draw_mask(game, 3), gumbel, paths[row])
        except TooClose:
            continue
        view = oracle.root.view()
        assert result.visits[row].tolist() == [view.visits.get(action, 0) for action in range(game.A)]
        assert result.value[row].item() == pytest.approx(view.value, rel=1e-5, abs=1e-5)
        found.append(oracle)
    assert len(found) >= 0.9 * game.B
    return found


def deviation(draws, weight):
    """How far the sum of weight(action, number of actions) is from its mean, in standard deviations."""
    difference = variance = 0.0
    for _, probabilities, action in draws:
        weights = {a: weight(a, probabilities) for a in probabilities}
        mean = sum(weights[a] * p for a, p in probabilities.items())
        difference += weights[action] - mean
        variance += sum(p * (weights[a] - mean) ** 2 for a, p in probabilities.items())
    return difference / math.sqrt(variance)


WEIGHTS = {
    "the lowest": lambda action, probabilities: float(action == min(probabilities)),
    "the highest": lambda action, probabilities: float(action == max(probabilities)),
    "the most probable": lambda action, probabilities: float(probabilities[action] == max(probabilities.values())),
    "odd ones": lambda action, probabilities: float(action % 2),
    "the number": lambda action, probabilities: float(action),
    "the improbable": lambda action, probabilities: float(probabilities[action] < 0.1),
}


@pytest.mark.parametrize("name", DRAWN_RULES)
@pytest.mark.parametrize("kind", ["one_player", "illegal", "ends", "chance_turns_illegal"])
def test_draws_what_the_oracle_says(name, kind):
    settings, game = DRAWN_RULES[name], make_game(kind, B, 11)
    gumbel = draw_gumbel(game, settings, 5)
    result, paths = run(game, settings, 0, gumbel)
    assert all(len(row) == SIMULATIONS for row in paths)
    draws = [draw for oracle in follow(game, settings, result, paths, gumbel) for draw in oracle.draws]
    if settings.ties == "lowest" and len(draws) > 100:
        for what, weight in WEIGHTS.items():
            assert abs(deviation(draws, weight)) < LARGEST_DEVIATION, what


@pytest.mark.parametrize("name", ["random_ties", "random_ties_gumbel", "random_ties_regularised"])
def test_random_ties_are_uniform(name):
    """Games whose actions are all alike. The order is fixed for a node, so only its first choice counts."""
    settings, game = DRAWN_RULES[name], make_game("one_player", 60, 12)
    game.logits[:] = 0.0
    result, paths = run(game, settings)
    draws = []
    for oracle in follow(game, settings, result, paths):
        draws += {id(draw.node): draw for draw in reversed(oracle.draws)}.values()
    assert len(draws) > 500
    for what, weight in WEIGHTS.items():
        if "probable" not in what:
            assert abs(deviation(draws, weight)) < LARGEST_DEVIATION, what


@pytest.mark.parametrize("name", DRAWN_RULES)
def test_the_seed_decides(name):
    settings, game = DRAWN_RULES[name], make_game("chance", B, 13)
    game.logits[:, 0] = 0.0
    gumbel = draw_gumbel(game, settings, 5)
    first, again, other = (run(game, settings, seed, gumbel)[1] for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", ["sampled", "chance_sampled", "random_ties"])
def test_rows_draw_different_numbers(name):
    settings, game = DRAWN_RULES[name], make_game("chance", B, 14)
    for table in (game.next, game.reward, game.discount, game.logits, game.value, game.is_chance):
        table[:] = table[:1]
    game.logits[:, 0] = 0.0
    recorder = Recorder(game)
    search(recorder.root(), recorder, SIMULATIONS, engine_settings(settings))
    assert len({str(row) for row in recorder.paths}) > 0.8 * B


def middle(draw):
    """Where in the distribution a draw was, and its variance if it was a draw: mean 0."""
    below = sum(p for action, p in draw.probabilities.items() if action < draw.action)
    variance = (1 - sum(p**3 for p in draw.probabilities.values())) / 12
    return below + draw.probabilities[draw.action] / 2 - 0.5, variance


@pytest.mark.parametrize(("name", "kind"), [("sampled", "one_player"), ("chance_sampled", "chance")])
def test_successive_draws_are_independent(name, kind):
    settings, game = DRAWN_RULES[name], make_game(kind, 40, 15)
    result, paths = run(game, settings)
    product = variance = 0.0
    for oracle in follow(game, settings, result, paths):
        places = [middle(draw) for draw in oracle.draws]
        for (left, left_variance), (right, right_variance) in itertools.pairwise(places):
            product += left * right
            variance += left_variance * right_variance
    assert abs(product) < LARGEST_DEVIATION * math.sqrt(variance)
