"""What an update costs as the batch and the network grow, where the time of a run goes, and what torch.compile brings.

python benchmarks/update_cost.py [--sections growth compile] [--batch_sizes 64 256 1024] [--hidden_sizes 64 256 1024]

Growth: each row is a short run of a config's command line with one thread, its batches and hidden layers changed. An
update is everything that a gradient step takes: sampling, targets, losses, backward, optimiser. Shares are those of the
whole run's time, as its summaries print them. Memory is the most that the process had resident, torch and Python
themselves included: about 300 MB.

Compile: forward and losses of the config's own update, plain and through torch.compile, on the same example batch.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import common
import gin
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alfish import gin_config
from alfish.trainers.experiment import Experiment
from alfish.trainers.trainer import Trainer

_PHASES = ("act", "search", "env", "sample", "targets", "update", "other")
_OF_AN_UPDATE = ("sample", "targets", "update")


class Subject(NamedTuple):
    """A config, and how its batches and networks are changed.

    Attributes:
        gin_file: the config.
        params: bindings for a batch size and a hidden size.
        env_steps: of a run with this batch size, and from one summary to the next.
    """

    gin_file: str
    params: Callable[[int, int], list[str]]
    env_steps: Callable[[int], tuple[int, int]]


def _ppo(batch: int, hidden: int) -> list[str]:
    return [
        f"WINDOW_LENGTH = {max(batch // 8, 8)}",
        f"MINI_BATCH_SIZE = {batch}",
        f"ActorCriticNetwork.hidden_sizes = ({hidden}, {hidden})",
    ]


def _sac(batch: int, hidden: int) -> list[str]:
    sizes = f"hidden_sizes = ({hidden}, {hidden})"
    return [f"BATCH_SIZE = {batch}", f"ActorNetwork.{sizes}", f"CriticsNetwork.{sizes}"]


def _muzero(batch: int, hidden: int) -> list[str]:
    return [
        f"BATCH_SIZE = {batch}",
        f"VectorEncoding.hidden_sizes = ({hidden},)",
        f"VectorDynamics.hidden_sizes = ({hidden}, {hidden})",
        f"VectorPrediction.hidden_sizes = ({hidden},)",
    ]


SUBJECTS = {
    "PPO": Subject("ppo_cartpole.gin", _ppo, lambda batch: (6 * max(batch, 64), max(batch, 64))),
    "SAC": Subject("sac_pendulum.gin", _sac, lambda batch: (250, 50)),
    "MuZero": Subject("muzero_cartpole.gin", _muzero, lambda batch: (800, 100)),
}


def main() -> None:
    flags = common.parser(__doc__)
    flags.add_argument("--sections", nargs="+", choices=("growth", "compile"), default=("growth", "compile"))
    flags.add_argument("--algorithms", nargs="+", choices=sorted(SUBJECTS), default=list(SUBJECTS))
    flags.add_argument("--batch_sizes", nargs="+", type=int, default=[64, 256, 1024], help="rows")
    flags.add_argument("--hidden_sizes", nargs="+", type=int, default=[64, 256, 1024], help="of every hidden layer")
    flags.add_argument("--updates", type=int, default=100, help="of a measurement of compile")
    arguments = flags.parse_args()
    torch.set_num_threads(1)
    if "growth" in arguments.sections:
        _report_growth(arguments)
    if "compile" in arguments.sections:
        _report_compile(arguments)


def _report_growth(arguments: argparse.Namespace) -> None:
    report = common.Report("The cost of an update", arguments)
    rows = [
        _growth_row(name, SUBJECTS[name], batch, hidden)
        for name in arguments.algorithms
        for batch in arguments.batch_sizes
        for hidden in arguments.hidden_sizes
    ]
    report.finish(rows, ["one thread; medians over the summaries of a run but the first"])


def _growth_row(name: str, subject: Subject, batch: int, hidden: int) -> dict[str, Any]:
    env_steps, interval = subject.env_steps(batch)
    params = [*subject.params(batch, hidden), f"TOTAL_ENV_STEPS = {env_steps}"]
    params += [f"Trainer.summary_interval = {interval}", "Trainer.evaluation_interval = None"]
    with tempfile.TemporaryDirectory() as folder:
        root_dir = pathlib.Path(folder) / "run"
        peak = _peak_memory(common.train_command(subject.gin_file, root_dir, params, 0, ["--device=cpu"]))
        summaries = phase_seconds(root_dir)
    measured = [each for each in summaries[1:] if each["updates"]]
    if not measured:
        raise SystemExit(f"{name}: no update was due between the summaries of a run of {env_steps} environment steps")
    per_update = [sum(each.get(phase, 0.0) for phase in _OF_AN_UPDATE) / each["updates"] for each in measured]
    shares = {
        phase: statistics.median(each.get(phase, 0.0) / each["seconds"] for each in measured) for phase in _PHASES
    }
    return (
        {"algorithm": name, "batch": batch, "hidden": hidden, "ms an update": 1e3 * statistics.median(per_update)}
        | {"most memory, MB": peak / 1e6}
        | {f"{phase}, %": 100.0 * share for phase, share in shares.items()}
    )


def phase_seconds(root_dir: pathlib.Path) -> list[dict[str, float]]:
    """Seconds of each phase, of the whole, and the updates, between the summaries of a run."""
    # Times are in the curves alone: the table of metrics is the same for the same seed.
    curves = EventAccumulator(str(root_dir / "tensorboard"))
    curves.Reload()
    values: dict[int, dict[str, float]] = {}
    for tag in curves.Tags()["scalars"]:
        if tag.startswith("time/"):
            for scalar in curves.Scalars(tag):
                values.setdefault(scalar.step, {})[tag.removeprefix("time/")] = scalar.value
    updates = {row["env_steps"]: row["updates"] for row in common.read_metrics(root_dir)}
    found, before = [], 0
    for env_steps in sorted(values):
        shares = values[env_steps]
        seconds = (env_steps - before) / shares.pop("env_steps_per_second")
        phases = {name: share * seconds for name, share in shares.items()}
        found.append(phases | {"seconds": seconds, "updates": updates[env_steps] - updates.get(before, 0)})
        before = env_steps
    return found


def _peak_memory(command: list[str]) -> int:
    """Runs a command with one thread; the most bytes that it had resident."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(command, cwd=common.REPOSITORY, env=environment, stdout=output, stderr=output) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            end = "".join(output.readlines()[-5:])
            raise SystemExit(f"{end}{' '.join(command)}\nexited with the code {process.returncode}")
    return usage.ru_maxrss * 1024


def _report_compile(arguments: argparse.Namespace) -> None:
    report = common.Report("Forward and losses through torch.compile", arguments)
    rows = []
    for name in arguments.algorithms:
        # A process for each: gin's bindings and torch's compiled code are global.
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(_compile_row, name, SUBJECTS[name].gin_file, arguments.updates).result())
    report.finish(rows, [f"one thread; means of {arguments.updates} updates of one batch, targets left out"])


def _compile_row(name: str, gin_file: str, updates: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    gin.clear_config()
    gin_config.parse([gin_file], [])
    trainer = Trainer(Experiment(), torch.device("cpu"))
    runner, progress = trainer.runners[0], trainer.progress
    runner.algorithm.train()
    batch = runner.batch_source.example()

    def ms_per_update() -> float:
        started = time.perf_counter()
        for _ in range(updates):
            runner.updater.update(batch, progress)
        return 1e3 * (time.perf_counter() - started) / updates

    ms_per_update()
    plain = ms_per_update()
    # No setting of a run does this: it is measured here whether one would be worth while.
    runner.updater._loss_info = torch.compile(runner.updater._loss_info)  # type: ignore[method-assign]
    started = time.perf_counter()
    compiled: float | None = None
    try:
        ms_per_update()
        compiling = time.perf_counter() - started
        compiled = ms_per_update()
        failure = None
    except Exception as error:  # whatever the compiler cannot do is the result
        compiling, failure = time.perf_counter() - started, type(error).__name__
    return {
        "algorithm": name,
        "plain, ms": plain,
        "compiled, ms": compiled,
        "plain / compiled": compiled and plain / compiled,
        "seconds of compiling": compiling,
        "failed with": failure,
    }


if __name__ == "__main__":
    main()
