"""Times a prioritised batch of blocks of frames beside cpprb, tianshou and stable-baselines3.

python benchmarks/replay_peers.py [--rows 1000000] [--batch_size 256] [--rounds 9]

A batch is 256 blocks of 5 + 1 + 4 consecutive 84x84 uint8 frames, with what else is stored of these rows, out of a
buffer that is full and has begun to overwrite. Each peer does the nearest equal work that it can do, said in the table;
where there are several ways, all are measured. A peer that is not installed is left out, and that is said. In an
environment of their own, since tianshou asks for other versions than alfish:

pip install --no-deps cpprb stable-baselines3 pandas tianshou deepdiff orderly-set cachebox sensai-utils h5py overrides
pettingzoo tqdm

The peers take turns with alfish one after the other, so that only two buffers are in memory: twice 7 GB for the
1,000,000 rows.
"""

import argparse
import gc
import importlib
import pathlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import common
import gymnasium
import numpy as np
import torch
from interleaving import time_in_turns

from alfish import specs
from alfish.data_structures import Experience, RowsNeeded, StepType, time_step_spec
from alfish.experience_replayers.prioritized_sampler import PrioritizedSampler
from alfish.experience_replayers.replay_buffer import ReplayBuffer

_PAST, _FUTURE = 5, 4
_BLOCK = _PAST + 1 + _FUTURE
_ALPHA, _BETA = 0.6, 0.4
_EPISODE_LENGTH = 200
_WINDOW = 20
_NUM_ACTIONS = 18


class Contestant(NamedTuple):
    """A buffer that is full.

    Attributes:
        name: with the version.
        ways: what one batch holds, and the function that makes it; of alfish first.
        update: sets the priorities of as many rows as a batch has blocks; None if there are none.
    """

    name: str
    ways: dict[str, Callable[[], object]]
    update: Callable[[], object] | None


class Step(NamedTuple):
    """What every buffer that can is given of each of B environments, and hands out again."""

    image: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    ends: np.ndarray
    value: np.ndarray
    policy: np.ndarray


class Frames:
    """The rows that all buffers are filled with: a few windows of noise, again and again."""

    def __init__(self, flags: argparse.Namespace):
        self.num_envs = flags.num_envs
        self.length = flags.rows // flags.num_envs
        self.batch_size = flags.batch_size
        self.shape = (flags.frame, flags.frame)
        generator = np.random.default_rng(0)
        size = (_EPISODE_LENGTH, self.num_envs)
        self._images = [generator.integers(256, size=(self.num_envs, *self.shape), dtype=np.uint8) for _ in range(64)]
        self._action = generator.integers(_NUM_ACTIONS, size=size)
        self._reward = generator.random(size, np.float32)
        self._policy = generator.random((*size, _NUM_ACTIONS), np.float32)
        self.generator = generator

    def steps(self) -> Iterator[Step]:
        """Steps of all environments, a few more than are kept."""
        for step in range(self.length + _WINDOW):
            place = step % _EPISODE_LENGTH
            ends = np.full(self.num_envs, place == _EPISODE_LENGTH - 1)
            image = self._images[step % len(self._images)]
            yield Step(image, self._action[place], self._reward[place], ends, self._reward[place], self._policy[place])

    def priorities(self) -> np.ndarray:
        return self.generator.random(self.batch_size)


def main() -> None:
    parser = common.parser(__doc__, runs_commands=False)
    parser.add_argument("--rows", type=int, default=1_000_000, help="over all environments")
    parser.add_argument("--num_envs", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--frame", type=int, default=84, help="height and width of the image")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn of a round")
    flags = parser.parse_args()
    _check_memory(flags)
    report = common.Report("A prioritised batch of frames beside other replay buffers", flags)
    frames = Frames(flags)
    ours = _alfish(frames)
    (our_way, our_sample), *_ = ours.ways.items()
    rows, notes = [], [f"medians of {flags.rounds} rounds; torch has {torch.get_num_threads()} threads"]
    for package, make in {"cpprb": _cpprb, "tianshou": _tianshou, "stable_baselines3": _stable_baselines3}.items():
        try:
            module = importlib.import_module(package)
        except ImportError as error:
            notes.append(f"{package} is not installed, so it is left out ({error})")
            continue
        for peer in make(frames, module):
            calls = {"alfish": our_sample, **peer.ways}
            updates = {"alfish update": ours.update, "update": peer.update} if peer.update and ours.update else {}
            times = time_in_turns({**calls, **updates}, flags.rounds, flags.seconds)
            for way in calls:
                ratio = times.ratio(way, "alfish")
                update = times.median("alfish update" if way == "alfish" else "update")
                rows.append(
                    {
                        "buffer": f"alfish, beside {peer.name}" if way == "alfish" else peer.name,
                        "one batch": our_way if way == "alfish" else way,
                        "ms": 1e3 * (times.median(way) or 0.0),
                        "times as long as alfish": ratio
                        and f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
                        "update, µs": update and 1e6 * update,
                    }
                )
            del peer, calls, updates
            gc.collect()
    report.finish(rows, notes)


def _alfish(frames: Frames) -> Contestant:
    action = specs.BoundedTensorSpec((), torch.int64, 0, _NUM_ACTIONS - 1)
    scalar = specs.TensorSpec()
    info = {"value": scalar, "policy": specs.TensorSpec((_NUM_ACTIONS,))}
    spec = Experience(time_step_spec(specs.TensorSpec(frames.shape, torch.uint8), action), action, info)
    sampler = PrioritizedSampler(_ALPHA, _BETA)
    capacity = frames.length * frames.num_envs
    replay = ReplayBuffer(spec, frames.num_envs, capacity, RowsNeeded(_PAST, _FUTURE, _FUTURE), sampler=sampler)
    window = specs.zeros(spec, (_WINDOW, frames.num_envs))
    for index, step in enumerate(frames.steps()):
        row, time_step = index % _WINDOW, window.time_step
        time_step.step_type[row] = torch.from_numpy(np.where(step.ends, StepType.LAST, StepType.MID))
        if index % _EPISODE_LENGTH == 0:
            time_step.step_type[row] = StepType.FIRST
        leaves = (time_step.observation, window.action, time_step.reward, *window.rollout_info.values())
        for leaf, value in zip(leaves, (step.image, step.action, step.reward, step.value, step.policy), strict=True):
            leaf[row] = torch.from_numpy(value)
        if row == _WINDOW - 1:
            replay.append(window)
    generator = frames.generator
    rows = replay.sample(frames.batch_size, generator).rows
    return Contestant(
        "alfish",
        {
            f"blocks of {_BLOCK} rows of an episode, 9 fields, ages, weights": lambda: replay.sample(
                frames.batch_size, generator
            )
        },
        lambda: replay.update_priorities(rows, frames.priorities()),
    )


def _cpprb(frames: Frames, module: types.ModuleType) -> Iterator[Contestant]:
    capacity = frames.length * frames.num_envs
    shapes = {"image": frames.shape, "policy": (_NUM_ACTIONS,)}
    dtypes = {"image": np.uint8, "action": np.int64, "ends": np.bool_}
    for is_stacked in (False, True):
        depth = (_BLOCK,) if is_stacked else ()
        fields = {
            name: {"shape": (*shapes.get(name, ()), *depth) or 1, "dtype": dtypes.get(name, np.float32)}
            for name in Step._fields
        }
        stacked = {"stack_compress": list(fields)} if is_stacked else {}
        buffer = module.PrioritizedReplayBuffer(capacity, fields, alpha=_ALPHA, **stacked)
        for step in frames.steps():
            if is_stacked:
                # Of a stack the newest row is kept, if its older ones are those that were added before it.
                step = Step(*(np.broadcast_to(leaf[..., None], (*leaf.shape, _BLOCK)) for leaf in step))
            buffer.add(**step._asdict())
        size = frames.batch_size if is_stacked else frames.batch_size * _BLOCK
        what = (
            f"stacks of {_BLOCK} rows of one stream, whatever environment (stack_compress)"
            if is_stacked
            else f"{_BLOCK} times as many single rows"
        )
        rows = buffer.sample(frames.batch_size, _BETA)["indexes"].copy()  # it is a view, of the last sample
        yield Contestant(
            f"cpprb {common.version('cpprb')}",
            {f"{what}, 6 fields, weights": lambda buffer=buffer, size=size: buffer.sample(size, _BETA)},
            lambda buffer=buffer, rows=rows: buffer.update_priorities(rows, frames.priorities()),
        )
        del buffer


def _tianshou(frames: Frames, module: types.ModuleType) -> Iterator[Contestant]:
    data = module.data
    buffer = data.PrioritizedVectorReplayBuffer(
        frames.length * frames.num_envs, frames.num_envs, alpha=_ALPHA, beta=_BETA, ignore_obs_next=True
    )
    cut = np.zeros(frames.num_envs, np.bool_)
    for step in frames.steps():
        info = data.Batch(value=step.value, policy=step.policy)
        fields = {"obs": step.image, "act": step.action, "rew": step.reward, "terminated": step.ends, "truncated": cut}
        buffer.add(data.Batch(**fields, info=info))

    def stacked() -> object:
        buffer.stack_num = _BLOCK
        batch = buffer.sample(frames.batch_size)
        buffer.stack_num = 1
        return batch

    def by_hand() -> list[Any]:
        first = buffer.sample_indices(frames.batch_size)
        block = [first]
        for _ in range(_PAST):
            block.insert(0, buffer.prev(block[0]))
        for _ in range(_FUTURE):
            block.append(buffer.next(block[-1]))
        rows = np.stack(block, axis=1)
        weight = buffer.get_weight(first)
        leaves = buffer.obs, buffer.act, buffer.rew, buffer.done, buffer.info.value, buffer.info.policy
        return [*(leaf[rows] for leaf in leaves), weight / weight.max()]

    rows = buffer.sample_indices(frames.batch_size)
    yield Contestant(
        f"tianshou {common.version('tianshou')}",
        {
            f"sample() with stack_num={_BLOCK}: twice the frames of {_BLOCK} rows, weights": stacked,
            f"by hand (sample_indices, prev, next): blocks of {_BLOCK} rows of an episode, 6 fields, weights": by_hand,
        },
        lambda: buffer.update_weight(rows, frames.priorities()),
    )


def _stable_baselines3(frames: Frames, module: types.ModuleType) -> Iterator[Contestant]:
    buffers = importlib.import_module(f"{module.__name__}.common.buffers")
    buffer = buffers.ReplayBuffer(
        frames.length * frames.num_envs,
        gymnasium.spaces.Box(0, 255, (1, *frames.shape), np.uint8),
        gymnasium.spaces.Discrete(_NUM_ACTIONS),
        device="cpu",
        n_envs=frames.num_envs,
        optimize_memory_usage=True,
        handle_timeout_termination=False,
    )
    infos: list[dict[str, Any]] = [{} for _ in range(frames.num_envs)]
    for step in frames.steps():
        image = step.image[:, None]
        buffer.add(image, image, step.action[:, None], step.reward, step.ends, infos)
    pairs = frames.batch_size * _BLOCK // 2
    yield Contestant(
        f"stable-baselines3 {common.version('stable-baselines3')}",
        {"uniformly as many frames, in pairs (obs, next_obs), 5 fields": lambda: buffer.sample(pairs)},
        None,
    )


def _check_memory(flags: argparse.Namespace) -> None:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    available = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    needed = int(2.2 * flags.rows * flags.frame**2)
    if needed > available:
        sys.exit(
            f"{flags.rows} rows in two buffers take {needed / 1e9:.0f} GB, {available / 1e9:.0f} GB are free; "
            f"give --rows {int(0.9 * flags.rows * available / needed)} or fewer"
        )


if __name__ == "__main__":
    main()
