"""Planning in FrozenLake by the searches and by dynamic programming: the exact part of benchmarks/planning.py holds."""

import itertools
import json
import pathlib
import re
import runpy
import sys
import types

import numpy as np
import pytest
import torch

from alfish.environments.simulators.tabular import make_tabular_simulator
from alfish.mcts.hindsight import HindsightPolicy, future_means
from alfish.mcts.settings import Puct, SearchSettings
from alfish.models.simulator_model import SimulatorModel

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"
PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "planning.md"


@pytest.fixture(scope="module")
def planning():
    """The script without its `main`."""
    path = sys.path.copy()
    sys.path.insert(0, str(FOLDER))
    yield types.SimpleNamespace(**runpy.run_path(str(FOLDER / "planning.py"), run_name="planning"))
    sys.path[:] = path
    for name in ("common", "frozen_lake"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def exact(planning):
    """The functions of benchmarks/frozen_lake.py."""
    return planning.frozen_lake


@pytest.fixture(scope="module")
def lake(exact):
    return exact.make_lake()


def test_the_lake(lake):
    assert (lake.start, lake.goal) == (0, 15)
    assert np.flatnonzero(lake.over).tolist() == [5, 7, 11, 12, 15]
    # To the left of the start is the edge; slips lead to its sides.
    assert lake.transitions[0, 0, [0, 4]].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert lake.rewards.sum() == pytest.approx(3 / 3)


def test_the_optimum_and_policies_without_planning(exact, lake):
    assert exact.optimum(lake) == pytest.approx(0.7442, abs=1e-4)
    assert exact.follow(lake, np.full((16, 4), 0.25)) == pytest.approx(0.0139, abs=1e-4)
    shortest = exact.take(lake, exact.shortest_path_q(lake))
    assert shortest == pytest.approx((0.0407, 0.0375, 0.0448), abs=1e-4)


# One random number per step is what SimulatorModel draws.
@pytest.mark.parametrize(
    ("draws", "discount", "claim", "earned"),
    [
        ("PER_STEP", 1.0, 1.0, (0.3920, 0.0, 0.7442)),
        ("PER_STEP", 0.99, 0.9510, (0.4492, 0.3874, 0.5109)),
        ("PER_STATE", 1.0, 1.0, (0.0, 0.0, 0.0)),
        ("PER_STATE", 0.99, 0.9368, (0.5459, 0.5459, 0.5459)),
        ("PER_SEQUENCE", 1.0, 1.0, (0.5295, 0.0, 0.7402)),
        ("PER_SEQUENCE", 0.99, 0.9471, (0.5459, 0.5459, 0.5459)),
    ],
)
def test_hindsight_claims_more_than_the_optimum_and_earns_less(exact, lake, draws, discount, claim, earned):
    q_values, claimed = exact.hindsight_q(lake, exact.Draws[draws], discount)
    assert claimed == pytest.approx(claim, abs=1e-4)
    assert exact.take(lake, q_values) == pytest.approx(earned, abs=1e-4)


def test_the_chance_to_reach_the_goal_is_that_of_futures_written_out(exact, lake):
    """All futures of three steps, each planned for by brute force, from a state two steps from the goal."""
    state, steps = 13, 3
    reached = 0
    for future in itertools.product(range(3), repeat=steps):
        states = {state}
        for draw in future:
            states |= {int(after) for place in states for after in lake.following[draw, place]}
        reached += 15 in states
    assert exact.reachable(lake, exact.Draws.PER_STEP)[steps, state] == pytest.approx(reached / 3**steps)
    for draws in exact.Draws:
        rows = exact.reachable(lake, draws)
        # The last step but one is the first from which the goal can be reached: any of four actions, a third each.
        alone = {"PER_STEP": 1.0}.get(draws.name, 1 - (2 / 3) ** 3)
        assert rows[1, 14] == pytest.approx(alone)
        assert (np.diff(rows, axis=0) >= -1e-12).all()


def test_open_loop_plans_are_the_best_of_all_sequences(exact, lake):
    steps, leaf = 4, exact.random_play(lake, 0.9)
    expected = np.full((16, 4), -np.inf)
    for actions in itertools.product(range(4), repeat=steps):
        values = leaf * ~lake.over
        for action in reversed(actions):
            values = exact.look_ahead(lake, values, 0.9)[:, action]
        expected[:, actions[0]] = np.maximum(expected[:, actions[0]], values)
    np.testing.assert_allclose(exact.open_loop_q(lake, steps, 0.9, leaf), expected, atol=1e-12)


def test_open_loop_earns_more_than_it_claims(exact, lake):
    q_values = exact.open_loop_q(lake, 12)
    assert q_values[lake.start].max() == pytest.approx(0.0443, abs=1e-4)
    assert exact.take(lake, q_values) == pytest.approx((0.7225, 0.7109, 0.7298), abs=1e-4)
    coarse = exact.open_loop_q(lake, 12, tolerance=1e-4)
    assert (coarse <= q_values + 1e-12).all()
    assert (coarse >= q_values - 12e-4).all()


def test_searched_hindsight_is_the_exact_one(exact, lake, planning):
    """With a leaf value that is right in every future, one step of search has exact plans: only futures are sampled."""
    discount, num_futures, num_seeds = 0.99, 256, 4
    distance = -exact.shortest_path_q(lake).max(1)
    leaf = torch.from_numpy(np.where(lake.over, 0.0, discount**distance)).float()
    model = SimulatorModel(lake.simulator, discount, lambda state: (torch.zeros(len(state), 4), leaf[state]))
    settings = SearchSettings(root=Puct(c1=100.0), max_depth=1)
    policy = HindsightPolicy(num_futures, model.split, settings)
    q_values = []

    def plan(states, seed):
        output = policy(model.root(states, seed), model.step, 4)
        means = future_means(output.search, num_futures)
        q_values.append(means.q_values.view(num_seeds, -1, 4))
        return output.action, means.best_value

    claim, earned = planning.measure(lake, plan, num_seeds, seed=0)
    expected, expected_claim = exact.hindsight_q(lake, exact.Draws.PER_STEP, discount)
    assert claim == pytest.approx(expected_claim, abs=1e-5)
    assert q_values[0].mean(0).numpy() == pytest.approx(expected[~lake.over], abs=0.06)
    theory = exact.take(lake, expected)
    assert min(earned) >= theory.least - 1e-6
    assert max(earned) <= theory.most + 1e-6
    assert np.mean(earned) == pytest.approx(theory.evenly, abs=0.06)


def test_searched_open_loop_plans_earn_what_no_hindsight_does(exact, lake, planning):
    claim, earned = planning.measure(lake, planning.open_loop(lake, 3000), 2, seed=0)
    exact_claim, theory = planning.q_look_ahead(lake)
    assert claim == pytest.approx(exact_claim, abs=0.003)
    hindsight = exact.take(lake, exact.hindsight_q(lake, exact.Draws.PER_STEP, planning.DISCOUNT)[0])
    assert min(earned) > hindsight.most + 0.05
    assert np.mean(earned) == pytest.approx(theory.evenly, abs=0.06)


def test_planning_leaves_the_states_as_they_were(lake, planning):
    states = torch.tensor([0, 14])
    for planner in (planning.hindsight(lake, 3, 20), planning.open_loop(lake, 20), planning.closed_loop(lake, 20)):
        first, second = planner(states, 5), planner(states, 5)
        assert states.tolist() == [0, 14]
        assert all(torch.equal(left, right) for left, right in zip(first, second, strict=True))
    simulator = make_tabular_simulator("FrozenLake-v1")
    assert torch.equal(simulator.outcomes.probability, lake.simulator.outcomes.probability)


def test_the_table(planning):
    earned = planning.Earned(0.5, 0.25, 1.0)
    assert planning.row("a", "exact", None, earned) == {
        "planner": "a",
        "by": "exact",
        "claims": None,
        "earns": 0.5,
        "least": 0.25,
        "most": 1.0,
    }


def test_the_program_of_the_page_runs(capsys):
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(program, str(PAGE), "exec"), {})
    actions = [json.loads(text) for text in re.findall(r"\[[^\]]*\]", capsys.readouterr().out)]
    # Beside the goal (14) any action but the first may be best, in 13 the way to it is action 2.
    assert [len(values) for values in actions] == [2, 2, 2, 2]
    assert actions[0][1] == actions[2][1] == 2
    assert all(known > drawn for known, drawn in zip(actions[1], actions[3], strict=True))


def test_the_table_of_the_page_is_what_the_script_prints(planning, lake):
    """The exact rows; plans of fewer steps, which change the values but not what they earn."""
    text = PAGE.read_text()
    for row in planning.exact_rows(lake, 10, 1e-4):
        if "to its end" not in row["planner"]:
            if row["planner"].startswith("open loop"):
                row["claims"] = 0.066
            (line,) = planning.common.markdown_table([row]).splitlines()[2:]
            assert line in text
