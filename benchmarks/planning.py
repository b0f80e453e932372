"""Planning in a true stochastic simulator: what planners claim and what they earn, exactly and by the search engine.

python benchmarks/planning.py [--seeds 8] [--futures 64] [--simulations 1500]

FrozenLake-v1, 4 x 4, slippery, at most 100 steps; the return is 1 at the goal. "Earns" is the probability to reach the
goal, by dynamic programming over the policy. "Claims" is the planner's own value of the start, discounted if it
discounts. Planners look ahead from each state as if there were no limit of steps, and choose the same action whenever
they come there; the limit holds when their policy is followed. So a planner's policy is 11 searches, one from each
state in which the game goes on, and nothing is sampled when it is judged.

The exact planners are what the searches tend to with endless simulations and futures. Several actions may then be
equally good for the planner and not for the lake: "least" and "most" are over all ways to choose among them, "earns" is
for an even choice. For searches "least" and "most" are over the seeds, and "earns" is their mean.
"""

import argparse
from collections.abc import Callable
from typing import Any

import common
import frozen_lake
import numpy as np
import torch
from frozen_lake import Draws, Earned, Lake

from alfish.mcts.hindsight import HindsightPolicy, future_means
from alfish.mcts.open_loop_policy import OpenLoopPolicy
from alfish.mcts.search import search
from alfish.mcts.settings import Puct, SearchSettings
from alfish.models.simulator_model import SimulatorModel
from alfish.models.tabular_stochastic_model import TabularStochasticModel
from alfish.ops.counter_random import make_keys

DISCOUNT = 0.99
"""γ of the searches: with 1 all plans that reach the goal are equal, however long they take."""
HINDSIGHT_SEARCH = SearchSettings(root=Puct(c1=1000.0), interior=Puct(c1=0.15), value_range=(0.0, 1.0))
"""The root visits all actions alike, since the means of all of them are compared."""
OPEN_LOOP_SEARCH = SearchSettings(Puct(c1=2.5), Puct(c1=2.5), minimum_range=1e-4, max_depth=2)
CLOSED_LOOP_SEARCH = SearchSettings(minimum_range=1e-4)
ROWS = 11

Found = tuple[torch.Tensor, torch.Tensor]
"""`(action [B], claim [B])`."""
Planner = Callable[[torch.Tensor, int], Found]
"""From states `[B]` and a seed to what is found for them. Rows have random numbers of their own."""


def hindsight(lake: Lake, num_futures: int, num_simulations: int) -> Planner:
    """Hindsight optimisation; leaves have the value of random play, which is what rollouts estimate."""
    model = SimulatorModel(lake.simulator, DISCOUNT, evaluate=random_play_network(lake))
    policy = HindsightPolicy(num_futures, model.split, HINDSIGHT_SEARCH)

    def plan(states: torch.Tensor, seed: int) -> Found:
        found = []
        # A few rows at a time: each has `num_futures` trees.
        for rows, keys in zip(states.split(ROWS), make_keys(seed, len(states)).split(ROWS), strict=True):
            output = policy(model.root(rows, keys=keys), model.step, num_simulations)
            found.append((output.action, future_means(output.search, num_futures).best_value))
        actions, claims = zip(*found, strict=True)
        return torch.cat(actions), torch.cat(claims)

    return plan


def open_loop(lake: Lake, num_simulations: int) -> Planner:
    """Open-loop search, with the same values at its leaves."""
    model = SimulatorModel(lake.simulator, DISCOUNT, evaluate=random_play_network(lake))
    policy = OpenLoopPolicy(model.resample, OPEN_LOOP_SEARCH)

    def plan(states: torch.Tensor, seed: int) -> Found:
        output = policy(model.root(states, seed), model.step, num_simulations)
        return output.action, output.search.q_values.amax(1)

    return plan


def closed_loop(lake: Lake, num_simulations: int) -> Planner:
    """Search with chance nodes, with the same values at its leaves."""
    outcomes = lake.simulator.outcomes
    model = TabularStochasticModel(
        probability=outcomes.probability.float(),
        next_state=outcomes.next_state,
        reward=outcomes.reward,
        discount=DISCOUNT * (~outcomes.ends).float(),
        value=leaf_values(lake),
    )

    def plan(states: torch.Tensor, seed: int) -> Found:
        del seed
        result = search(model.root(states), model.step, num_simulations, CLOSED_LOOP_SEARCH)
        return result.visits.argmax(1), result.q_values.amax(1)

    return plan


def leaf_values(lake: Lake) -> torch.Tensor:
    """`[S]`, what random play is worth."""
    return torch.from_numpy(frozen_lake.random_play(lake, DISCOUNT)).float()


def random_play_network(lake: Lake) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Equal logits and the value of random play, as a network would give them."""
    values, num_actions = leaf_values(lake), lake.simulator.num_actions

    def evaluate(state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(state), num_actions), values[state]

    return evaluate


def measure(lake: Lake, planner: Planner, num_seeds: int, seed: int) -> tuple[float, list[float]]:
    """The mean claim at the start, and what the policy of each of `num_seeds` batches of rows earns."""
    going = np.flatnonzero(~lake.over)
    action, claim = planner(torch.from_numpy(going).repeat(num_seeds), seed)
    earned = []
    for actions in action.view(num_seeds, -1).numpy():
        policy = np.zeros_like(lake.rewards)
        policy[going, actions] = 1.0
        earned.append(frozen_lake.follow(lake, policy))
    return float(claim.view(num_seeds, -1)[:, going == lake.start].mean()), earned


def exact_rows(lake: Lake, horizon: int, tolerance: float) -> list[dict[str, Any]]:
    """What theory says."""
    best = frozen_lake.optimum(lake)
    rows = [row("closed loop (expectimax)", "exact", best, Earned(best, best, best))]
    for draws in Draws:
        for discount in (1.0, DISCOUNT):
            q_values, claim = frozen_lake.hindsight_q(lake, draws, discount)
            name = f"hindsight, {draws.value}, γ = {discount:g}"
            rows.append(row(name, "exact", claim, frozen_lake.take(lake, q_values)))
    q_values = frozen_lake.open_loop_q(lake, horizon, tolerance=tolerance)
    plan = float(q_values[lake.start].max())
    rows.append(row("open loop, followed to its end", "exact", plan, Earned(plan, plan, plan)))
    rows.append(row("open loop, planned anew at each step", "exact", plan, frozen_lake.take(lake, q_values)))
    short = q_look_ahead(lake)
    rows.append(row("the same, 2 steps and random play", "exact", *short))
    shortest = frozen_lake.take(lake, frozen_lake.shortest_path_q(lake))
    rows.append(row("shortest path, as if not slippery", "exact", 1.0, shortest))
    uniform = frozen_lake.follow(lake, np.full_like(lake.rewards, 1 / lake.rewards.shape[1]))
    rows.append(row("random", "exact", None, Earned(uniform, uniform, uniform)))
    return rows


def q_look_ahead(lake: Lake) -> tuple[float, Earned]:
    """Claim and earnings of the best two actions, with the value of random play after them."""
    leaf = frozen_lake.random_play(lake, DISCOUNT)
    q_values = frozen_lake.open_loop_q(lake, OPEN_LOOP_SEARCH.max_depth, DISCOUNT, leaf)
    return float(q_values[lake.start].max()), frozen_lake.take(lake, q_values)


def row(planner: str, by: str, claim: float | None, earned: Earned) -> dict[str, Any]:
    """A row of the table."""
    return {
        "planner": planner,
        "by": by,
        "claims": None if claim is None else round(claim, 3),
        "earns": round(earned.evenly, 3),
        "least": round(earned.least, 3),
        "most": round(earned.most, 3),
    }


def main() -> None:
    parser = common.parser(__doc__, runs_commands=False)
    parser.add_argument("--seeds", type=int, default=8, help="policies of each search")
    parser.add_argument("--futures", type=int, default=64, help="H of hindsight optimisation")
    parser.add_argument("--simulations", type=int, default=1500, help="per future, and of the closed-loop search")
    parser.add_argument("--open_loop_simulations", type=int, default=16_000)
    parser.add_argument("--horizon", type=int, default=30, help="steps of the exact open-loop plans")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="per step, of the exact open-loop plans")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    report = common.Report("Planning in FrozenLake-v1", arguments)
    lake = frozen_lake.make_lake()
    rows = exact_rows(lake, arguments.horizon, arguments.tolerance)
    details = {}
    for name, planner in planners(lake, arguments).items():
        claim, earned = measure(lake, planner, arguments.seeds, arguments.seed)
        details[name] = earned
        rows.append(row(name, "search", claim, Earned(float(np.mean(earned)), min(earned), max(earned))))
    report.finish(rows, notes(arguments), details)


def planners(lake: Lake, arguments: argparse.Namespace) -> dict[str, Planner]:
    """The searches to measure."""
    futures, simulations, many = arguments.futures, arguments.simulations, arguments.open_loop_simulations
    return {
        f"closed loop, {simulations:,} simulations": closed_loop(lake, simulations),
        f"hindsight, 1 future of {simulations:,} simulations": hindsight(lake, 1, simulations),
        f"hindsight, {futures} futures of {simulations:,}": hindsight(lake, futures, simulations),
        f"open loop, 2 steps, {many:,} simulations": open_loop(lake, many),
    }


def notes(arguments: argparse.Namespace) -> list[str]:
    """What a reader of the table must know."""
    gap = arguments.horizon * arguments.tolerance
    return [
        f"exact open-loop plans have {arguments.horizon} steps; their values are too low by {gap:.2g} at most, and by"
        " what longer plans add",
        f"searches: γ = {DISCOUNT}, equal priors, leaves have the exact value of random play; one random number per"
        " step and future, so hindsight's theory is that of one draw per step",
        f"{arguments.seeds} seeds, each a policy of 11 searches; the closed-loop search has no random numbers",
    ]


if __name__ == "__main__":
    main()
