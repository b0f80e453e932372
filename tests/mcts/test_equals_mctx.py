"""The engine against mctx 0.0.71 (JAX), fed the same numbers: visits, values, policies, the winner.

Where the definitions differ on purpose (docs/search_differences.md) the games below keep away from the difference, or
a test shows it:

- mctx goes on below an edge with discount 0; we end there. Nothing above such an edge can tell.
- mctx scales completed Q-values over all actions, illegal ones with the mixed value too; we over the legal ones. The
  two are equal while a legal action is unvisited, which has the mixed value as well.
- mctx knows illegal actions at the root only; below it the games here have none.
- `muzero_policy` adds noise below 1e-7 to break ties; random games have none.
"""

import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import oracle_rules as rules
import pytest
import torch
from oracle import Halving, Improved, Settings
from random_game import STATES, RandomGame
from search_cases import engine_rule, engine_settings

from alfish.mcts.root_policies import halving_winner, root_policy
from alfish.mcts.search import search

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mctx") is None, reason="mctx is not installed (alfish[test] has it)"
)

B, SIMULATIONS = 48, 32
ALL_LEGAL = 24
BOUNDS = (-40.0, 40.0)  # no value of these games comes near
NODE = {"value_range": "node", "minimum_range": 1e-8}
DECISIONS, ACTIONS, OUTCOMES = 4, 4, 6


def mask(A, seed, least, first=0):
    """`[B, A]`; at least the first `least` actions are legal, and all of them in the first `first` rows."""
    legal = np.random.default_rng(seed).random((B, A)) < 0.6
    legal[:, :least] = True
    legal[:first] = True
    return legal


def surprising_game(seed):
    """In the rows with masks the root is valued far above all that follows, and so is the mixed value."""
    game = RandomGame(B, 5, [0.9, 0.0], seed)
    game.value[ALL_LEGAL:, 0] = 100.0
    game.next[game.next == 0] = 1  # no other node is the root's state
    return game


def alternating_game(seed):
    """A stochastic game: the first DECISIONS states are a player's, the others are afterstates."""
    game, rng = RandomGame(B, max(ACTIONS, OUTCOMES), [0.9, 0.0, 1.0], seed), np.random.default_rng(seed)
    game.is_chance[:, DECISIONS:] = True
    game.chance = 0.5
    game.next[:, :DECISIONS] = rng.integers(DECISIONS, STATES, game.next[:, :DECISIONS].shape)
    game.next[:, DECISIONS:] = rng.integers(0, DECISIONS, game.next[:, DECISIONS:].shape)
    game.reward[:, :DECISIONS], game.discount[:, :DECISIONS] = 0.0, 1.0
    game.logits[:, :DECISIONS, ACTIONS:] = -np.inf
    game.logits[:, DECISIONS:, OUTCOMES:] = -np.inf
    return game


CASES = {
    "muzero, known bounds": (
        RandomGame(B, 5, [0.9, 0.0, 1.0], 1),
        Settings(value_range=BOUNDS),
        {"policy": "muzero_policy", "qtransform": "min_max"},
        {"min_value": BOUNDS[0], "max_value": BOUNDS[1]},
        None,
    ),
    "muzero, two players, masks, depth": (
        RandomGame(B, 5, [0.9, -0.9], 2),
        Settings(max_depth=3, **NODE),
        {"policy": "muzero_policy", "qtransform": "parent_and_siblings", "max_depth": 3},
        {},
        mask(5, 2, 1),
    ),
    "gumbel": (
        surprising_game(3),
        Settings(Halving(), Improved(), **NODE),
        {"policy": "gumbel_muzero_policy", "qtransform": "mix_value"},
        {},
        mask(5, 3, 2, ALL_LEGAL),
    ),
    "gumbel, few considered": (
        RandomGame(B, 9, [0.9, -1.0], 4),
        Settings(Halving(3, 20.0, 0.3), Improved(20.0, 0.3), **NODE),
        {"policy": "gumbel_muzero_policy", "qtransform": "mix_value", "max_num_considered_actions": 3},
        {"maxvisit_init": 20.0, "value_scale": 0.3},
        mask(9, 4, 4),
    ),
    "stochastic": (
        alternating_game(6),
        Settings(**NODE),
        {"policy": "stochastic_muzero_policy", "qtransform": "parent_and_siblings"},
        {},
        None,
    ),
}


def tables(game, options, of_qtransform, legal):
    """What `mctx_reference.py` reads for one case."""
    options = options | {"of_qtransform": of_qtransform, "num_simulations": SIMULATIONS}
    found = {"options": np.array(json.dumps(options)), "next": game.next.astype(np.int32)}
    found |= {name: getattr(game, name) for name in ("reward", "discount", "logits", "value")}
    if legal is not None:
        found["legal"] = legal
    if options["policy"] == "stochastic_muzero_policy":
        found |= {"actions": np.arange(ACTIONS), "outcomes": np.arange(OUTCOMES)}
    return found


@pytest.fixture(scope="module")
def of_mctx(tmp_path_factory):
    """All that mctx found, by `case/name`. It runs as a program of its own: see there."""
    folder = tmp_path_factory.mktemp("mctx")
    games = {
        f"{case}/{name}": array
        for case, (game, _, options, of_qtransform, legal) in CASES.items()
        for name, array in tables(game, options, of_qtransform, legal).items()
    }
    np.savez(folder / "games.npz", **games)
    program = pathlib.Path(__file__).with_name("mctx_reference.py")
    command = [sys.executable, program, folder / "games.npz", folder / "results.npz"]
    # Compiling takes nearly all of the time.
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    with np.load(folder / "results.npz", allow_pickle=False) as results:
        return dict(results)


@functools.cache
def of_engine(case, gumbel):
    game, settings, _, _, legal = CASES[case]
    legal_mask = None if legal is None else torch.from_numpy(legal)
    noise = None if gumbel is None else torch.tensor(gumbel)
    return search(game.root(), game, SIMULATIONS, engine_settings(settings), legal_mask, noise)


def both(case, of_mctx):
    gumbel = of_mctx.get(f"{case}/gumbel")
    result = of_engine(case, None if gumbel is None else tuple(map(tuple, gumbel.tolist())))
    return result, lambda name: of_mctx[f"{case}/{name}"]


def comparable(case):
    """`[B]`: the rows in which mctx and we define the same; in the others an illegal action counts for mctx."""
    rows = np.ones(B, bool)
    if case == "gumbel":  # with few considered, one legal action at least stays unvisited
        rows[ALL_LEGAL:] = CASES[case][4][ALL_LEGAL:].all(1)
    return rows


@pytest.mark.parametrize("case", CASES)
def test_visits_and_values(case, of_mctx):
    result, theirs = both(case, of_mctx)
    rows, width = comparable(case), theirs("visits").shape[1]  # without the outcomes
    assert result.visits[rows, :width].tolist() == theirs("visits")[rows].astype(int).tolist()
    np.testing.assert_allclose(result.value[rows], theirs("value")[rows], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result.q_values[rows, :width], theirs("q_values")[rows], rtol=1e-5, atol=1e-5)
    if "known" in case:
        assert (result.tree.value_range == torch.tensor(BOUNDS)).all()


@pytest.mark.parametrize("case", [case for case in CASES if "gumbel" in case])
def test_improved_policy_and_winner(case, of_mctx):
    """The policy is softmax(logits + transformed Q), so this compares mctx's completed_by_mix_value too."""
    result, theirs = both(case, of_mctx)
    policy, rows = root_policy(result, engine_rule(CASES[case][1].interior)), comparable(case)
    np.testing.assert_allclose(policy[rows], theirs("weights")[rows], rtol=1e-4, atol=1e-6)
    assert halving_winner(result)[rows].tolist() == theirs("action")[rows].tolist()


@pytest.mark.parametrize("case", [case for case in CASES if "gumbel" not in case])
def test_shares_of_visits(case, of_mctx):
    result, theirs = both(case, of_mctx)
    width = theirs("weights").shape[1]
    np.testing.assert_allclose(root_policy(result, "visits")[:, :width], theirs("weights"), rtol=1e-6)


def root_view(result, row):
    """The root as the oracle's rules see it, with the engine's numbers."""
    tree, actions = result.tree, [a for a in range(result.visits.shape[1]) if result.tree.children[row, 0, a] != -2]
    return rules.View(
        legal=actions,
        logits=None,
        priors={a: tree.priors[row, 0, a].item() for a in actions},
        visits={a: result.visits[row, a].item() for a in actions},
        q_values={a: result.q_values[row, a].item() for a in actions if result.visits[row, a]},
        node_visits=tree.visits[row, 0].item(),
        value=result.value[row].item(),
        raw_value=tree.raw_values[row, 0].item(),
    )


@pytest.mark.parametrize("case", CASES)
def test_transformed_values(case, of_mctx):
    """qtransform_by_min_max, by_parent_and_siblings and completed_by_mix_value of the roots, for the legal actions."""
    result, theirs = both(case, of_mctx)
    settings = CASES[case][1]
    for row in np.flatnonzero(comparable(case)).tolist():
        view = root_view(result, row)
        if isinstance(settings.interior, Improved):
            values = rules.completed(view).values()
            scaled = rules.scale_by(min(values), max(values), settings.minimum_range)
            transformed = rules.sigma(view, scaled, *settings.interior)
        else:
            bounds = rules.node_range(view) if settings.value_range == "node" else settings.value_range
            scaled = rules.scale_by(*bounds, settings.minimum_range)
            transformed = rules.scaled_values(view, scaled, 0.0)
        expected = theirs("transformed")[row]
        assert transformed == pytest.approx({a: expected[a] for a in view.legal}, rel=1e-4, abs=1e-4)


def test_illegal_actions_do_not_widen_the_range_of_completed_values(of_mctx):
    """Where every legal action is visited, mctx's range still has the mixed value, as that of the illegal ones.

    Where the two agree on the tree, our policy is theirs with the values of the legal actions scaled to [0, 1] again.
    """
    result, theirs = both("gumbel", of_mctx)
    game, _, _, _, legal = CASES["gumbel"]
    same = np.isclose(result.q_values, theirs("q_values"), atol=1e-5).all(1) & ~comparable("gumbel")
    assert ((result.visits.numpy() > 0) == legal)[same].all()
    visits, values = theirs("visits")[same], np.ma.array(theirs("transformed")[same], mask=~legal[same])
    largest = 0.1 * (50 + visits.max(1, keepdims=True))
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    assert (high < 0.9 * largest).sum() >= 3
    scores = np.ma.array(game.logits[same, 0], mask=~legal[same]) + largest * (values - low) / (high - low)
    weights = np.exp(scores - scores.max(1, keepdims=True)).filled(0.0)
    policy = root_policy(result, engine_rule(Improved()))[same]
    np.testing.assert_allclose(policy, weights / weights.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)
    assert not np.allclose(policy, theirs("weights")[same], atol=1e-3)
