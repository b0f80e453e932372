"""Trains a config with several seeds and tells which of them reached a return in time.

python benchmarks/learning.py --gin_file=muzero_cartpole.gin --seeds 5 --threshold 475 --env_steps 15000 --seconds 180
python benchmarks/learning.py --gin_file=ppo_cartpole.gin --seeds 5 --threshold 500 --env_steps 100000

A seed passes if an evaluation of its own training reached the threshold within both limits. The steps of one iteration
are allowed beyond the limit, since an evaluation comes after the iteration that crosses it. Seconds count from the
start of the process, imports and evaluations included; with `--jobs` they are those of a busy machine. The weights that
were kept are then evaluated on fresh episodes.
"""

import argparse
import datetime
import functools
import pathlib
import re
from typing import Any

import common
import trainings

_RESULT = re.compile(r"mean (-?[\d.]+|nan), deviation ([\d.]+|nan) over (\d+) episodes")


def main() -> None:
    arguments = _flags()
    stem = pathlib.Path(arguments.gin_file).stem
    if arguments.root_dir is None:
        arguments.root_dir = pathlib.Path("runs") / f"learning-{stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    root_dir = common.fresh_folder(arguments.root_dir)
    report = common.Report(f"Learning: {stem}", arguments)
    rows, details = [], []
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    measure = functools.partial(_measure, root_dir=root_dir, arguments=arguments)
    for row, detail in trainings.as_they_come(measure, seeds, arguments.jobs):
        rows.append(row)
        details.append(detail)
        # Each as it comes: an interrupted measurement has not been for nothing.
        print(common.markdown_table([row]), flush=True)
    rows.sort(key=lambda row: row["seed"])
    print()
    report.finish(rows, _notes(rows, max(detail["allowance"] for detail in details), arguments), details)


def _flags() -> argparse.Namespace:
    flags = common.parser(__doc__)
    trainings.add_flags(flags)
    flags.add_argument("--threshold", type=float, default=475.0, help="mean return of an evaluation")
    flags.add_argument("--env_steps", type=int, default=15_000, help="within which the threshold must be reached")
    flags.add_argument("--seconds", type=float, help="likewise; without it, however long it takes")
    flags.add_argument("--episodes", type=int, default=20, help="fresh ones, after the training")
    flags.add_argument("--evaluation_seed", type=int, default=12345, help="of the fresh episodes")
    return flags.parse_args()


def _measure(seed: int, root_dir: pathlib.Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    root_dir = root_dir / f"seed{seed}"
    training = trainings.train(arguments.gin_file, root_dir, arguments.gin_param, seed, arguments)
    reached = training.reached(arguments.threshold)
    fresh = common.run(
        common.evaluate_command(root_dir, arguments.episodes, arguments.evaluation_seed, arguments.device),
        verbose=arguments.verbose,
    )
    match = next(match for line in reversed(fresh.lines) if (match := _RESULT.match(line.text)))
    allowance = trainings.overshoot(root_dir)
    in_time = arguments.seconds is None or (reached is not None and reached.seconds <= arguments.seconds)
    row = {
        "seed": seed,
        "env steps to threshold": reached and reached.env_steps,
        "seconds to threshold": reached and reached.seconds,
        "best evaluation": max(point.mean for point in training.curve),
        "final evaluation": training.curve[-1].mean,
        "fresh episodes": float(match[1]),
        "env steps": training.env_steps,
        "env steps/s": training.env_steps / training.seconds,
        "seconds": training.seconds,
        "pass": reached is not None and reached.env_steps <= arguments.env_steps + allowance and in_time,
    }
    fresh_episodes = {"mean": float(match[1]), "deviation": float(match[2])}
    return row, training.as_json() | {"allowance": allowance, "fresh": fresh_episodes}


def _notes(rows: list[dict[str, Any]], allowance: int, arguments: argparse.Namespace) -> list[str]:
    threshold = f"{arguments.threshold:g}"
    passed = sum(row["pass"] for row in rows)
    held = sum(row["fresh episodes"] >= arguments.threshold for row in rows)
    limits = f"{arguments.env_steps:,} env steps (and up to {allowance:,} more, to the end of an iteration)"
    if arguments.seconds is not None:
        limits += f" and {arguments.seconds:g} seconds"
    notes = [
        f"**{passed} of {len(rows)} seeds** reached an evaluation mean of {threshold} within {limits}",
        f"{held} of {len(rows)} seeds: the kept weights have a mean of at least {threshold} on "
        f"{arguments.episodes} fresh episodes",
    ]
    notes += [
        trainings.interval_note(name, [row[name] for row in rows]) for name in ("final evaluation", "fresh episodes")
    ]
    return notes


if __name__ == "__main__":
    main()
