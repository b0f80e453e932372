"""An environment that holds still after the end of an episode. Imports no torch."""

from typing import Any, SupportsFloat

import gymnasium


class HeldEnvironment(gymnasium.Wrapper):
    """One environment that is neither stepped nor reset after the end of an episode, until a reset asks for it.

    A vector environment with NEXT_STEP autoreset resets it without arguments; that, and every step, then returns the
    last observation. A seed or options, `{}` included, reset it: those of `reset(options={"reset_mask": ...})`.

    Args:
        env: the environment.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._last: tuple[Any, bool, bool] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode, unless it is the autoreset of a vector environment."""
        if self._last is not None and seed is None and options is None:
            return self._last[0], {}
        self._last = None
        return self.env.reset(seed=seed, options=options or None)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes a step, unless the episode has ended."""
        if self._last is not None:
            observation, terminated, truncated = self._last
            return observation, 0.0, terminated, truncated, {}
        result = self.env.step(action)
        observation, _, terminated, truncated, _ = result
        if terminated or truncated:
            self._last = observation, terminated, truncated
        return result
