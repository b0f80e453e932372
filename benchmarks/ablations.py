"""Trains variants of a config with several seeds each and compares what they reach.

python benchmarks/ablations.py --suite losses --seeds 5 --jobs 2
python benchmarks/ablations.py --gin_file=muzero_cartpole.gin --variant "R = 5" --variant "R = 1: UNROLL_STEPS = 1"

A suite is a list of variants of this file; `--variant "NAME: BINDING; BINDING"` compares others. Of each variant the
table has how many seeds reached the threshold, the median of the environment steps until then, interquartile means with
95 % bootstrap intervals over seeds of the last evaluation and of the mean over all evaluations (which says how early
something was learned), and the mean wall time of a training. Seeds go in turns over the variants, so that a measurement
that was interrupted has compared all of them. With `--jobs 2` two trainings run at a time, each with one thread; their
wall times are then those of a busy machine.
"""

import argparse
import datetime
import functools
import json
import pathlib
import re
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import common
import trainings
from trainings import Training


class Variant(NamedTuple):
    """What is compared.

    Attributes:
        name: in the table.
        params: bindings beside the config's.
        gin_file: another config than the suite's; None for the suite's.
    """

    name: str
    params: tuple[str, ...] = ()
    gin_file: str | None = None


class Suite(NamedTuple):
    """Variants that belong together.

    Attributes:
        gin_file: the config.
        threshold: of a mean return of an evaluation.
        variants: the first is what the others are compared with.
    """

    gin_file: str
    threshold: float
    variants: tuple[Variant, ...]


def _without(part: str) -> tuple[str, ...]:
    return (f"MuzeroRepresentationImpl.{part}_loss_weight = 0",)


_REANALYSE = "muzero_cartpole_reanalyse.gin"
_LATENT = "ppo_muzero_latent_cartpole_hidden.gin"
SUITES: dict[str, Suite] = {
    # What each part of EfficientZero is worth where it is small.
    "losses": Suite(
        "efficientzero_cartpole.gin",
        475.0,
        (
            Variant("all"),
            Variant(
                "no consistency loss",
                (
                    "MuzeroRepresentationImpl.consistency = None",
                    "MuzeroRepresentationImpl.consistency_loss_weight = None",
                ),
            ),
            Variant("no policy loss", _without("policy")),
            Variant("no value loss", _without("value")),
            Variant("no reward loss", _without("reward")),
            Variant("no value prefix", ("ValuePrefixMCTSModel.horizon = 1",)),
            Variant("no mixed value targets", ('MuzeroRepresentationImpl.value_target = "n_step"',)),
            Variant("no reanalysis", ("REANALYZE_RATIO = 0.0",)),
            Variant("no priorities", ("PRIORITY_ALPHA = 0.0",)),
        ),
    ),
    # The budget of each is that of its config; runs are compared at the same number of steps.
    "reanalysis": Suite(
        _REANALYSE,
        475.0,
        (
            Variant("ratio 0", ("REANALYZE_RATIO = 0.0",)),
            Variant("ratio 0.5", ("REANALYZE_RATIO = 0.5",)),
            Variant("ratio 1", ("REANALYZE_RATIO = 1.0",)),
        ),
    ),
    # The same algorithm and budget, on what is seen and on the latent of it.
    "latent": Suite(
        _LATENT,
        475.0,
        (Variant("PPO over MuZero's latent"), Variant("PPO", gin_file="ppo_cartpole_hidden.gin")),
    ),
    "minatar": Suite(
        "muzero_minatar_breakout.gin",
        10.0,
        (Variant("ratio 0", ("REANALYZE_RATIO = 0.0",)), Variant("ratio 1", ("REANALYZE_RATIO = 1.0",))),
    ),
}


def main() -> None:
    arguments = _flags()
    suite = _suite(arguments)
    name = arguments.suite or pathlib.Path(suite.gin_file).stem
    if arguments.root_dir is None:
        arguments.root_dir = pathlib.Path("runs") / f"ablations-{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    root_dir = common.fresh_folder(arguments.root_dir)
    report = common.Report(f"Variants: {name}", arguments)
    done: dict[str, list[Training]] = {variant.name: [] for variant in suite.variants}
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    order = [(variant, seed) for seed in seeds for variant in suite.variants]
    train = functools.partial(_train, suite=suite, root_dir=root_dir, arguments=arguments)
    for variant, training in trainings.as_they_come(train, order, arguments.jobs):
        done[variant.name].append(training)
        # Each as it comes: an interrupted measurement has not been for nothing.
        print(common.markdown_table([run_row(variant.name, training, suite.threshold)]), flush=True)
        with (root_dir / "trainings.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"variant": variant.name} | training.as_json()) + "\n")
    print()
    rows = [variant_row(name, done[name], suite.threshold) for name in done]
    details = {name: [training.as_json() for training in done[name]] for name in done}
    notes = [f"`{variant.name}`: {_bindings(variant)}" for variant in suite.variants]
    report.finish(rows, [f"a return of {suite.threshold:g} counts as reached", *notes], details)


def _flags() -> argparse.Namespace:
    flags = common.parser(__doc__)
    trainings.add_flags(flags)
    flags.add_argument("--suite", choices=sorted(SUITES), help="in place of --gin_file and --variant")
    flags.add_argument("--variant", action="append", default=[], help='"NAME: BINDING; BINDING"; may be repeated')
    flags.add_argument("--only", help="variants whose name matches this regular expression")
    flags.add_argument("--threshold", type=float, help="mean return of an evaluation; without it, the suite's, or 475")
    return flags.parse_args()


def _suite(arguments: argparse.Namespace) -> Suite:
    if arguments.suite is None:
        suite = Suite(arguments.gin_file, 475.0, tuple(map(parse_variant, arguments.variant or ["as it is"])))
    else:
        suite = SUITES[arguments.suite]
    if arguments.threshold is not None:
        suite = suite._replace(threshold=arguments.threshold)
    chosen = tuple(variant for variant in suite.variants if re.search(arguments.only or "", variant.name))
    return suite._replace(variants=chosen)


def parse_variant(text: str) -> Variant:
    """A variant from `"NAME: BINDING; BINDING"`; without a colon it binds nothing."""
    name, _, bindings = text.partition(":")
    return Variant(name.strip(), tuple(part.strip() for part in bindings.split(";") if part.strip()))


def folder_name(variant: Variant, seed: int) -> str:
    """Where a run of a variant is kept, below the folder of all runs."""
    return f"{re.sub(r'[^A-Za-z0-9.]+', '_', variant.name).strip('_')}/seed{seed}"


def _train(
    variant_and_seed: tuple[Variant, int], suite: Suite, root_dir: pathlib.Path, arguments: argparse.Namespace
) -> tuple[Variant, Training]:
    variant, seed = variant_and_seed
    params = [*arguments.gin_param, *variant.params]
    folder = root_dir / folder_name(variant, seed)
    return variant, trainings.train(variant.gin_file or suite.gin_file, folder, params, seed, arguments)


def _bindings(variant: Variant) -> str:
    parts = ([variant.gin_file] if variant.gin_file else []) + [f"`{param}`" for param in variant.params]
    return ", ".join(parts) or "as it is"


def run_row(name: str, training: Training, threshold: float) -> dict[str, Any]:
    """What one training reached."""
    reached = training.reached(threshold)
    return {
        "variant": name,
        "seed": training.seed,
        "env steps to threshold": reached and reached.env_steps,
        "final evaluation": training.curve[-1].mean,
        "mean evaluation": _mean_evaluation(training),
        "env steps": training.env_steps,
        "seconds": training.seconds,
    }


def variant_row(name: str, runs: Sequence[Training], threshold: float) -> dict[str, Any]:
    """What the trainings of one variant reached."""
    reached = [point.env_steps if (point := run.reached(threshold)) else None for run in runs]
    # The middle run, or the slower one of two; runs that never reached the threshold come last.
    middle = sorted(reached, key=lambda steps: (steps is None, steps))[len(runs) // 2]
    return {
        "variant": name,
        "reached": f"{sum(steps is not None for steps in reached)} of {len(runs)}",
        "env steps to threshold": middle,
        "final evaluation": _with_interval([run.curve[-1].mean for run in runs]),
        "mean evaluation": _with_interval([_mean_evaluation(run) for run in runs]),
        "seconds": statistics.fmean(run.seconds for run in runs),
    }


def _mean_evaluation(training: Training) -> float:
    return statistics.fmean(point.mean for point in training.curve)


def _with_interval(values: Sequence[float]) -> str:
    low, high = common.bootstrap_interval(values)
    return f"{common.show(common.interquartile_mean(values))} ({common.show(low)} to {common.show(high)})"


if __name__ == "__main__":
    main()
