"""Small Gymnasium environments for the tests; importing this module registers them."""

import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

TREE_SPACE = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (2, 3), np.uint8),
        "place": spaces.Tuple((spaces.Discrete(5, start=2), spaces.Box(-np.inf, np.inf, (2,), np.float64))),
        "dials": spaces.MultiDiscrete([3, 4], start=[1, -1]),
        "bits": spaces.MultiBinary(3),
    }
)


class Counter(gymnasium.Env):
    """Shows `[step, draw]`; the reward is the step; ends as told. `draw` is random, one number an episode."""

    def __init__(self, length: int = 3, ends: str = "terminated", fault: str = "", fault_step: int = 2):
        self.observation_space = spaces.Box(0.0, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(3, start=1)
        self.length, self.ends, self.fault, self.fault_step = length, ends, fault, fault_step
        self.count = 0
        self.draw = 0.0

    def _observation(self) -> Any:
        return np.array([self.count, self.draw], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        self.draw = float(self.np_random.uniform())
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        self.count += 1
        end = self.count >= self.length
        terminated, truncated = end and "terminated" in self.ends, end and "truncated" in self.ends
        result = [self._observation(), float(self.count), terminated, truncated, {"action": action}]
        if self.fault and self.count == self.fault_step:
            return self._broken(result)
        return tuple(result)

    def _broken(self, result: list[Any]) -> Any:
        if self.fault == "raises":
            raise KeyError("the motor is off")
        if self.fault == "dies":
            os._exit(7)
        values = {
            "shape": (0, np.zeros(3, np.float32)),
            "dtype": (0, np.zeros(2, np.float64)),
            "not an array": (0, [0.0, 0.0]),
            "nan": (0, np.array([0.0, np.nan], np.float32)),
            "infinite reward": (1, np.inf),
            "large reward": (1, 1e300),
            "no number": (1, None),
            "no bool": (2, "yes"),
        }
        if self.fault == "four values":
            return tuple(result[:4])
        place, value = values[self.fault]
        result[place] = value
        return tuple(result)


class Tree(gymnasium.Env):
    """Random observations of TREE_SPACE; the actions are a Dict of a MultiDiscrete and a Box, kept as they came."""

    def __init__(self, fault: str = "", broken_space: spaces.Space | None = None):
        self.observation_space = broken_space or TREE_SPACE
        self.action_space = spaces.Dict(
            {"keys": spaces.MultiDiscrete([2, 3], start=[5, 0]), "force": spaces.Box(-1.0, 1.0, (2,), np.float64)}
        )
        self.fault = fault
        self.actions: list[Any] = []

    def _observation(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(1000)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        observation = self._observation()
        if self.fault == "missing key":
            del observation["camera"]
        elif self.fault == "deep dtype":
            observation["place"] = (observation["place"][0], np.zeros(2, np.float32))
        elif self.fault == "out of range":
            observation["dials"] = np.array([1, 3])
        return observation, 0.5, False, False, {}


class KeepsState(Counter):
    """Something of it outlives a seeded reset."""

    resets = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        _, info = super().reset(seed=seed)
        self.resets += 1
        self.draw = float(self.resets)
        return self._observation(), info


class SameStepVector(gymnasium.vector.VectorEnv):
    """A native vector environment of the wrong autoreset mode."""

    metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int):
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
        self.single_action_space = spaces.Discrete(2)


class SilentVector(SameStepVector):
    """One that says nothing about it."""

    metadata = gymnasium.vector.VectorEnv.metadata


class BadNativeVector(SameStepVector):
    """A native vector environment whose reset returns a wrong array."""

    metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs: int, fault: str = "dtype"):
        super().__init__(num_envs)
        self.fault = fault

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if self.fault == "raises":
            raise KeyError("no reset")
        return np.zeros((self.num_envs, 2), np.float64 if self.fault == "dtype" else np.float32), {}


class Doubled(gymnasium.RewardWrapper):
    """A wrapper: doubles the reward."""

    def reward(self, reward: Any) -> Any:
        return 2 * reward


class TwoArguments(Exception):
    """An error that can be pickled, but not unpickled: Exception hands on one argument."""

    def __init__(self, first: str, second: str):
        super().__init__(first + second)


class Unsendable:
    """Something that cannot be pickled."""

    def __init__(self, error: str):
        self.error = error

    def __reduce__(self) -> Any:
        if self.error == "two arguments":
            raise TwoArguments("not", "here")
        if self.error == "unpicklable":
            raise ValueError(lambda: None)
        raise UnicodeDecodeError("utf-8", b"odd", 0, 1, "not a start")


class OddInfo(gymnasium.Wrapper):
    """A wrapper: the info of a step cannot be sent to another process."""

    def __init__(self, env: gymnasium.Env, error: str):
        super().__init__(env)
        self.error = error

    def step(self, action: Any) -> Any:
        return *self.env.step(action)[:4], {"odd": Unsendable(self.error)}


class Spinning(gymnasium.Wrapper):
    """Computes without end in its first step."""

    def step(self, action):
        while True:
            pass


def register() -> None:
    """Registers the environments under `toy/`."""
    gymnasium.register("toy/Counter-v0", entry_point=Counter)
    gymnasium.register("toy/Limited-v0", entry_point=Counter, max_episode_steps=4, kwargs={"length": 100})
    gymnasium.register("toy/Tree-v0", entry_point=Tree)
    gymnasium.register("toy/KeepsState-v0", entry_point=KeepsState)
    gymnasium.register("toy/SameStep-v0", entry_point=Counter, vector_entry_point=SameStepVector)
    gymnasium.register("toy/Silent-v0", entry_point=Counter, vector_entry_point=SilentVector)
    gymnasium.register("toy/BadNative-v0", entry_point=Counter, vector_entry_point=BadNativeVector)


if "toy/Counter-v0" not in gymnasium.registry:
    register()
