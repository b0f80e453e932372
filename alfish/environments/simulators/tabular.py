"""Any Markov decision process with few states, as tables."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gin
import gymnasium
import numpy as np
import torch

from alfish import nest
from alfish.environments.simulator import SimulatorStep
from alfish.specs import BoundedTensorSpec

_TOLERANCE = 1e-6
# Above every random number: the last possible outcome takes what rounding has left over.
_ALWAYS = 2.0


class Outcomes(NamedTuple):
    """What can come of each action in each state; O is the largest number of outcomes.

    Attributes:
        probability: `[S, A, O]` float64, 0 for an outcome that is not there.
        next_state: `[S, A, O]` int64.
        reward: `[S, A, O]` float32.
        ends: `[S, A, O]` bool, True if the game ends with it.
    """

    probability: torch.Tensor
    next_state: torch.Tensor
    reward: torch.Tensor
    ends: torch.Tensor


class TabularSimulator:
    """A Markov decision process with S states and A actions.

    A state, and an observation, is its number, `[B]` int64. A step reads one random number, or none if each action has
    one outcome only.

    Args:
        outcomes: what can happen. The probabilities of each legal action sum to 1.
        initial: `[S]`, the probabilities of the first state.
        legal_mask: `[S, A]` bool; None for all.
        device: of the states.

    Attributes:
        outcomes: as given, for exact planning, on the host.
        initial: likewise.
        num_states: S.

    Raises:
        ValueError: shapes do not fit, or probabilities do not sum to 1.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        initial: torch.Tensor,
        legal_mask: torch.Tensor | None = None,
        device: torch.device | str = "cpu",
    ):
        _check_outcomes(outcomes, initial, legal_mask)
        self.outcomes = outcomes
        self.initial = initial
        self.num_states, self.num_actions, num_outcomes = outcomes.probability.shape
        self.num_random = int(bool(((outcomes.probability > 0).sum(2) > 1).any()))
        mask = torch.ones(self.num_states, self.num_actions, dtype=torch.bool) if legal_mask is None else legal_mask
        self._legal_mask = mask.to(device)
        self._num_outcomes = num_outcomes
        self._device = device
        # One row for each state and action, so that a step gathers each table once.
        places = torch.arange(num_outcomes)
        last = torch.where(outcomes.probability > 0, places, 0).amax(2, keepdim=True)
        thresholds = outcomes.probability.cumsum(2).masked_fill(places >= last, _ALWAYS)
        self._thresholds = thresholds.flatten(0, 1).float().to(device)
        self._next_state = outcomes.next_state.flatten().to(device)
        self._reward = outcomes.reward.flatten().to(device)
        self._discount = (~outcomes.ends).float().flatten().to(device)

    @classmethod
    def from_arrays(
        cls,
        transitions: torch.Tensor,
        rewards: torch.Tensor,
        terminal: torch.Tensor,
        initial: torch.Tensor,
        legal_mask: torch.Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> "TabularSimulator":
        """From dense tensors.

        Args:
            transitions: `[S, A, S]`, the probability of each next state.
            rewards: `[S, A, S]`, received on the way; or `[S, A]` if the next state does not matter.
            terminal: `[S]` bool, the states in which the game ends. What their own rows say is not used.
            initial: `[S]`, the probabilities of the first state.
            legal_mask: `[S, A]` bool; None for all.
            device: of the states.
        """
        num_states, num_actions = transitions.shape[:2]
        shape = (num_states, num_actions, num_states)
        if tuple(transitions.shape) != shape or tuple(rewards.shape) not in (shape, shape[:2]):
            raise ValueError(
                f"transitions is {list(transitions.shape)} and rewards {list(rewards.shape)}; expected [S, A, S], and"
                " [S, A, S] or [S, A]"
            )
        if tuple(terminal.shape) != (num_states,) or terminal.dtype != torch.bool:
            raise ValueError(f"terminal is {terminal.dtype} {list(terminal.shape)}; expected torch.bool [{num_states}]")
        rewards = rewards if rewards.dim() == 3 else rewards.unsqueeze(2)
        # The possible ones first; as many are kept as the action with the most of them has.
        most = max(int((transitions > 0).sum(2).max()), 1)
        next_state = (transitions > 0).to(torch.int8).argsort(dim=2, descending=True, stable=True)[:, :, :most]
        outcomes = Outcomes(
            probability=transitions.double().gather(2, next_state),
            next_state=next_state,
            reward=rewards.float().expand(shape).gather(2, next_state),
            ends=terminal[next_state],
        )
        return cls(_absorbing(outcomes, terminal), initial, legal_mask, device)

    @classmethod
    def from_table(
        cls,
        table: Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]],
        initial: np.ndarray,
        device: torch.device | str = "cpu",
    ) -> "TabularSimulator":
        """From the `P` of Gymnasium's tabular environments and their `initial_state_distrib`.

        Args:
            table: `table[state][action]`, a list of (probability, next state, reward, whether the game ends). The same
                outcome may be listed several times.
            initial: `[S]`, the probabilities of the first state.
            device: of the states.
        """
        merged = [[_merged(table[state][action]) for action in sorted(table[state])] for state in sorted(table)]
        most = max(len(outcomes) for row in merged for outcomes in row)
        unused = (0.0, 0, 0.0, False)
        padded = [[outcomes + [unused] * (most - len(outcomes)) for outcomes in row] for row in merged]
        numbers = torch.tensor(padded, dtype=torch.float64)
        probability, next_state, reward, ends = numbers.unbind(3)
        outcomes = Outcomes(probability, next_state.long(), reward.float(), ends.bool())
        return cls(outcomes, torch.as_tensor(np.asarray(initial, np.float64)), device=device)

    def initial_state(self, num: int, seed: int = 0) -> torch.Tensor:
        """Drawn from `initial`. The first rows do not depend on `num`."""
        random = torch.rand(num, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        index = torch.searchsorted(self.initial.double().cumsum(0), random, right=True)
        # The last state that is possible takes what rounding has left over.
        return index.clamp_max(int(self.initial.nonzero()[-1])).to(self._device)

    def step(self, state: torch.Tensor, action: torch.Tensor, random: torch.Tensor) -> SimulatorStep:
        """See Simulator."""
        row = state * self.num_actions + action
        index = row * self._num_outcomes
        if self.num_random:
            index = index + (random >= self._thresholds[row]).sum(1)
        after = self._next_state[index]
        return SimulatorStep(after, self._reward[index], self._discount[index], self._legal_mask[after])

    def check_state_spec(self, spec: nest.Nest) -> None:
        """Raises a ValueError if an environment whose observations are like this is not that of the tables."""
        if isinstance(spec, BoundedTensorSpec) and spec.is_discrete and spec.num_values == self.num_states:
            return
        raise ValueError(
            f"the simulator has {self.num_states} states and the environment's observation is {spec}; expected the"
            " numbers of the same states. Make both of the same environment"
        )

    def legal_mask(self, state: torch.Tensor) -> torch.Tensor:
        """See Simulator."""
        return self._legal_mask[state]

    def observation(self, state: torch.Tensor) -> torch.Tensor:
        """The state's number."""
        return state


@gin.configurable
def make_tabular_simulator(
    name: str, env_kwargs: dict[str, Any] | None = None, device: torch.device | str = "cpu"
) -> TabularSimulator:
    """The rules of one of Gymnasium's tabular environments: FrozenLake-v1, CliffWalking-v1, Taxi-v4.

    The environment's time limit is not part of them; `TimeLimited` adds one.

    Args:
        name: as registered.
        env_kwargs: of the environment's constructor, e.g. `{"is_slippery": False}`.
        device: of the states.

    Raises:
        ValueError: the environment cannot be made, or has no tables.
    """
    try:
        env = gymnasium.make(name, **(env_kwargs or {})).unwrapped
    except gymnasium.error.Error as error:
        raise ValueError(f"the environment {name!r} cannot be made: {error}") from error
    try:
        table, initial = getattr(env, "P", None), getattr(env, "initial_state_distrib", None)
        if table is None or initial is None:
            raise ValueError(
                f"{name!r} has no tables P and initial_state_distrib; expected one of Gymnasium's tabular environments,"
                " e.g. 'FrozenLake-v1'. GymnasiumSimulator copies others"
            )
        return TabularSimulator.from_table(table, initial, device)
    finally:
        env.close()


def _merged(outcomes: Sequence[tuple[float, int, float, bool]]) -> list[tuple[float, int, float, bool]]:
    total: dict[tuple[int, float, bool], float] = {}
    for probability, next_state, reward, ends in outcomes:
        key = (int(next_state), float(reward), bool(ends))
        total[key] = total.get(key, 0.0) + float(probability)
    return [(probability, *key) for key, probability in total.items() if probability > 0]


def _absorbing(outcomes: Outcomes, terminal: torch.Tensor) -> Outcomes:
    """The outcomes with terminal states that stay as they are, reward 0."""
    rows = terminal.view(-1, 1, 1)
    certain = torch.zeros_like(outcomes.probability)
    certain[:, :, 0] = 1.0
    return Outcomes(
        probability=torch.where(rows, certain, outcomes.probability),
        next_state=torch.where(rows, torch.arange(len(terminal)).view(-1, 1, 1), outcomes.next_state),
        reward=outcomes.reward.masked_fill(rows, 0.0),
        ends=outcomes.ends | rows,
    )


def _check_outcomes(outcomes: Outcomes, initial: torch.Tensor, legal_mask: torch.Tensor | None) -> None:
    shape = tuple(outcomes.probability.shape)
    for name, tensor in outcomes._asdict().items():
        if len(shape) != 3 or 0 in shape or tuple(tensor.shape) != shape:
            raise ValueError(f"outcomes.{name} is {list(tensor.shape)}; expected [S, A, O], the same for all of them")
    num_states, num_actions, _ = shape
    if tuple(initial.shape) != (num_states,) or (initial < 0).any() or abs(float(initial.sum()) - 1.0) > _TOLERANCE:
        raise ValueError(f"initial is {initial.tolist()}; expected {num_states} probabilities that sum to 1")
    if legal_mask is not None and (
        tuple(legal_mask.shape) != (num_states, num_actions) or legal_mask.dtype != torch.bool
    ):
        found = f"{legal_mask.dtype} {list(legal_mask.shape)}"
        raise ValueError(f"legal_mask is {found}; expected torch.bool {[num_states, num_actions]}")
    wrong = (outcomes.next_state < 0) | (outcomes.next_state >= num_states)
    if wrong.any():
        state, action, _ = wrong.nonzero()[0].tolist()
        raise ValueError(f"an outcome of action {action} in state {state} leads to a state beyond 0 … {num_states - 1}")
    total = outcomes.probability.sum(2)
    valid = ((total - 1.0).abs() <= _TOLERANCE) & (outcomes.probability >= 0).all(2)
    if legal_mask is not None:
        valid |= ~legal_mask
    if not valid.all():
        state, action = (~valid).nonzero()[0].tolist()
        given = outcomes.probability[state, action].tolist()
        raise ValueError(f"action {action} in state {state} has the probabilities {given}; expected a sum of 1")
