"""FrozenLake-v1, 4 x 4 and slippery, with its limit of 100 steps: what planners earn and claim, by dynamic programming.

Everything here is exact: no search and no random numbers. A policy is `[S, A]`, its earnings are the probability to
reach the goal within the limit. A future is a sequence of draws, one of three equally likely ones for each step.
"""

import enum
import itertools
from typing import NamedTuple

import numba
import numpy as np
import torch

from alfish.environments.simulators.tabular import TabularSimulator, make_tabular_simulator

LIMIT = 100
_TIE = 1e-9
_DRAWS = (1 / 6, 1 / 2, 5 / 6)
"""The middles of the thirds in which a random number decides alike."""


class Lake(NamedTuple):
    """The lake as tables.

    Attributes:
        simulator: the same for the searches.
        following: `[3, S, A]`, the next state for each draw.
        rewards: `[S, A]`, expected.
        transitions: `[S, A, S]`, probabilities.
        over: `[S]` bool, holes and the goal.
        goal: the goal.
        start: the first state.
    """

    simulator: TabularSimulator
    following: np.ndarray
    rewards: np.ndarray
    transitions: np.ndarray
    over: np.ndarray
    goal: int
    start: int


class Earned(NamedTuple):
    """What the policies earn that take actions with the largest value: by how they choose among equal ones.

    Attributes:
        evenly: each of them with the same probability.
        least: the worst way to choose, in each state and at each time.
        most: the best way.
    """

    evenly: float
    least: float
    most: float


class Draws(enum.Enum):
    """What of a future is drawn independently."""

    PER_STEP = "one draw per step"
    PER_STATE = "one draw per step, state and action"
    PER_SEQUENCE = "one draw per sequence of actions"


def make_lake() -> Lake:
    simulator = make_tabular_simulator("FrozenLake-v1", {"map_name": "4x4", "is_slippery": True})
    num_states, num_actions = simulator.num_states, simulator.num_actions
    pairs = torch.tensor(list(itertools.product(range(num_states), range(num_actions))))
    steps = [simulator.step(pairs[:, 0], pairs[:, 1], torch.full((len(pairs), 1), draw)) for draw in _DRAWS]
    following = np.stack([step.state.numpy().reshape(num_states, num_actions) for step in steps])
    over = (following == np.arange(num_states)[:, None]).all((0, 2))
    # A step of a finished game may answer anything; here it stays where it is and gives nothing.
    rewards = np.mean([step.reward.double().numpy().reshape(num_states, num_actions) for step in steps], 0)
    rewards *= ~over[:, None]
    goal = int(following[:, rewards.sum(1).argmax()].max())
    start = int(simulator.initial.argmax())
    return Lake(simulator, following, rewards, np.eye(num_states)[following].mean(0), over, goal, start)


def look_ahead(lake: Lake, values: np.ndarray, discount: float = 1.0) -> np.ndarray:
    """Q `[S, A]` of one step before states with these values `[S]`."""
    return (lake.rewards + discount * lake.transitions @ values) * ~lake.over[:, None]


def optimal_q(lake: Lake, steps: int = LIMIT) -> np.ndarray:
    """Q `[S, A]` of the best policy with so many steps left."""
    q_values = np.zeros_like(lake.rewards)
    for _ in range(steps):
        q_values = look_ahead(lake, q_values.max(1))
    return q_values


def optimum(lake: Lake) -> float:
    """What the best policy earns."""
    return float(optimal_q(lake)[lake.start].max())


def follow(lake: Lake, policy: np.ndarray) -> float:
    """What a policy `[S, A]` earns."""
    values = np.zeros(len(lake.over))
    for _ in range(LIMIT):
        values = (policy * look_ahead(lake, values)).sum(1)
    return float(values[lake.start])


def take(lake: Lake, q_values: np.ndarray) -> Earned:
    """What it earns to take an action with the largest Q `[S, A]`, in each state the same at all times."""
    best = q_values >= q_values.max(1, keepdims=True) - _TIE
    least = most = np.zeros(len(lake.over))
    for _ in range(LIMIT):
        least = np.where(best, look_ahead(lake, least), np.inf).min(1)
        most = np.where(best, look_ahead(lake, most), -np.inf).max(1)
    evenly = follow(lake, best / best.sum(1, keepdims=True))
    return Earned(evenly, float(least[lake.start]), float(most[lake.start]))


def random_play(lake: Lake, discount: float) -> np.ndarray:
    """The values `[S]` of uniform random actions without a limit."""
    values = np.zeros(len(lake.over))
    for _ in range(10 * LIMIT):
        values = look_ahead(lake, values, discount).mean(1)
    return values


def shortest_path_q(lake: Lake) -> np.ndarray:
    """Minus the steps `[S, A]` to the goal if the ice were not slippery: the second draw is the way that was meant."""
    distance = np.where(np.arange(len(lake.over)) == lake.goal, 0.0, np.inf)
    for _ in range(len(lake.over)):
        shorter = np.minimum(distance, 1 + distance[lake.following[1]].min(1))
        distance = np.where(lake.over, distance, shorter)
    return -distance[lake.following[1]]


def reachable(lake: Lake, draws: Draws) -> np.ndarray:
    """The probability `[LIMIT + 1, S]` that a random future lets the goal be reached in so many steps, or fewer."""
    by_steps = {
        Draws.PER_STEP: _reachable_per_step,
        Draws.PER_STATE: _reachable_per_state,
        Draws.PER_SEQUENCE: _reachable_per_sequence,
    }[draws](lake)
    return np.array([np.where(lake.over, np.arange(len(lake.over)) == lake.goal, row) for row in by_steps])


def _reachable_per_step(lake: Lake) -> list[np.ndarray]:
    """Which states reach the goal is one random set for all of them: its distribution, step by step backwards."""
    at_goal = tuple(bool(state == lake.goal) for state in range(len(lake.over)))
    sets = {at_goal: 1.0}
    rows = []
    for _ in range(LIMIT + 1):
        rows.append(sum(weight * np.array(members, np.float64) for members, weight in sets.items()))
        earlier: dict[tuple[bool, ...], float] = {}
        for (members, weight), following in itertools.product(sets.items(), lake.following):
            now = np.where(lake.over, at_goal, np.array(members)[following].any(1))
            key = tuple(bool(member) for member in now)
            earlier[key] = earlier.get(key, 0.0) + weight / len(lake.following)
        sets = earlier
    return rows


def _reachable_per_state(lake: Lake) -> list[np.ndarray]:
    """Given the set of one step later, the states are independent: a Markov chain over all sets of states."""
    going = np.flatnonzero(~lake.over)
    sets = np.zeros((2 ** len(going), len(lake.over)))
    sets[:, lake.goal] = 1.0
    sets[:, going] = np.arange(len(sets))[:, None] >> np.arange(len(going)) & 1
    leads_there = np.einsum("sax,bx->bsa", lake.transitions[going], sets)
    reaches = 1.0 - (1.0 - leads_there).prod(2)
    chain = np.ones((len(sets), 1))
    for probability in reaches.T[::-1]:
        sides = np.stack((1.0 - probability, probability), 1)
        chain = (chain[:, :, None] * sides[:, None]).reshape(len(sets), -1)
    weights = np.zeros(len(sets))
    weights[0] = 1.0
    rows = []
    for _ in range(LIMIT + 1):
        rows.append(weights @ sets)
        weights = weights @ chain
    return rows


def _reachable_per_sequence(lake: Lake) -> list[np.ndarray]:
    """What follows one action is independent of what follows another."""
    rows = [(np.arange(len(lake.over)) == lake.goal).astype(np.float64)]
    for _ in range(LIMIT):
        reached = 1.0 - (1.0 - lake.transitions @ rows[-1]).prod(1)
        rows.append(np.where(lake.over, rows[0], reached))
    return rows


def hindsight_q(lake: Lake, draws: Draws, discount: float) -> tuple[np.ndarray, float]:
    """Q `[S, A]` of hindsight optimisation with endlessly many futures and exact plans, and its claim at the start.

    In a known future the return is discount ** (steps - 1) for the fewest steps to the goal.
    """
    probability = reachable(lake, draws)
    first_reached = np.diff(probability, axis=0)
    factors = discount ** np.arange(LIMIT)
    # Values of LIMIT - 1 steps after the first one, whose draw is in `look_ahead`.
    values = factors[:-1] @ first_reached[:-1]
    claim = factors @ first_reached[:, lake.start]
    return look_ahead(lake, values, discount), float(claim)


def open_loop_q(
    lake: Lake, steps: int, discount: float = 1.0, leaf: np.ndarray | None = None, tolerance: float = 0.0
) -> np.ndarray:
    """Q `[S, A]` of the best sequence of `steps` actions that begins with a, chosen without looking on the way.

    All sequences are kept that are better than the others anywhere on the lake: a vector of returns by first state for
    each, and of two of which one is nowhere better, one is dropped.

    Args:
        lake: the lake.
        steps: of a sequence.
        discount: γ.
        leaf: `[S]`, the value of the state after the last action; None for 0.
        tolerance: a sequence is dropped, too, if another is worse by so much at most; values are then too low by
            `steps` times this at most.
    """
    returns = np.zeros((1, len(lake.over))) if leaf is None else leaf[None] * ~lake.over
    q_values = np.zeros_like(lake.rewards)
    for _ in range(steps):
        longer = lake.rewards.T[:, None] + discount * np.einsum("sax,nx->ans", lake.transitions, returns)
        longer *= ~lake.over
        q_values = longer.max(1).T
        candidates = longer.reshape(-1, len(lake.over))
        returns = _undominated(candidates[np.argsort(-candidates.sum(1), kind="stable")], tolerance)
    return q_values


@numba.njit(cache=True)
def _undominated(vectors: np.ndarray, tolerance: float) -> np.ndarray:
    """The vectors `[n, S]` that no earlier one equals or exceeds in all places."""
    kept = np.empty_like(vectors)
    count = 0
    for vector in vectors:
        dominated = False
        for other in kept[:count]:
            dominated = True
            for state in range(len(vector)):
                if other[state] < vector[state] - tolerance:
                    dominated = False
                    break
            if dominated:
                break
        if not dominated:
            kept[count] = vector
            count += 1
    return kept[:count].copy()
