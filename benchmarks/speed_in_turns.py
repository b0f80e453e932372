"""Environment steps per second of a configuration of ours beside a script of stable-baselines3, run in turns.

What ppo_speed.py and sac_speed.py share; it is not run by itself.
"""

import argparse
import importlib.util
import pathlib
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import common

PEER = "stable-baselines3"
_SAVED = re.compile(r"saved at ([\d,]+)")
_TRAINED = re.compile(r"trained (\d+) env steps")
_PARAMS = (
    "Trainer.total_env_steps=1_000_000_000",
    "Trainer.evaluation_interval=None",
    "Trainer.checkpoint_interval=1_000_000_000",
)


class Contest(NamedTuple):
    """What is compared.

    Attributes:
        title: of the report.
        gin_file: of ours.
        gin_params: further bindings.
        script: of the peer, beside this file.
        warm_up_steps: of the peer, before the measurement.
    """

    title: str
    gin_file: str
    script: str
    warm_up_steps: int
    gin_params: Sequence[str] = ()


def main(contest: Contest, description: str | None, env_steps: int) -> None:
    """The command line.

    Args:
        contest: what is compared.
        description: of the command line.
        env_steps: of each run, unless it is given there.
    """
    flags = common.parser(description)
    flags.add_argument("--pairs", type=int, default=5, help="runs of each, in turns")
    flags.add_argument("--env_steps", type=int, default=env_steps, help="of each run")
    flags.add_argument("--gin_param", action="append", default=[], help="a further binding for train; may be repeated")
    flags.add_argument("--and_gin_file", help="a further config of alfish, such as background_engine.gin")
    flags.add_argument("--peer_threads", type=int, default=1, help=f"torch threads of {PEER}")
    flags.add_argument("--peer_fused_adam", action="store_true")
    arguments = flags.parse_args()
    if importlib.util.find_spec("stable_baselines3") is None:
        sys.exit(f'{PEER} is not installed; install it with: pip install -c constraints.txt -e ".[bench]"')
    report = common.Report(contest.title, arguments)
    rows = []
    for pair in range(arguments.pairs):
        with tempfile.TemporaryDirectory() as folder:
            alfish = _measure_alfish(contest, pathlib.Path(folder) / "run", pair, arguments)
        peer = _measure_peer(contest, pair, arguments)
        rows.append(
            {
                "pair": pair,
                "alfish, env steps/s": alfish.per_second,
                f"{PEER}, env steps/s": peer.per_second,
                "ratio": alfish.per_second / peer.per_second,
                "alfish, per CPU second": alfish.per_cpu_second,
                f"{PEER}, per CPU second": peer.per_cpu_second,
                "ratio of these": alfish.per_cpu_second / peer.per_cpu_second,
            }
        )
    ratios, cpu_ratios = [row["ratio"] for row in rows], [row["ratio of these"] for row in rows]
    notes = [
        f"**median ratio {statistics.median(ratios):.2f}** (alfish / {PEER}), {min(ratios):.2f} to {max(ratios):.2f}",
        f"median ratio per CPU second {statistics.median(cpu_ratios):.2f}, which other programs hardly change",
        f"{PEER} {common.version(PEER)}, {arguments.peer_threads} torch thread(s), "
        f"{'fused' if arguments.peer_fused_adam else 'its default'} Adam; alfish: 1 torch thread, fused Adam",
    ]
    report.finish(rows, notes)


def _measure_alfish(contest: Contest, root_dir: pathlib.Path, seed: int, arguments: argparse.Namespace) -> common.Rate:
    params = [*_PARAMS, *contest.gin_params, *arguments.gin_param]
    flags = [f"--stop_at_env_steps={arguments.env_steps}", "--device=cpu"]
    flags += [f"--gin_file={arguments.and_gin_file}"] if arguments.and_gin_file else []
    command = common.train_command(contest.gin_file, root_dir, params, seed, flags)
    lines = common.run(command, verbose=arguments.verbose).lines
    # "saved" comes after the checkpoint at the end: a few milliseconds are counted that the other one does not spend.
    saved, match = next((line, match) for line in lines if (match := _SAVED.match(line.text)))
    return common.rate(int(match[1].replace(",", "")), common.last_line_before_training(lines), saved)


def _measure_peer(contest: Contest, seed: int, arguments: argparse.Namespace) -> common.Rate:
    script = pathlib.Path(__file__).with_name(contest.script)
    command = [sys.executable, str(script), f"--seed={seed}", f"--env_steps={arguments.env_steps}"]
    command += [f"--warm_up_steps={contest.warm_up_steps}", f"--threads={arguments.peer_threads}"]
    command += ["--fused_adam"] if arguments.peer_fused_adam else []
    lines = common.run(command, verbose=arguments.verbose).lines
    started = next(line for line in lines if line.text == "training")
    ended, match = next((line, match) for line in lines if (match := _TRAINED.match(line.text)))
    return common.rate(int(match[1]), started, ended)
