"""Times the replay buffer: appending, and sampling with the gather, for image rows and for small rows.

python benchmarks/replay.py [--capacity 100000] [--num_envs 8] [--batch_size 256] [--repeats 50]

All numbers are medians. An append into a buffer that is not full writes to memory that is fresh from the system; one
over old rows does not.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import torch

from alfish import specs
from alfish.data_structures import Experience, RowsNeeded, StepType, time_step_spec
from alfish.experience_replayers.replay_buffer import ReplayBuffer

_EPISODE_LENGTH = 200
_NUM_WINDOWS = 10
_FILLS = (0.05, 1.0)


def main() -> None:
    parser = common.parser(__doc__, runs_commands=False)
    parser.add_argument("--capacity", type=int, default=100_000, help="rows over all environments")
    parser.add_argument("--num_envs", type=int, default=8)
    parser.add_argument("--window", type=int, default=20, help="rows per environment and append")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--frame", type=int, default=84, help="height and width of the image")
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    report = common.Report("Replay buffer", arguments)
    image = specs.TensorSpec((arguments.frame, arguments.frame), torch.uint8)
    rows = [
        _measure("an image, 3 + 1 + 5", image, RowsNeeded(3, 5, 5), arguments),
        _measure("4 numbers, 1 + 10", specs.TensorSpec((4,)), RowsNeeded(0, 10, 5), arguments),
    ]
    report.finish(rows, [f"medians of {arguments.repeats} batches; torch has {torch.get_num_threads()} threads"])


def _measure(
    name: str, observation: specs.TensorSpec, rows_needed: RowsNeeded, arguments: argparse.Namespace
) -> dict[str, Any]:
    spec = _experience_spec(observation)
    replay = ReplayBuffer(spec, arguments.num_envs, arguments.capacity, rows_needed)
    row: dict[str, Any] = {"observation, rows of a block": name, "MB when full": replay.num_bytes / 1e6}
    # Prepared in advance: torch's threads keep spinning for a while after they have filled a window.
    windows = [_window(spec, index * arguments.window, arguments) for index in range(_NUM_WINDOWS)]
    generator = np.random.default_rng(0)
    for fill in _FILLS:
        num_appends = max(1, int(fill * replay.capacity - replay.num_rows) // (arguments.window * arguments.num_envs))
        row[f"append up to {fill:.0%}, rows/s"] = _rows_per_second(replay, windows, num_appends)
        replay.sample(arguments.batch_size, generator)
        seconds = [_seconds(lambda: replay.sample(arguments.batch_size, generator)) for _ in range(arguments.repeats)]
        row[f"sample at {fill:.0%}, ms"] = 1e3 * statistics.median(seconds)
    row["append over old rows, rows/s"] = _rows_per_second(replay, windows, arguments.repeats)
    return row


def _rows_per_second(replay: ReplayBuffer, windows: list[Experience], repeats: int) -> float:
    before = replay.total_rows
    seconds = [_seconds(lambda index=index: replay.append(windows[index % _NUM_WINDOWS])) for index in range(repeats)]
    rows_per_append = (replay.total_rows - before) / repeats
    return rows_per_append / statistics.median(seconds)


def _experience_spec(observation: specs.TensorSpec) -> Experience:
    action = specs.BoundedTensorSpec((), torch.int64, 0, 17)
    scalar = specs.TensorSpec()
    return Experience(
        time_step=time_step_spec(observation, action),
        action=action,
        rollout_info={"value": scalar, "reward": scalar, "policy": specs.TensorSpec((18,)), "version": scalar},
    )


def _window(spec: Experience, position: int, arguments: argparse.Namespace) -> Experience:
    window = specs.zeros(spec, (arguments.window, arguments.num_envs))
    row = torch.arange(position, position + arguments.window)[:, None] % _EPISODE_LENGTH
    window.time_step.step_type.fill_(StepType.MID)
    window.time_step.step_type.masked_fill_(row == 0, StepType.FIRST)
    window.time_step.step_type.masked_fill_(row == _EPISODE_LENGTH - 1, StepType.LAST)
    return window


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
