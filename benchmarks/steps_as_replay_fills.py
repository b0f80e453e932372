"""Environment steps per second with the replay buffer almost empty and full: they should be the same.

python benchmarks/steps_as_replay_fills.py [--gin_file=muzero_cartpole.gin] [--capacity 100000] [--repeats 3]

For each share of the capacity a run fills its buffer quickly, by the bare policy and without updates, and is saved.
Then processes continue from these checkpoints in turns, with the searches and updates of the config, and are killed
after the measured steps, so that the next one finds the same checkpoint. The first steps of a process do not count.
"""

import argparse
import math
import pathlib
import statistics
import tempfile
from typing import Any

import common

_NEVER = 1_000_000_000


def main() -> None:
    flags = common.parser(__doc__)
    common.add_training_flags(flags, "muzero_cartpole.gin")
    flags.add_argument("--capacity", type=int, default=100_000, help="rows over all environments")
    flags.add_argument("--fills", type=float, nargs="+", default=[0.05, 1.0], help="shares of the capacity")
    flags.add_argument("--env_steps", type=int, default=1_500, help="measured in each process")
    flags.add_argument("--warm_up_steps", type=int, default=300, help="before them")
    flags.add_argument("--repeats", type=int, default=3, help="processes for each share, in turns")
    flags.add_argument("--root_dir", type=pathlib.Path, help="keeps the runs here")
    arguments = flags.parse_args()
    report = common.Report(f"Steps per second as the replay buffer fills: {arguments.gin_file}", arguments)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        root_dir = common.fresh_folder(arguments.root_dir or pathlib.Path(temporary))
        folders = [root_dir / f"fill{fill:g}" for fill in arguments.fills]
        begins = [_fill(folder, fill, arguments) for folder, fill in zip(folders, arguments.fills, strict=True)]
        for repeat in range(arguments.repeats):
            rates = [_rate(folder, begin, arguments) for folder, begin in zip(folders, begins, strict=True)]
            names = [f"{fill:.0%} full, env steps/s" for fill in arguments.fills]
            row: dict[str, Any] = dict(zip(names, (rate.per_second for rate in rates), strict=True))
            row["last / first"] = rates[-1].per_second / rates[0].per_second
            row["last / first, per CPU second"] = rates[-1].per_cpu_second / rates[0].per_cpu_second
            rows.append({"repeat": repeat} | row)
    ratios = [row["last / first"] for row in rows]
    cpu_ratio = statistics.median(row["last / first, per CPU second"] for row in rows)
    report.finish(
        rows,
        [
            f"**median ratio {statistics.median(ratios):.3f}** (last / first), {min(ratios):.3f} to {max(ratios):.3f}",
            f"median ratio per CPU second {cpu_ratio:.3f}, which other programs hardly change",
            f"environment steps in the buffers before: {', '.join(f'{begin:,}' for begin in begins)}",
        ],
    )


def _params(arguments: argparse.Namespace) -> list[str]:
    return [
        f"ReplayBuffer.capacity={arguments.capacity}",
        f"Trainer.total_env_steps={_NEVER}",
        f"Trainer.checkpoint_interval={_NEVER}",
        "Trainer.evaluation_interval=None",
        *arguments.gin_param,
    ]


def _fill(root_dir: pathlib.Path, fill: float, arguments: argparse.Namespace) -> int:
    """Makes a checkpoint with a buffer that is full to this share; returns its environment steps."""
    # First rows of episodes are rows of the buffer and no environment steps, so that it holds slightly more.
    env_steps = math.ceil(fill * arguments.capacity)
    params = [
        *_params(arguments),
        "MCTSAlgorithm.num_simulations=0",
        f"ReplayBatches.initial_env_steps={_NEVER}",
        f"Trainer.summary_interval={max(1, env_steps // 10)}",
    ]
    flags = [f"--stop_at_env_steps={env_steps}", f"--device={arguments.device}"]
    command = common.train_command(arguments.gin_file, root_dir, params, 0, flags)
    common.run(command, verbose=arguments.verbose)
    saved = common.newest_checkpoint_step(root_dir)
    assert saved is not None, "train ended well without a checkpoint"
    return saved


def _rate(root_dir: pathlib.Path, begin: int, arguments: argparse.Namespace) -> common.Rate:
    """Continues from the checkpoint."""
    first, last = begin + arguments.warm_up_steps, begin + arguments.warm_up_steps + arguments.env_steps
    params = [
        *_params(arguments),
        f"ReplayBatches.initial_env_steps={begin}",
        f"Trainer.summary_interval={max(1, arguments.env_steps // 10)}",
    ]
    command = common.train_command(arguments.gin_file, root_dir, params, 0, [f"--device={arguments.device}"])
    finished = common.run(
        command, lambda line: any(summary.env_steps >= last for summary in common.summaries([line])), arguments.verbose
    )
    printed = [summary for summary in common.summaries(finished.lines) if summary.env_steps >= first]
    return common.rate(printed[-1].env_steps - printed[0].env_steps, printed[0], printed[-1])


if __name__ == "__main__":
    main()
