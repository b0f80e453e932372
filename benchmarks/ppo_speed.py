"""Environment steps per second of PPO: alfish's ppo_cartpole.gin beside stable-baselines3, in turns.

python benchmarks/ppo_speed.py [--pairs 5] [--env_steps 50000]

Both have the same hyper-parameters, networks and kind of environments (all in one process), and one torch thread unless
--peer_threads says otherwise. Each run is a fresh process and trains only: no evaluation, no checkpoint before the end.
What counts is the time from the moment before the first environment step to the moment after the last update; both
have taken a gradient step before. The alfish run writes its summaries to a CSV file, TensorBoard and the console, the
other one gathers them only. `--peer_fused_adam` gives stable-baselines3 the fused Adam of ppo_cartpole.gin, which it
does not use by default.
"""

import argparse
import importlib.util
import pathlib
import re
import statistics
import sys
import tempfile

import common

_PEER = "stable-baselines3"
_SAVED = re.compile(r"saved at ([\d,]+)")
_TRAINED = re.compile(r"trained (\d+) env steps")
_WARM_UP_STEPS = 2_560
_PARAMS = ("Trainer.total_env_steps=1_000_000_000", "Trainer.evaluation_interval=None")


def main() -> None:
    flags = common.parser(__doc__)
    flags.add_argument("--pairs", type=int, default=5, help="runs of each, in turns")
    flags.add_argument("--env_steps", type=int, default=50_000, help="of each run")
    flags.add_argument("--gin_param", action="append", default=[], help="a further binding for train; may be repeated")
    flags.add_argument("--peer_threads", type=int, default=1, help=f"torch threads of {_PEER}")
    flags.add_argument("--peer_fused_adam", action="store_true")
    arguments = flags.parse_args()
    if importlib.util.find_spec("stable_baselines3") is None:
        sys.exit(f'{_PEER} is not installed; install it with: pip install -c constraints.txt -e ".[bench]"')
    report = common.Report(f"PPO on CartPole-v1: alfish beside {_PEER}", arguments)
    rows = []
    for pair in range(arguments.pairs):
        with tempfile.TemporaryDirectory() as folder:
            alfish = _measure_alfish(pathlib.Path(folder) / "run", pair, arguments)
        peer = _measure_peer(pair, arguments)
        rows.append(
            {
                "pair": pair,
                "alfish, env steps/s": alfish.per_second,
                f"{_PEER}, env steps/s": peer.per_second,
                "ratio": alfish.per_second / peer.per_second,
                "alfish, per CPU second": alfish.per_cpu_second,
                f"{_PEER}, per CPU second": peer.per_cpu_second,
                "ratio of these": alfish.per_cpu_second / peer.per_cpu_second,
            }
        )
    ratios, cpu_ratios = [row["ratio"] for row in rows], [row["ratio of these"] for row in rows]
    notes = [
        f"**median ratio {statistics.median(ratios):.2f}** (alfish / {_PEER}), {min(ratios):.2f} to {max(ratios):.2f}",
        f"median ratio per CPU second {statistics.median(cpu_ratios):.2f}, which other programs hardly change",
        f"{_PEER} {common.version(_PEER)}, {arguments.peer_threads} torch thread(s), "
        f"{'fused' if arguments.peer_fused_adam else 'its default'} Adam; alfish: 1 torch thread, fused Adam",
    ]
    report.finish(rows, notes)


def _measure_alfish(root_dir: pathlib.Path, seed: int, arguments: argparse.Namespace) -> common.Rate:
    params = [*_PARAMS, "Trainer.checkpoint_interval=1_000_000_000", *arguments.gin_param]
    flags = [f"--stop_at_env_steps={arguments.env_steps}", "--device=cpu"]
    command = common.train_command("ppo_cartpole.gin", root_dir, params, seed, flags)
    lines = common.run(command, verbose=arguments.verbose).lines
    # "saved" comes after the checkpoint at the end: a few milliseconds are counted that the other one does not spend.
    saved, match = next((line, match) for line in lines if (match := _SAVED.match(line.text)))
    return common.rate(int(match[1].replace(",", "")), common.last_line_before_training(lines), saved)


def _measure_peer(seed: int, arguments: argparse.Namespace) -> common.Rate:
    script = pathlib.Path(__file__).with_name("stable_baselines3_ppo.py")
    command = [sys.executable, str(script), f"--seed={seed}", f"--env_steps={arguments.env_steps}"]
    command += [f"--warm_up_steps={_WARM_UP_STEPS}", f"--threads={arguments.peer_threads}"]
    command += ["--fused_adam"] if arguments.peer_fused_adam else []
    lines = common.run(command, verbose=arguments.verbose).lines
    started = next(line for line in lines if line.text == "training")
    ended, match = next((line, match) for line in lines if (match := _TRAINED.match(line.text)))
    return common.rate(int(match[1]), started, ended)


if __name__ == "__main__":
    main()
