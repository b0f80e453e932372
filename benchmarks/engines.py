"""How fast engines collect, beside Gymnasium's AsyncVectorEnv and stable-baselines3's SubprocVecEnv.

python benchmarks/engines.py [--workloads cartpole spin atari] [--workers 1 2 4] [--envs_per_worker 4]

A row of the table is W workers with E environments each: the multi-process engine has W processes of E environments,
the background engine one with all of them, the same-process engine none; the peers have a process for each environment,
as they do. All ask the same policy (two layers of 64, or three convolutions) on one thread of the CPU for all B = W x E
environments that they step together, and store observations, actions, log-probabilities, values, rewards and ends.
Nothing is trained: engines that collect ahead have only the workers to wait for. `spin` computes for 1 ms a step.

Contenders of a row are alive together and timed in turns; cells are medians over the rounds, ratios are taken round by
round. "of W × one" is the multi-process engine's rate over W times its rate in the row of one worker: it says something
while W is not larger than the number of cores.

The last table is the act-step loop alone: environments and an algorithm that do nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import common
import engine_contenders
import numpy as np
import torch
from engine_contenders import Contender, Work
from interleaving import Times, time_in_turns

from alfish import nest, specs
from alfish.algorithms.algorithm import Algorithm
from alfish.data_structures import AlgStep, StepType, TimeStep, time_step_spec
from alfish.environments.environment import VectorEnvironment
from alfish.networks.preprocessing import ObservationTransform
from alfish.rollout.acting import experience_specs
from alfish.rollout.collector import Collector
from alfish.rollout.unit_streams import UnitStreams
from alfish.rollout.window import Window, allocate
from alfish.summary.timers import Timers

ENGINES = ("same process", "background", "multi process")
PEERS = {
    "AsyncVectorEnv": engine_contenders.gymnasium_async,
    "SubprocVecEnv": engine_contenders.stable_baselines3_subproc,
}


class IdleEnvironment(VectorEnvironment):
    """B environments that do nothing."""

    name = "idle"
    observation_spec = specs.TensorSpec((4,))
    action_spec = specs.BoundedTensorSpec((), torch.int64, 0, 1)

    def __init__(self, num_envs: int):
        self.num_envs = num_envs

    def reset(self, seed: int, out: TimeStep) -> None:
        """Says that episodes began."""
        del seed
        out.step_type.fill_(StepType.FIRST)

    def step(self, action: nest.Nest, out: TimeStep) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class IdleAlgorithm(Algorithm):
    """Answers what it has answered before; its info is as PPO's."""

    def __init__(self, observation_spec: nest.Nest, action_spec: nest.Nest, num_envs: int):
        super().__init__(observation_spec, action_spec)
        info = {"log_prob": torch.zeros(num_envs), "value": torch.zeros(num_envs)}
        self._answer = AlgStep(torch.zeros(num_envs, dtype=torch.int64), (), info)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """Does nothing."""
        return self._answer


def loop_microseconds(num_envs: int, window_length: int, windows: int) -> float:
    """Microseconds per step of all B environments that the act-step loop itself takes."""
    environment, cpu = IdleEnvironment(num_envs), torch.device("cpu")
    transform = ObservationTransform(environment.observation_spec)
    algorithm = IdleAlgorithm(transform.output_spec, environment.action_spec, num_envs)
    row_specs = time_step_spec(environment.observation_spec, environment.action_spec)
    stored = experience_specs(algorithm, transform, row_specs, num_envs, cpu)
    window = Window(allocate(stored, window_length, num_envs, 0), 0)
    streams = UnitStreams(np.random.SeedSequence(0), cpu)
    collector = Collector(environment, algorithm, transform, row_specs, cpu, streams, Timers())
    collector.collect(window)
    started = time.perf_counter()
    for _ in range(windows):
        collector.collect(window)
    return (time.perf_counter() - started) / (windows * window_length) * 1e6


def contenders_of(
    workload: str, num_workers: int, flags: argparse.Namespace, missing: dict[str, str]
) -> dict[str, Contender]:
    """All contenders that can run here; `missing` gets the reasons of the others."""
    work = Work(workload, num_workers * flags.envs_per_worker, flags.window_length, flags.windows)
    makers: dict[str, Callable[[], Contender]] = {
        kind: lambda kind=kind: engine_contenders.engine(work, kind, num_workers) for kind in ENGINES
    }
    makers |= {name: lambda make=make: make(work) for name, make in PEERS.items()}
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except (ImportError, ModuleNotFoundError) as error:
            missing[f"{name}, {workload}"] = str(error)
        except Exception as error:
            if name not in PEERS:
                raise
            missing[f"{name}, {workload}"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return made


def row(
    workload: str, num_workers: int, contenders: dict[str, Contender], times: Times, one: float | None
) -> dict[str, Any]:
    """A row of the table.

    Args:
        workload: its name.
        num_workers: W.
        contenders: of this row.
        times: of a call of each.
        one: the rate of one worker; None if this row is of one.
    """
    rows = contenders["same process"].rows
    rates = {name: None if (found := times.median(name)) is None else rows / found for name in (*ENGINES, *PEERS)}
    cells: dict[str, Any] = {"workload": workload, "W": num_workers} | rates
    best = min(ENGINES, key=lambda name: times.median(name) or 0.0)
    for name in PEERS:
        ratio = times.ratio(name, best)
        cells[f"best / {name}"] = None if ratio is None else ratio.median
    cells["of W × one"] = None if one is None else rows / (times.median("multi process") or 0.0) / (num_workers * one)
    return cells


def table(flags: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, str], list[dict[str, Any]]]:
    """The rows, what could not run, and the times of every round."""
    rows: list[dict[str, Any]] = []
    details: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for workload in flags.workloads:
        one = None
        for num_workers in flags.workers:
            contenders = contenders_of(workload, num_workers, flags, missing)
            try:
                calls = {name: contender.collect for name, contender in contenders.items()}
                times = time_in_turns(calls, flags.rounds, flags.seconds, works_ahead=True)
            finally:
                for contender in contenders.values():
                    contender.close()
            rows.append(row(workload, num_workers, contenders, times, one))
            one = rows[-1]["multi process"] if num_workers == 1 else one
            details.append({"workload": workload, "workers": num_workers, "seconds": times.rounds})
            print(rows[-1], file=sys.stderr)
    return rows, missing, details


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    flags = common.parser(__doc__, runs_commands=False)
    choices = ["cartpole", "spin", "atari"]
    flags.add_argument("--workloads", nargs="*", default=choices, choices=choices)
    flags.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    flags.add_argument("--envs_per_worker", type=int, default=4)
    flags.add_argument("--window_length", type=int, default=32)
    flags.add_argument("--windows", type=int, default=4, help="of T rows, that a timed call collects")
    flags.add_argument("--rounds", type=int, default=7)
    flags.add_argument("--seconds", type=float, default=2.0, help="of each contender in each round")
    flags.add_argument("--loop_envs", nargs="*", type=int, default=[1, 8, 64], help="B of the loop that does nothing")
    given = flags.parse_args(arguments)
    torch.set_num_threads(1)
    if given.workloads:
        report = common.Report("Environment steps per second of the engines", given)
        rows, missing, details = table(given)
        notes = [f"left out: {name}: {why}" for name, why in missing.items()]
        report.finish(rows, notes, details)
    if given.loop_envs:
        if given.out is not None:
            given.out = given.out.with_stem(f"{given.out.stem}_loop")
        report = common.Report("The act-step loop alone", given)
        loops = [
            {"B": num_envs, "µs per step": min(loop_microseconds(num_envs, 32, 300) for _ in range(given.rounds))}
            for num_envs in given.loop_envs
        ]
        report.finish(loops, ["the fastest of the rounds: what takes longer is noise of others"])


if __name__ == "__main__":
    main()
