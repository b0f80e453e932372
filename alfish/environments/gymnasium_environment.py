"""The adapter: from Gymnasium's vector environments to rows."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from alfish import nest
from alfish.checks import check_at_least
from alfish.data_structures import StepType, TimeStep
from alfish.environments import optional, spaces, workers
from alfish.environments.action_names import action_names
from alfish.environments.environment import ArrayLayout, BoundaryChecks, VectorEnvironment
from alfish.environments.repeated_rows import RepeatedRows

NoFuture = Callable[[np.ndarray, dict[str, Any]], np.ndarray]
"""From `terminated` `[B]` and the info of a step to where there is no future value, `[B]` bool."""

# Seeds of 31 bits: some environments keep theirs in a signed C int.
_SEED_BITS = 31


class GymnasiumEnvironment(VectorEnvironment):
    """Rows from any `gymnasium.vector.VectorEnv` with NEXT_STEP autoreset.

    Gymnasium's NEXT_STEP is the rows' own rule: the step after an episode's end ignores its action and returns the
    first observation of the next episode. Float observations become float32, discrete values count from 0.

    Args:
        make: makes the vector environment.
        name: for messages.
        seeds_each: True if its `reset` takes a list of B seeds, False if it takes one.
        rebuild_on_reset: makes it anew at every `reset` but the first: for environments in which something outlives a
            seeded reset, so that the rows after it would not follow from the seed alone.
        no_future: where the discount is 0; None for where the episode terminated.
        freezes: see VectorEnvironment. Needs resets with a `reset_mask`; an environment that is frozen may be stepped
            all the same (HeldEnvironment ignores it), and what it then returns is not looked at.

    Raises:
        ValueError: the autoreset mode is another one, or a space has no tensor form.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.vector.VectorEnv],
        name: str,
        seeds_each: bool,
        rebuild_on_reset: bool = False,
        no_future: NoFuture | None = None,
        freezes: bool = False,
    ):
        self.name = name
        self.freezes = freezes
        self._make = make
        self._seeds_each = seeds_each
        self._rebuild_on_reset = rebuild_on_reset
        self._no_future = no_future
        self._env: gymnasium.vector.VectorEnv | None = make()
        try:
            self._read_spaces(self._env)
        except BaseException:
            self.close()
            raise
        self._was_reset = False
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._any_ended = False
        self._release_due = False
        self._last_rows = RepeatedRows()
        self._env_id = np.arange(self.num_envs, dtype=np.int32)

    def _read_spaces(self, env: gymnasium.vector.VectorEnv) -> None:
        mode = autoreset_mode(env)
        if mode is not AutoresetMode.NEXT_STEP:
            raise ValueError(
                f"{self.name!r} has the autoreset mode {mode}; expected {AutoresetMode.NEXT_STEP}: without it the last "
                "observation of an episode would be lost. Use vectorization 'sync' or 'async', or make the vector "
                "environment with NEXT_STEP"
            )
        self.num_envs = env.num_envs
        self.frames_per_second = env.metadata.get("render_fps") or self.frames_per_second
        self.action_names = action_names(env)
        observation_codecs = spaces.observation_codecs(env.single_observation_space)
        action_codecs = spaces.action_codecs(env.single_action_space)
        self.observation_spec = spaces.specs_of(observation_codecs)
        self.action_spec = spaces.specs_of(action_codecs)
        self._action_structure = nest.structure(action_codecs)
        self._action_leaves = _named_leaves(action_codecs, "action")
        self._observation_leaves = _named_leaves(observation_codecs, "observation")
        layouts = [
            ArrayLayout(path, (self.num_envs, *codec.spec.shape), codec.dtype)
            for path, codec in self._observation_leaves
        ]
        self._checks = BoundaryChecks(self.name, self.num_envs, nest.structure(observation_codecs), layouts)

    def reset(self, seed: int, out: TimeStep) -> None:
        """See VectorEnvironment."""
        check_at_least(f"the seed of {self.name!r}", seed, 0)
        if self._was_reset and self._rebuild_on_reset:
            self.close()
            self._env = self._make()
        env = self._open()
        self._was_reset = True
        self._checks.begin_all()
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._any_ended = self._release_due = False
        words = np.random.SeedSequence(seed).generate_state(self.num_envs if self._seeds_each else 1)
        seeds = [int(word) >> (32 - _SEED_BITS) for word in words]
        observation, _ = self._checks.call(workers.reset, env, seeds if self._seeds_each else seeds[0])
        self._write_observation(observation, out.observation)
        out.step_type.fill_(StepType.FIRST)
        out.reward.zero_()
        out.discount.fill_(1.0)
        np.copyto(out.env_id.numpy(), self._env_id)
        for target in _leaves(out.prev_action):
            target.zero_()

    def begin_window(self) -> None:
        """See VectorEnvironment."""
        self._release_due = True

    def step(self, action: nest.Nest, out: TimeStep) -> None:
        """See VectorEnvironment."""
        env = self._open()
        if not self._was_reset:
            raise ValueError(f"{self.name!r} was stepped before its first reset; call reset(seed, out)")
        encoded = self._encode(action)
        begins = self._ended if self._any_ended else None
        frozen = None
        if self.freezes and not self._release_due:
            begins, frozen = None, begins
        self._release_due = False
        self._checks.advance(begins)
        observation, reward, terminated, truncated, info = self._checks.call(workers.step, env, encoded)
        self._check_vectors(reward, terminated, truncated)
        if self.freezes and self._any_ended:
            terminated, truncated = terminated & ~self._ended, truncated & ~self._ended
            if begins is not None:
                observation, _ = self._checks.call(workers.reset, env, None, begins)
        self._write_observation(observation, out.observation)
        ended = np.logical_or(terminated, truncated)
        no_future = terminated if self._no_future is None else self._no_future(terminated, info)
        step_type, rewards, discount = out.step_type.numpy(), out.reward.numpy(), out.discount.numpy()
        np.add(ended, StepType.MID, out=step_type, casting="unsafe")  # MID + 1 is LAST
        np.logical_not(no_future, out=discount)
        self._write_floats(rewards, reward, "reward")
        np.copyto(out.env_id.numpy(), self._env_id)
        targets = [target.numpy() for target in _leaves(out.prev_action)]
        for target, tensor in zip(targets, _leaves(action), strict=True):
            np.copyto(target, tensor.numpy())
        if begins is not None:
            if (ended & begins).any():
                index = int(np.argmax(ended & begins))
                raise self._checks.fault(index, "the episode ended in its reset; expected a first observation")
            step_type[begins] = StepType.FIRST
            rewards[begins] = 0.0
            discount[begins] = 1.0
            for target in targets:
                target[begins] = 0
        self._any_ended = bool(ended.any())
        if self.freezes and self._any_ended:
            self._last_rows.keep(ended, out)
        if frozen is not None:
            self._last_rows.write(frozen, out)
            ended, self._any_ended = ended | frozen, True
        self._ended = ended

    def _write_observation(self, observation: Any, out: nest.Nest) -> None:
        sources = self._checks.observation_leaves(observation)
        for (path, codec), source, target in zip(self._observation_leaves, sources, _leaves(out), strict=True):
            written = target.numpy()
            if written.dtype.kind == "f":
                self._write_floats(written, source, path)
                continue
            np.copyto(written, source if codec.offset is None else source - codec.offset, casting="unsafe")
            if codec.maximum is not None and (wrong := spaces.outside(written, codec.maximum)).any():
                expected = f"0…{codec.maximum.tolist()}, counted from the start of the space"
                raise self._checks.wrong_values(wrong, written, path, expected)

    def _write_floats(self, written: np.ndarray, source: np.ndarray, path: str) -> None:
        if source.dtype == written.dtype:
            np.copyto(written, source)
        else:
            # A float64 beyond float32 becomes inf here, and is found below.
            with np.errstate(over="ignore"):
                np.copyto(written, source, casting="unsafe")
        if not np.isfinite(written).all():
            raise self._checks.wrong_values(~np.isfinite(written), source, path, "a finite float32")

    def _check_vectors(self, reward: Any, terminated: Any, truncated: Any) -> None:
        for path, array, kinds in (
            ("reward", reward, "fiu"),
            ("terminated", terminated, "b"),
            ("truncated", truncated, "b"),
        ):
            if not isinstance(array, np.ndarray) or array.shape != self._env_id.shape or array.dtype.kind not in kinds:
                expected = "numbers" if path == "reward" else "bools"
                raise self._checks.fault(None, f"{path} is {array!r}; expected an array of {self.num_envs} {expected}")

    def _encode(self, action: nest.Nest) -> Any:
        if isinstance(action, torch.Tensor) and len(self._action_leaves) == 1:
            return self._encode_leaf(*self._action_leaves[0], action)
        nest.check_same_structure(self.action_spec, action, f"the action given to {self.name!r}")
        pairs = zip(self._action_leaves, nest.leaves(action), strict=True)
        return nest.unflatten(self._action_structure, [self._encode_leaf(*leaf, tensor) for leaf, tensor in pairs])

    def _encode_leaf(self, path: str, codec: spaces.Codec, tensor: torch.Tensor) -> np.ndarray:
        if tensor.dtype != codec.spec.dtype or tensor.shape != (self.num_envs, *codec.spec.shape):
            raise ValueError(
                f"{path} given to {self.name!r} is {tensor.dtype} {list(tensor.shape)}; expected {codec.spec.dtype} "
                f"{[self.num_envs, *codec.spec.shape]}"
            )
        values = tensor.numpy()
        if codec.maximum is None:
            if not np.isfinite(values).all():
                raise ValueError(f"{path} given to {self.name!r} is {values.tolist()}; expected finite numbers")
        elif spaces.outside(values, codec.maximum).any():
            raise ValueError(
                f"{path} given to {self.name!r} is {values.tolist()}; "
                f"expected values in 0…{codec.maximum.tolist()}, as action_spec says"
            )
        # A copy, always: an environment may keep what it is given, and the tensor is the caller's to reuse.
        return (values if codec.offset is None else values + codec.offset).astype(codec.dtype)

    def render(self) -> np.ndarray:
        """See VectorEnvironment."""
        env = self._open()
        try:
            frames = env.render()
        except gymnasium.error.DependencyNotInstalled as error:
            raise optional.missing_package("pygame", "video") from error
        except Exception as error:
            raise self._checks.fault(None, f"render raised {type(error).__name__}: {error}") from error
        frame = frames[0] if isinstance(frames, tuple | list) and frames else None
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else repr(frame)
            raise self._checks.fault(
                None, f"render returned {found}; expected uint8 [H, W, 3], with render_mode='rgb_array'"
            )
        return frame

    def _open(self) -> gymnasium.vector.VectorEnv:
        if self._env is None:
            raise ValueError(f"{self.name!r} is closed; make a new one")
        return self._env

    def close(self) -> None:
        """See VectorEnvironment."""
        if self._env is not None:
            env, self._env = self._env, None
            workers.close(env)


def autoreset_mode(env: gymnasium.vector.VectorEnv) -> AutoresetMode | None:
    """The autoreset mode that a vector environment declares; None if it declares none."""
    if isinstance(mode := getattr(env.unwrapped, "autoreset_mode", None), AutoresetMode):
        return mode
    # Some classes write into the dictionary of the base class, which then speaks for no other class.
    if env.metadata is gymnasium.vector.VectorEnv.metadata:
        return None
    return env.metadata.get("autoreset_mode")


def _named_leaves(codecs: nest.Nest, root: str) -> list[tuple[str, spaces.Codec]]:
    return [(f"{root}.{path}" if path else root, codec) for path, codec in nest.leaves_with_paths(codecs)]


def _leaves(tensors: nest.Nest) -> list[torch.Tensor]:
    # Most observations and actions are one tensor: not worth the walk through a nest.
    return [tensors] if isinstance(tensors, torch.Tensor) else nest.leaves(tensors)
