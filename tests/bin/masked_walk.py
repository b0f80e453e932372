"""A small Gymnasium environment with a nested observation and illegal actions; importing this module registers it."""

from typing import Any

import gymnasium
import numpy as np


class MaskedWalk(gymnasium.Env):
    """Steps left, stays or steps right on five places; the steps that would leave them are illegal; 5 steps.

    At the episode's end no action is legal. An illegal action raises.
    """

    def __init__(self) -> None:
        inner = {"place": gymnasium.spaces.Box(0, 4, (1,), np.float32), "clock": gymnasium.spaces.Discrete(6)}
        mask = gymnasium.spaces.Box(0, 1, (3,), np.int8)
        self.observation_space = gymnasium.spaces.Dict({"inner": gymnasium.spaces.Dict(inner), "mask": mask})
        self.action_space = gymnasium.spaces.Discrete(3)
        self.place, self.count = 0, 0

    def _observation(self) -> dict[str, Any]:
        legal = np.array([self.place > 0, True, self.place < 4], np.int8) * np.int8(self.count < 5)
        return {"inner": {"place": np.array([self.place], np.float32), "clock": self.count}, "mask": legal}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.count = int(self.np_random.integers(5)), 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        if not self._observation()["mask"][action]:
            raise ValueError(f"the action {action} is illegal at place {self.place}")
        self.place, self.count = self.place + int(action) - 1, self.count + 1
        return self._observation(), float(self.place == 4), self.count == 5, False, {}


if "test/MaskedWalk-v0" not in gymnasium.registry:
    gymnasium.register("test/MaskedWalk-v0", entry_point=MaskedWalk)
