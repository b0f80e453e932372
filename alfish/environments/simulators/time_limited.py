"""A limit of steps as part of the rules."""

from typing import NamedTuple

import gin
import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.environments.simulator import Simulator, SimulatorStep


class TimedState(NamedTuple):
    """A state and its age.

    Attributes:
        state: nest of `[B, ...]` of the simulator within.
        time: `[B]` int64, steps since the start.
    """

    state: nest.Nest
    time: torch.Tensor


@gin.configurable
class TimeLimited:
    """Ends every game after so many steps. A planner that knows of the limit does not play for what lies behind it.

    States are `TimedState`; observations are those of the simulator within, without the time.

    Args:
        simulator: the rules.
        max_steps: at least 1.

    Raises:
        ValueError: `max_steps` is below 1, or the simulator's states must be released.
    """

    def __init__(self, simulator: Simulator, max_steps: int):
        check_at_least("max_steps", max_steps, 1)
        if hasattr(simulator, "release"):
            raise ValueError(
                f"TimeLimited.simulator is a {type(simulator).__name__}, which holds copies of environments; expected"
                " one without. Limit the environment itself: gymnasium.make(..., max_episode_steps=...)"
            )
        self.num_actions = simulator.num_actions
        self.num_random = simulator.num_random
        self._simulator = simulator
        self._max_steps = max_steps

    def initial_state(self, num: int, seed: int = 0) -> TimedState:
        """See Simulator."""
        state = self._simulator.initial_state(num, seed)
        device = nest.leaves(state)[0].device
        return TimedState(state, torch.zeros(num, dtype=torch.int64, device=device))

    def step(self, state: TimedState, action: torch.Tensor, random: torch.Tensor) -> SimulatorStep:
        """See Simulator."""
        step = self._simulator.step(state.state, action, random)
        time = state.time + 1
        discount = step.discount.masked_fill(time >= self._max_steps, 0.0)
        return step._replace(state=TimedState(step.state, time), discount=discount)

    def legal_mask(self, state: TimedState) -> torch.Tensor:
        """See Simulator."""
        return self._simulator.legal_mask(state.state)

    def observation(self, state: TimedState) -> nest.Nest:
        """See Simulator."""
        return self._simulator.observation(state.state)
