"""The whole way of an Atari run in little: train, kill with -9 in the middle, resume, evaluate; with rates and phases.

python benchmarks/atari.py                                         (the config as it is: for a machine with a GPU)
python benchmarks/atari.py --batch_size 32 --updates_per_env_step 0.02 --num_simulations 8 --max_frames 2000

Rates and shares are those of the part with updates. The first summary with updates of each process does not count:
things are compiled and allocated then. A checkpoint resets the environments, which takes Atari a while and counts as
"env"; a real run has far fewer of them. Whatever is scaled down stands in the settings below the table.
"""

import argparse
import pathlib
import shutil
import sys
import tempfile
from typing import Any, NamedTuple

import common
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

_SCALED = {
    "batch_size": ("ReplayBatches.batch_size", int),
    "updates_per_env_step": ("ReplayBatches.updates_per_env_step", float),
    "initial_env_steps": ("ReplayBatches.initial_env_steps", int),
    "num_simulations": ("MCTSAlgorithm.num_simulations", int),
    "capacity": ("ReplayBuffer.capacity", int),
    "num_envs": ("Trainer.num_envs", int),
    "episodes": ("Evaluator.episodes", int),
    "max_frames": ("AtariPreprocessing.max_frames_per_episode", int),
}
_DEFAULTS = {"initial_env_steps": 400, "episodes": 2}
_RATE = "time/env_steps_per_second"


class Interval(NamedTuple):
    """The time between two summaries.

    Attributes:
        env_steps: environment steps in it.
        updates: gradient steps in it.
        seconds: its length.
        shares: of the phases.
    """

    env_steps: int
    updates: int
    seconds: float
    shares: dict[str, float]


def main() -> None:
    arguments = _flags()
    report = common.Report(f"{arguments.gin_file}: {arguments.env_steps:,} env steps, killed in the middle", arguments)
    with tempfile.TemporaryDirectory() as temporary:
        root_dir = common.fresh_folder(arguments.root_dir or pathlib.Path(temporary) / "run")
        rows, notes = _measure(root_dir, arguments)
    report.finish(rows, notes)


def _flags() -> argparse.Namespace:
    flags = common.parser(__doc__)
    common.add_training_flags(flags, "muzero_atari.gin")
    flags.add_argument("--env_steps", type=int, default=2_000)
    flags.add_argument("--checkpoint_interval", type=int, help="a third of the env steps without it")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--root_dir", type=pathlib.Path, help="keeps the run here")
    for name, (binding, kind) in _SCALED.items():
        default = _DEFAULTS.get(name)
        flags.add_argument(
            f"--{name}", type=kind, default=default, help=f"{binding}; {default or 'that of the config'}"
        )
    return flags.parse_args()


def _measure(root_dir: pathlib.Path, arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    env_steps, middle = arguments.env_steps, arguments.env_steps // 2
    params = [f"{_SCALED[name][0]}={value}" for name in _SCALED if (value := getattr(arguments, name)) is not None]
    params += [
        f"Trainer.total_env_steps={env_steps}",
        f"Trainer.checkpoint_interval={arguments.checkpoint_interval or max(1, env_steps // 3)}",
        f"Trainer.summary_interval={max(1, env_steps // 20)}",
        "Trainer.evaluation_interval=None",
        *arguments.gin_param,
    ]
    command = common.train_command(
        arguments.gin_file, root_dir, params, arguments.seed, [f"--device={arguments.device}"]
    )

    def in_the_middle(line: common.Line) -> bool:
        reached = any(summary.env_steps >= middle for summary in common.summaries([line]))
        return reached and common.newest_checkpoint_step(root_dir) is not None

    killed = common.run(command, in_the_middle, arguments.verbose)
    if killed.return_code != -9:
        sys.exit("the run was over before it could be killed; give more --env_steps or a smaller --checkpoint_interval")
    saved = common.newest_checkpoint_step(root_dir)
    # Resuming cuts the file back to the checkpoint.
    shutil.copy(root_dir / "metrics.csv", root_dir / "metrics_before_the_kill.csv")
    before = _intervals(root_dir, "metrics_before_the_kill.csv", 0, 0)
    resumed = common.run(command, verbose=arguments.verbose)
    after = _intervals(root_dir, "metrics.csv", 1, saved)
    rows = [_row("before kill -9", before, killed), _row("resumed", after, resumed)]
    phases = sorted({phase for interval in before + after for phase in interval.shares})
    for row, intervals in zip(rows, (before, after), strict=True):
        row |= {phase: _share(phase, _warm(intervals)) for phase in phases}
    evaluation = common.run(
        common.evaluate_command(root_dir, arguments.episodes, arguments.seed + 1, arguments.device),
        verbose=arguments.verbose,
    )
    last = list(common.summaries(killed.lines))[-1].env_steps
    done = common.read_metrics(root_dir)[-1]
    notes = [
        f"killed at {last:,} env steps, resumed at {saved:,}, ended at {done['env_steps']:,} with "
        f"{done['updates']:,} updates",
        f"`evaluate`: {evaluation.lines[-1].text}, in {evaluation.seconds:.1f} s",
        f"bindings: {', '.join(params)}",
    ]
    return rows, notes


def _intervals(root_dir: pathlib.Path, metrics: str, process: int, env_steps: int | None) -> list[Interval]:
    """What is between the summaries that one process wrote.

    Args:
        root_dir: of the run.
        metrics: the CSV file, for the numbers of updates.
        process: the first one of the run is 0.
        env_steps: where the process began.
    """
    updates_at = {row["env_steps"]: row["updates"] for row in common.read_metrics(root_dir, metrics)}
    files = sorted((root_dir / "tensorboard").glob("events.out.tfevents.*"))
    before = env_steps or 0
    found = []
    for event in LegacyEventFileLoader(str(files[process])).Load():
        values = {value.tag: value.simple_value for value in event.summary.value}
        if _RATE not in values:
            continue
        steps = event.step - before
        updates = updates_at[event.step] - updates_at.get(before, 0)
        shares = {tag.removeprefix("time/"): value for tag, value in values.items() if tag.startswith("time/")}
        del shares[_RATE.removeprefix("time/")]
        found.append(Interval(steps, updates, steps / values[_RATE], shares))
        before = event.step
    return found


def _warm(intervals: list[Interval]) -> list[Interval]:
    return [interval for interval in intervals if interval.updates][1:]


def _row(name: str, intervals: list[Interval], finished: common.Finished) -> dict[str, Any]:
    warm = _warm(intervals)
    if not warm:
        sys.exit(f"{name}: too few summaries with updates; give more --env_steps or fewer --initial_env_steps")
    seconds = sum(interval.seconds for interval in warm)
    env_steps, updates = sum(interval.env_steps for interval in warm), sum(interval.updates for interval in warm)
    return {
        "process": name,
        "seconds": finished.seconds,
        "measured seconds": seconds,
        "env steps/s": env_steps / seconds,
        "updates/s": updates / seconds,
    }


def _share(phase: str, intervals: list[Interval]) -> str:
    whole = sum(interval.seconds for interval in intervals)
    return f"{sum(interval.shares.get(phase, 0.0) * interval.seconds for interval in intervals) / whole:.0%}"


if __name__ == "__main__":
    main()
