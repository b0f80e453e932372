"""A small Gymnasium environment for the tests of the commands; importing this module registers it."""

import time
from typing import Any

import gymnasium
import numpy as np


class Walk(gymnasium.Env):
    """Shows `[place, step]`; the reward is 1 for a step to the right; 5 steps. `fault` breaks the third step.

    A step takes `seconds`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, fault: str = "", seconds: float = 0.0, render_mode: str | None = None):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.fault, self.seconds, self.render_mode = fault, seconds, render_mode
        self.place, self.count = 0.0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.count = float(self.np_random.uniform()), 0
        return np.array([self.place, 0.0], np.float32), {}

    def step(self, action: Any) -> Any:
        time.sleep(self.seconds)
        self.count += 1
        self.place += 1.0 if action else -1.0
        observation = np.array([self.place, self.count], np.float32)
        if self.count == 3 and self.fault == "raises":
            raise KeyError("the motor is off")
        if self.count == 3 and self.fault == "shape":
            observation = np.zeros(3, np.float32)
        if self.count == 3 and self.fault == "nan":
            observation[1] = np.nan
        return observation, float(action), self.count == 5, False, {}

    def render(self) -> np.ndarray | None:
        return None if self.render_mode is None else np.full((41, 61, 3), 40 * self.count, np.uint8)


if "test/Walk-v0" not in gymnasium.registry:
    gymnasium.register("test/Walk-v0", entry_point=Walk)
