"""A true simulator made of copies of a Gymnasium environment."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gin
import gymnasium
import numpy as np
import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.environments import spaces
from alfish.environments.environment_copies import StateAccess, copy_environment, describe, find_state_access, reseed
from alfish.environments.simulator import SimulatorStep

_RANDOM_BITS = 24  # that one random number has
_PROBE_STEPS = 8


class EnvironmentState(NamedTuple):
    """The state of an environment whose state can be read and written; of others, a state is a handle `[B]` int64.

    Attributes:
        inner: nest of `[B, ...]`, as the environment gave it.
        observation: nest of `[B, ...]`.
        legal_mask: `[B, A]` bool.
        over: `[B]` bool.
    """

    inner: nest.Nest
    observation: nest.Nest
    legal_mask: torch.Tensor
    over: torch.Tensor


class _Position(NamedTuple):
    """One row: `kept` is a copy of the environment that nobody steps, or its state as a nest of arrays."""

    kept: Any
    observation: nest.Nest
    legal_mask: np.ndarray
    over: bool


@gin.configurable
class GymnasiumSimulator:
    """Tries actions in copies of a Gymnasium environment. An environment that it is shown is read and never stepped.

    If the environment's state can be read and written (`find_state_access`, or `state_access`), states are tensors.
    Otherwise each state is a handle: a number that stands for a copy that is kept here. A search makes one for each row
    and simulation. They are freed by `release(state)`, or, all that were made since, at the end of a block
    `with simulator.planning():`. Random rollouts free their own.

    Random steps draw from the numbers that the step is given: before it, every NumPy generator that the environment or
    a wrapper has as an attribute is replaced. An environment that draws from elsewhere would go on drawing the numbers
    of the real one, and a search would see its future.

    A truncated episode is over, like one that terminates. To plan beyond a time limit make the environment without it.
    Everything is on the host, one row after the other: made for generality, not for speed.

    Args:
        make_env: makes the environment, like those that `capture` will be shown. It has one discrete action.
        stochastic: False if steps draw nothing; then they read no random numbers.
        legal_mask: from an environment to what is legal now, `[A]` bool; None takes `info["action_mask"]` where there
            is one, and otherwise all actions.
        state_access: how the state is read and written; None finds it out.
        shared: attributes of the innermost environment that never change, such as large tables: all copies share them.
        capacity: the largest number of copies that are kept at a time.

    Raises:
        ValueError: the environment cannot be copied, or a copy does not go on as the environment itself does.
    """

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env],
        stochastic: bool = True,
        legal_mask: Callable[[gymnasium.Env], Any] | None = None,
        state_access: StateAccess | None = None,
        shared: Sequence[str] = (),
        capacity: int = 100_000,
    ):
        check_at_least("GymnasiumSimulator.capacity", capacity, 1)
        self._env = env = make_env()
        self._name = describe(env)
        if not isinstance(env.action_space, gymnasium.spaces.Discrete):
            raise ValueError(f"{self._name} has the actions {env.action_space}; a simulator needs one Discrete action")
        self.num_actions = int(env.action_space.n)
        self.num_random = 2 if stochastic else 0
        self._first_action = int(env.action_space.start)
        self._codecs = spaces.observation_codecs(env.observation_space)
        self._legal_mask = legal_mask
        self._access = find_state_access(env) if state_access is None else state_access
        self._shared = tuple(shared)
        self._capacity = capacity
        self._positions: dict[int, _Position] = {}
        self._next_handle = 0
        with contextlib.closing(make_env()) as real, self.planning():
            self._check_copies(real)

    @property
    def num_kept(self) -> int:
        """How many states are kept for handles."""
        return len(self._positions)

    def initial_state(self, num: int, seed: int = 0) -> nest.Nest:
        """First states by `reset`, each with a seed of its own. The first rows do not depend on `num`."""
        return self._stored([self._reset(word) for word in _reset_seeds(seed, num)])

    def capture(
        self,
        envs: Sequence[gymnasium.Env],
        observations: Sequence[Any],
        infos: Sequence[dict[str, Any]] | None = None,
    ) -> nest.Nest:
        """The states `[B, ...]` in which B real environments are now.

        Args:
            envs: are only read, and have been reset.
            observations: the last one of each.
            infos: likewise; needed for `info["action_mask"]` only.
        """
        infos = [{} for _ in envs] if infos is None else infos
        rows = zip(envs, observations, infos, strict=True)
        return self._stored([self._position(*row, over=False, copied=False) for row in rows])

    def step(self, state: nest.Nest, action: torch.Tensor, random: torch.Tensor) -> SimulatorStep:
        """See Simulator."""
        positions = self._loaded(state)
        after, rewards = [], []
        for position, choice, seed in zip(positions, action.tolist(), self._seeds(random), strict=True):
            if position.over:
                rewards.append(0.0)
            else:
                env = self._resumed(position)
                reseed(env, seed)
                observation, reward, terminated, truncated, info = env.step(choice + self._first_action)
                position = self._position(env, observation, info, bool(terminated or truncated), copied=True)
                rewards.append(float(reward))
            after.append(position)
        discount = torch.tensor([float(not position.over) for position in after])
        return SimulatorStep(self._stored(after), torch.tensor(rewards), discount, _masks(after))

    def legal_mask(self, state: nest.Nest) -> torch.Tensor:
        """See Simulator."""
        return state.legal_mask if isinstance(state, EnvironmentState) else _masks(self._loaded(state))

    def observation(self, state: nest.Nest) -> nest.Nest:
        """As the environment gave it; discrete values count from 0."""
        if isinstance(state, EnvironmentState):
            return state.observation
        return _stacked(self._loaded(state))

    def release(self, state: nest.Nest) -> None:
        """Frees the copies of the states, which must not be used again."""
        if not isinstance(state, EnvironmentState):
            for handle in state.tolist():
                self._positions.pop(handle, None)

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        """A block at whose end every copy that was made in it is freed."""
        first = self._next_handle
        try:
            yield
        finally:
            self._positions = {handle: kept for handle, kept in self._positions.items() if handle < first}

    def close(self) -> None:
        """Closes the environment and frees all copies."""
        self._positions.clear()
        self._env.close()

    def _reset(self, seed: int) -> _Position:
        observation, info = self._env.reset(seed=seed)
        return self._position(self._env, observation, info, over=False, copied=False)

    def _seeds(self, random: torch.Tensor) -> list[int]:
        """Seeds of 48 bits from `[B, 2]` random numbers; without random numbers all the same."""
        if not self.num_random:
            return [0] * len(random)
        words = (random.double() * 2**_RANDOM_BITS).long()
        return ((words[:, 0] << _RANDOM_BITS) | words[:, 1]).tolist()

    def _position(
        self, env: gymnasium.Env, observation: Any, info: dict[str, Any], over: bool, copied: bool
    ) -> _Position:
        """What is kept of an environment; `copied` if it is a copy that nobody else holds."""
        if self._access is not None:
            kept = nest.map_structure(lambda leaf: np.array(leaf), self._access.get(env))
        else:
            kept = env if copied else copy_environment(env, self._shared)
        encoded = _encoded(self._codecs, observation)
        return _Position(kept, encoded, self._mask(env, info), over)

    def _mask(self, env: gymnasium.Env, info: dict[str, Any]) -> np.ndarray:
        mask = info.get("action_mask") if self._legal_mask is None else self._legal_mask(env)
        if mask is None:
            return np.ones(self.num_actions, np.bool_)
        mask = np.asarray(mask)
        if mask.shape != (self.num_actions,):
            raise ValueError(f"the action mask of {self._name} is {mask!r}; expected {self.num_actions} booleans")
        return mask.astype(np.bool_)

    def _resumed(self, position: _Position) -> gymnasium.Env:
        """An environment in this position that may be stepped."""
        if self._access is None:
            return copy_environment(position.kept, self._shared)
        # As copies, because an environment may keep what it is given, and write to it.
        self._access.set(self._env, nest.map_structure(np.array, position.kept))
        return self._env

    def _stored(self, positions: Sequence[_Position]) -> nest.Nest:
        if self._access is not None:
            inner = nest.map_structure(lambda *rows: torch.from_numpy(np.stack(rows)), *(row.kept for row in positions))
            over = torch.tensor([position.over for position in positions])
            return EnvironmentState(inner, _stacked(positions), _masks(positions), over)
        if len(self._positions) + len(positions) > self._capacity:
            raise ValueError(
                f"the simulator of {self._name} keeps {len(self._positions)} copies, and {len(positions)} more are"
                f" beyond its capacity of {self._capacity}; search inside `with simulator.planning():`, which"
                " frees them at its end, or raise GymnasiumSimulator.capacity"
            )
        handles = range(self._next_handle, self._next_handle + len(positions))
        self._next_handle += len(positions)
        self._positions.update(zip(handles, positions, strict=True))
        return torch.tensor(handles, dtype=torch.int64)

    def _loaded(self, state: nest.Nest) -> list[_Position]:
        if isinstance(state, EnvironmentState):
            rows = [nest.map_structure(lambda leaf, row=row: leaf[row], state) for row in range(len(state.over))]
            return [
                _Position(
                    nest.map_structure(torch.Tensor.numpy, row.inner),
                    row.observation,
                    row.legal_mask.numpy(),
                    bool(row.over),
                )
                for row in rows
            ]
        try:
            return [self._positions[handle] for handle in state.tolist()]
        except KeyError as error:
            raise ValueError(
                f"the state {error.args[0]} of {self._name} is not kept any more; use states before they are released,"
                " and inside the block of `planning()` in which they were made"
            ) from None

    def _check_copies(self, real: gymnasium.Env) -> None:
        """Plays the same steps in `real` and in copies, with another game in between, and compares."""
        generator = torch.Generator().manual_seed(0)
        observation, info = real.reset(seed=0)
        start = self.capture([real], [observation], [info]), self.initial_state(1)
        state = nest.map_structure(lambda *parts: torch.cat(parts), *start)
        for time in range(_PROBE_STEPS):
            mask = self.legal_mask(state)
            action = torch.multinomial((mask | ~mask.any(1, keepdim=True)).float(), 1, generator=generator).squeeze(1)
            random = torch.rand(1, self.num_random, generator=generator).expand(2, -1)
            reseed(real, self._seeds(random)[0])
            before = real.unwrapped.np_random.bit_generator.state
            observation, reward, terminated, truncated, _ = real.step(int(action[0]) + self._first_action)
            if not self.num_random and real.unwrapped.np_random.bit_generator.state != before:
                raise ValueError(
                    f"a step of {self._name} draws random numbers; make its simulator with stochastic=True"
                )
            over = bool(terminated or truncated)
            expected = (_encoded(self._codecs, observation), torch.tensor(float(reward)), torch.tensor(float(not over)))
            try:
                step = self.step(state, action, random)
            except Exception as error:  # A foreign environment can raise anything.
                raise self._wrong_copy(time, f"it raises {error!r}") from error
            self.release(state)
            state = step.state
            found = nest.map_structure(lambda leaf: leaf[0], (self.observation(state), step.reward, step.discount))
            for name, left, right in zip(("observation", "reward", "end"), expected, found, strict=True):
                if not all(map(torch.equal, nest.leaves(left), nest.leaves(right))):
                    raise self._wrong_copy(time, f"its {name} is {right}, not {left}")
            if over:
                break

    def _wrong_copy(self, time: int, what: str) -> ValueError:
        return ValueError(
            f"a copy of {self._name} does not go on as the environment itself does: in step {time} {what}. A copy, or"
            " the state_access, leaves out a part of the state, or random numbers come from elsewhere than a NumPy"
            " generator that is an attribute of the environment; give a state_access that is complete"
        )


@gin.configurable
def make_gymnasium_simulator(
    name: str,
    env_kwargs: dict[str, Any] | None = None,
    wrappers: Sequence[Callable[[gymnasium.Env], gymnasium.Env]] = (),
    stochastic: bool = True,
    shared: Sequence[str] = (),
    capacity: int = 100_000,
) -> GymnasiumSimulator:
    """The simulator of an environment that is registered with Gymnasium.

    Args:
        name: as registered.
        env_kwargs: of the environment's constructor.
        wrappers: applied in this order.
        stochastic: see GymnasiumSimulator, like those that follow.
        shared: likewise.
        capacity: likewise.

    Raises:
        ValueError: as GymnasiumSimulator says, or no environment of this name can be made.
    """

    def make_env() -> gymnasium.Env:
        try:
            env = gymnasium.make(name, **(env_kwargs or {}))
        except gymnasium.error.Error as error:
            raise ValueError(f"the environment {name!r} cannot be made: {error}") from error
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return GymnasiumSimulator(make_env, stochastic=stochastic, shared=shared, capacity=capacity)


def _reset_seeds(seed: int, num: int) -> list[int]:
    # 31 bits: some environments keep theirs in a signed C int.
    return [int(word) >> 1 for word in np.random.SeedSequence(seed).generate_state(num)]


def _encoded(codecs: nest.Nest, observation: Any) -> nest.Nest:
    """One observation of an environment as tensors of their own."""
    if isinstance(codecs, dict):
        return {key: _encoded(codec, observation[key]) for key, codec in codecs.items()}
    if isinstance(codecs, tuple):
        return tuple(_encoded(codec, part) for codec, part in zip(codecs, observation, strict=True))
    source, target = np.asarray(observation), codecs.spec.zeros()
    if source.shape != codecs.spec.shape:
        raise ValueError(f"an observation has the shape {list(source.shape)}; expected {list(codecs.spec.shape)}")
    np.copyto(target.numpy(), source if codecs.offset is None else source - codecs.offset, casting="unsafe")
    return target


def _stacked(positions: Sequence[_Position]) -> nest.Nest:
    """The observations, `[B, ...]`."""
    return nest.map_structure(lambda *rows: torch.stack(rows), *(position.observation for position in positions))


def _masks(positions: Sequence[_Position]) -> torch.Tensor:
    return torch.from_numpy(np.stack([position.legal_mask for position in positions]))
