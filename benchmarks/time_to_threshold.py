"""Seconds until a mean return was reached: alfish beside stable-baselines3, in turns.

python benchmarks/time_to_threshold.py --algorithm ppo [--pairs 5] [--and_gin_file background_engine.gin]
python benchmarks/time_to_threshold.py --algorithm sac

Hyper-parameters, networks and environments are those of ppo_speed.py and sac_speed.py, with one torch thread a process.
Both play 20 episodes with the most likely actions at the same environment steps, all episodes at once, and are stopped
at the first evaluation that reaches the threshold. What counts is the time from the moment before the first environment
step until then, evaluations included; starting Python is not. stable-baselines3's callback evaluates while it collects,
before the training on the window in hand; alfish evaluates behind it.
"""

import argparse
import pathlib
import re
import statistics
import sys
import tempfile
from typing import Any, NamedTuple

import common

_PEER = "stable-baselines3"
_EVALUATION = re.compile(r".*?([\d,]+) of [\d,]+ env steps  evaluation: return (\S+)")
_PEER_EVALUATION = re.compile(r"evaluation at (\d+) env steps: return (\S+)")


class Task(NamedTuple):
    """What is learned.

    Attributes:
        gin_file: of alfish.
        script: of the peer.
        threshold: mean return.
        evaluation_interval: environment steps.
        env_steps: after which a training has failed.
    """

    gin_file: str
    script: str
    threshold: float
    evaluation_interval: int
    env_steps: int


TASKS = {
    "ppo": Task("ppo_cartpole.gin", "stable_baselines3_ppo.py", 475.0, 5_120, 100_000),
    "sac": Task("sac_pendulum.gin", "stable_baselines3_sac.py", -160.0, 500, 20_000),
}


class Reached(NamedTuple):
    """Where a training reached the threshold.

    Attributes:
        env_steps: None if it did not.
        seconds: until then, or of the whole.
    """

    env_steps: int | None
    seconds: float


def main() -> None:
    flags = common.parser(__doc__)
    flags.add_argument("--algorithm", choices=sorted(TASKS), default="ppo")
    flags.add_argument("--pairs", type=int, default=5, help="trainings of each, in turns")
    flags.add_argument("--first_seed", type=int, default=0)
    flags.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    flags.add_argument("--and_gin_file", help="a further config of alfish, such as background_engine.gin")
    arguments = flags.parse_args()
    task = TASKS[arguments.algorithm]
    report = common.Report(f"Seconds to a return of {task.threshold:g}: {task.gin_file}", arguments)
    rows = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.pairs):
        ours, peer = _train_alfish(task, seed, arguments), _train_peer(task, seed, arguments)
        rows.append(
            {
                "seed": seed,
                "alfish, env steps": ours.env_steps,
                "alfish, seconds": ours.seconds,
                f"{_PEER}, env steps": peer.env_steps,
                f"{_PEER}, seconds": peer.seconds,
                "ratio": peer.seconds / ours.seconds,
            }
        )
    report.finish(rows, _notes(rows))


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    ours, peers = (statistics.median(row[f"{name}, seconds"] for row in rows) for name in ("alfish", _PEER))
    return [
        f"median seconds: alfish {ours:.2f}, {_PEER} {peers:.2f}, **{peers / ours:.2f} times** as long",
        f"no env steps: not reached; {_PEER} {common.version(_PEER)} with its default Adam, alfish with the fused one",
    ]


def _train_alfish(task: Task, seed: int, arguments: argparse.Namespace) -> Reached:
    params = [
        f"TOTAL_ENV_STEPS={task.env_steps}",
        f"Trainer.evaluation_interval={task.evaluation_interval}",
        "Evaluator.episodes=20",
        "Trainer.checkpoint_interval=1_000_000_000",
    ]
    also = [f"--gin_file={arguments.and_gin_file}"] if arguments.and_gin_file else []
    with tempfile.TemporaryDirectory() as folder:
        command = common.train_command(
            task.gin_file, pathlib.Path(folder) / "run", params, seed, [*also, "--device=cpu"]
        )
        lines, reached = _until_reached(command, task, _EVALUATION, arguments)
    return _between(common.last_line_before_training(lines), reached, lines)


def _train_peer(task: Task, seed: int, arguments: argparse.Namespace) -> Reached:
    script = pathlib.Path(__file__).with_name(task.script)
    command = [sys.executable, str(script), f"--seed={seed}", f"--env_steps={task.env_steps}"]
    command += [f"--threads={arguments.threads}", f"--threshold={task.threshold}", "--episodes=20"]
    command.append(f"--evaluation_interval={task.evaluation_interval}")
    lines, reached = _until_reached(command, task, _PEER_EVALUATION, arguments)
    return _between(next(line for line in lines if line.text == "training"), reached, lines)


def _until_reached(
    command: list[str], task: Task, evaluation: re.Pattern[str], arguments: argparse.Namespace
) -> tuple[list[common.Line], Reached | None]:
    """Runs a training until an evaluation reaches the threshold: its lines, and the seconds since it was started."""
    found: list[Reached] = []

    def has_reached(line: common.Line) -> bool:
        match = evaluation.match(line.text)
        if match is None or float(match[2]) < task.threshold:
            return False
        found.append(Reached(int(match[1].replace(",", "")), line.seconds))
        return True

    variables = {"OMP_NUM_THREADS": str(arguments.threads)}
    lines = common.run(command, has_reached, arguments.verbose, variables=variables).lines
    return lines, found[0] if found else None


def _between(first: common.Line, reached: Reached | None, lines: list[common.Line]) -> Reached:
    """The seconds since a line, until the threshold was reached or to the end."""
    if reached is None:
        return Reached(None, lines[-1].seconds - first.seconds)
    return reached._replace(seconds=reached.seconds - first.seconds)


if __name__ == "__main__":
    main()
