"""Times the replay buffer as it grows: appending, prioritised sampling and new priorities, of small rows and of images.

python benchmarks/replay.py [--rows 10000 100000 1000000 10000000] [--image_rows 100000] [--num_envs 8] [--repeats 200]

All numbers are medians, over old rows, of a buffer that is full and has gone round once. A sum tree of n rows has log n
levels; beside that, rows that are spread over more memory than the caches hold take longer to reach. So the time of the
sampler alone is shown beside that of the whole batch, and that of a uniform batch, which knows no tree.
"""

import argparse
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import torch

from alfish import specs
from alfish.data_structures import Experience, RowsNeeded, StepType, time_step_spec
from alfish.experience_replayers.prioritized_sampler import PrioritizedSampler
from alfish.experience_replayers.replay_buffer import ReplayBuffer
from alfish.experience_replayers.samplers import Sampler, UniformSampler

_EPISODE_LENGTH = 200
_NUM_WINDOWS = 10


def main() -> None:
    parser = common.parser(__doc__, runs_commands=False)
    parser.add_argument(
        "--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000, 10_000_000], help="of 4 numbers"
    )
    parser.add_argument("--image_rows", type=int, default=100_000, help="of one image; 0 leaves them out")
    parser.add_argument("--num_envs", type=int, default=8)
    parser.add_argument("--window", type=int, default=20, help="rows per environment and append")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--frame", type=int, default=84, help="height and width of the image")
    parser.add_argument("--repeats", type=int, default=200)
    flags = parser.parse_args()
    report = common.Report("Replay buffer", flags)
    rows = [
        _measure("4 numbers, 1 + 10", specs.TensorSpec((4,)), RowsNeeded(0, 10, 5), size, flags) for size in flags.rows
    ]
    notes = [f"medians of {flags.repeats}; torch has {torch.get_num_threads()} threads"]
    if len(rows) > 1:
        notes.append(_growth(rows))
    if flags.image_rows:
        image = specs.TensorSpec((flags.frame, flags.frame), torch.uint8)
        rows.append(_measure("an image, 3 + 1 + 5", image, RowsNeeded(3, 5, 5), flags.image_rows, flags))
    report.finish(rows, notes)


def _measure(
    name: str, observation: specs.TensorSpec, rows_needed: RowsNeeded, capacity: int, flags: argparse.Namespace
) -> dict[str, Any]:
    spec = _experience_spec(observation)
    # Prepared in advance: torch's threads keep spinning for a while after they have filled a window.
    windows = [_window(spec, index * flags.window, flags) for index in range(_NUM_WINDOWS)]

    def filled(sampler: Sampler) -> tuple[ReplayBuffer, float, float]:
        """A buffer that has gone round, and the seconds of an append before and after that."""
        replay = ReplayBuffer(spec, flags.num_envs, capacity, rows_needed, sampler=sampler)
        turns = itertools.cycle(windows)

        def append() -> None:
            replay.append(next(turns))

        fresh = _median_seconds(append, capacity // (flags.window * flags.num_envs))
        append()
        return replay, fresh, _median_seconds(append, flags.repeats)

    replay, _, _ = filled(UniformSampler())
    generator = np.random.default_rng(0)
    uniform = _median_seconds(lambda: replay.sample(flags.batch_size, generator), flags.repeats)
    sampler = PrioritizedSampler(0.6, 0.4)
    replay, fresh, old = filled(sampler)
    prioritised = _median_seconds(lambda: replay.sample(flags.batch_size, generator), flags.repeats)
    draws, updates = [], []
    for _ in range(flags.repeats):
        # After a batch each, which leaves as little of the tree in the caches as in training.
        rows = replay.sample(flags.batch_size, generator).rows
        priority = generator.random(flags.batch_size)
        updates.append(_seconds(functools.partial(replay.update_priorities, rows, priority)))
        replay.sample(flags.batch_size, generator)
        draws.append(_seconds(lambda: sampler.sample(flags.batch_size, generator, 0.0)))
    rows_of_append = flags.window * flags.num_envs
    return {
        "a row, rows of a block": name,
        "rows": capacity,
        "MB when full": replay.num_bytes / 1e6,
        "append, µs": 1e6 * old,
        "uniform batch, µs": 1e6 * uniform,
        "prioritised batch, µs": 1e6 * prioritised,
        "of it the sampler, µs": 1e6 * statistics.median(draws),
        "new priorities, µs": 1e6 * statistics.median(updates),
        "append to fresh memory, rows/s": rows_of_append / fresh,
        "append over old rows, rows/s": rows_of_append / old,
    }


def _growth(rows: list[dict[str, Any]]) -> str:
    """How many times as long everything takes in the largest buffer as in the smallest."""
    smallest, largest = rows[0], rows[-1]
    logarithm = math.log(largest["rows"]) / math.log(smallest["rows"])
    times = [f"{key.removesuffix(', µs')} {largest[key] / smallest[key]:.2f}" for key in smallest if key.endswith("µs")]
    sizes = f"from {smallest['rows']:,} to {largest['rows']:,} rows"
    return f"{sizes} the logarithm grows {logarithm:.2f} times; {', '.join(times)}"


def _experience_spec(observation: specs.TensorSpec) -> Experience:
    action = specs.BoundedTensorSpec((), torch.int64, 0, 17)
    scalar = specs.TensorSpec()
    return Experience(
        time_step=time_step_spec(observation, action),
        action=action,
        rollout_info={"value": scalar, "reward": scalar, "policy": specs.TensorSpec((18,)), "version": scalar},
    )


def _window(spec: Experience, position: int, flags: argparse.Namespace) -> Experience:
    window = specs.zeros(spec, (flags.window, flags.num_envs))
    row = torch.arange(position, position + flags.window)[:, None] % _EPISODE_LENGTH
    window.time_step.step_type.fill_(StepType.MID)
    window.time_step.step_type.masked_fill_(row == 0, StepType.FIRST)
    window.time_step.step_type.masked_fill_(row == _EPISODE_LENGTH - 1, StepType.LAST)
    return window


def _median_seconds(call: Callable[[], object], repeats: int) -> float:
    call()
    return statistics.median(_seconds(call) for _ in range(max(repeats, 1)))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
