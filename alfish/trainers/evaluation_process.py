"""Evaluation in a process of its own."""

import collections
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gin
import numpy as np
import torch

from alfish.checks import check_at_least
from alfish.data_structures import Progress
from alfish.rollout.device_names import device_named
from alfish.rollout.engine import apply_progress
from alfish.rollout.supervisor import RESTARTED, Supervisor
from alfish.rollout.weights_snapshot import WeightsSnapshot
from alfish.rollout.worker_process import READY, Pipe, WorkerProcess, check_start_method, messages
from alfish.trainers.evaluations import EvaluationContext, FinishedEvaluation
from alfish.trainers.evaluator import Evaluation
from alfish.trainers.experiment import Experiment
from alfish.trainers.state_checks import differences, raise_mismatch

_WAIT_SECONDS = 0.2


class _Request(NamedTuple):
    """Weights that shall be evaluated.

    Attributes:
        progress: of each training task when they were requested.
        slot: where they lie.
    """

    progress: dict[str, Progress]
    slot: int


@gin.configurable
class EvaluationProcess:
    """Evaluates while training goes on, in one worker process with environments and an algorithm of its own.

    Timeline; a request copies the weights to a slot of shared memory, which belongs to the worker, or to the queue
    before it, until its evaluation has been reported::

        learner  train ─ request 0 ─ train ─ request 1 ─ train ─ report 0 ─ train ────────── report 1 ─ train
        slots            0 written           1 written   0 free                              1 free
        worker           read 0 ─ evaluate 0 ────────── ┘ read 1 ─ evaluate 1 ────────────── ┘

    Training waits at the end of the run for what is pending then, and before it only if evaluations take longer than
    the time between two: up to `max_waiting` queue up, and one more request waits until the first is done. An
    evaluation is reported at the step that its weights are of, somewhat later than one of the same process would be;
    its results are the same (on the same kind of device). A checkpoint holds what is pending, weights included, and a
    resumed run evaluates it first.

    Args:
        context: see EvaluationContext.
        device: of the worker's algorithm, such as `"cpu"` or `"cuda:1"`.
        max_waiting: requests that wait at most, at least 1. Memory holds all weights `max_waiting + 1` times, and a
            checkpoint as often as there are pending requests.
        deadline_seconds: of one evaluation; a worker that takes longer hangs, and is started again.
        max_restarts: how often a worker that was lost is started again in a row, at least 0; see Supervisor.
        niceness: by how much the worker steps back behind other processes where all cores are busy, at least 0.
        start_method: `"forkserver"` or `"spawn"`; None takes the first that there is.

    Raises:
        ValueError: a setting is out of range, of this or of the Evaluator.
    """

    needs_configuration = True

    def __init__(
        self,
        context: EvaluationContext,
        device: str = "cpu",
        max_waiting: int = 2,
        deadline_seconds: float = 3600.0,
        max_restarts: int = 3,
        niceness: int = 10,
        start_method: str | None = None,
    ):
        check_at_least("EvaluationProcess.max_waiting", max_waiting, 1)
        check_at_least("EvaluationProcess.niceness", niceness, 0)
        check_start_method("EvaluationProcess", start_method)
        device_named("EvaluationProcess.device", device)
        # What is wrong with its settings shows now, and gin knows that they are used.
        context.experiment.evaluator(context.built, context.device).close()
        self._context = context
        num_slots = max_waiting + 1
        self._weights = WeightsSnapshot(context.built.algorithm, num_slots)
        self._free = list(range(num_slots))
        self._requests: collections.deque[_Request] = collections.deque()  # the first one is with the worker
        self._finished: list[FinishedEvaluation] = []
        arguments = (context.make_experiment, device, niceness, context.seed, num_slots, self._weights.block)
        self._supervisor = Supervisor(
            "EvaluationProcess",
            lambda worker, restarts: WorkerProcess("the evaluation process", answer_requests, arguments, start_method),
            num_workers=1,
            deadline_seconds=deadline_seconds,
            max_restarts=max_restarts,
        )

    def start(self) -> None:
        """See EvaluationRunner."""
        if self._supervisor.started:
            return
        self._supervisor.start()
        if self._requests:
            self._send(self._requests[0])

    def request(self, progress: Mapping[str, Progress]) -> None:
        """See EvaluationRunner."""
        if self._requests and self._requests[-1].progress[""].env_steps == progress[""].env_steps:
            return
        with self._context.timers.phase("evaluate"):
            while not self._free and not self._context.should_stop():
                self._receive(_WAIT_SECONDS)
            if not self._free:
                return
            request = _Request(dict(progress), self._free.pop())
            self._weights.write(request.slot)
        self._requests.append(request)
        if len(self._requests) == 1:
            self._send(request)

    def _send(self, request: _Request) -> None:
        self._supervisor.send(0, (request.slot, request.progress))

    def poll(self) -> None:
        """See EvaluationRunner. A worker that was lost is replaced; what is finished waits for `finished`."""
        if self._supervisor.due():
            with torch.inference_mode(False):  # collecting is in it; weights that are kept must not be
                self._receive(0.0)

    def finished(self, wait: bool = False) -> list[FinishedEvaluation]:
        """See EvaluationRunner."""
        self.poll()
        with self._context.timers.phase("evaluate"):
            while wait and self._requests and not self._context.should_stop():
                self._receive(_WAIT_SECONDS)
        return self.take()

    def take(self) -> list[FinishedEvaluation]:
        """See EvaluationRunner."""
        finished, self._finished = self._finished, []
        return finished

    def _receive(self, seconds: float) -> None:
        received = self._supervisor.receive(seconds)
        if received is None:
            return
        _, answer = received
        if answer != RESTARTED:
            returns, lengths = answer
            request = self._requests.popleft()
            evaluation = Evaluation(np.array(returns), np.array(lengths, dtype=np.int64))
            self._finished.append(FinishedEvaluation(request.progress[""], evaluation, self._weights_of(request)))
            self._free.append(request.slot)
        if self._requests:
            self._send(self._requests[0])

    def _weights_of(self, request: _Request) -> dict[str, torch.Tensor]:
        # A copy: the slot may be written again before the weights have been used.
        return {name: tensor.clone() for name, tensor in self._weights.state(request.slot).items()}

    def metrics(self) -> dict[str, float]:
        """See EvaluationRunner."""
        return {"restarts": float(sum(self._supervisor.restarts))}

    def state_dict(self) -> dict[str, Any]:
        """See EvaluationRunner."""
        pending = []
        for request in self._requests:
            progress = {name: list(each) for name, each in request.progress.items()}
            pending.append({"progress": progress, "weights": self._weights_of(request)})
        return {"pending": pending}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """See EvaluationRunner."""
        pending, num_slots = state["pending"], len(self._weights.block)
        if len(pending) > num_slots:
            raise ValueError(
                f"EvaluationProcess.max_waiting is {num_slots - 1}; {len(pending)} evaluations are pending in the "
                f"checkpoint: give at least {len(pending) - 1}"
            )
        for each in pending:
            rows = differences(self._context.built.algorithm, each["weights"])
            raise_mismatch("an evaluation that is pending in the checkpoint", rows)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See EvaluationRunner."""
        for pending in state["pending"]:
            progress = {name: Progress(*each) for name, each in pending["progress"].items()}
            request = _Request(progress, self._free.pop())
            for name, tensor in self._weights.state(request.slot).items():
                tensor.copy_(pending["weights"][name])
            self._requests.append(request)

    def close(self) -> None:
        """See EvaluationRunner. An evaluation that runs is given up soon: a checkpoint holds its request."""
        self._supervisor.close(seconds=0.5)


def answer_requests(
    pipe: Pipe,
    make_experiment: Callable[[], Experiment],
    device_name: str,
    niceness: int,
    seed: int,
    num_slots: int,
    block: torch.Tensor,
) -> None:
    """What the worker does: evaluates the weights of each slot that it is told, and sends returns and lengths.

    Args:
        pipe: to the learner.
        make_experiment: see EvaluationContext.
        device_name: of the algorithm.
        niceness: see EvaluationProcess.
        seed: of every evaluation.
        num_slots: of `block`.
        block: the learner's weights.
    """
    os.nice(niceness)
    experiment, device = make_experiment(), torch.device(device_name)
    built = experiment.build(1, device, for_evaluation=True)
    built.environment.close()
    evaluator = experiment.evaluator(built, device)
    try:
        weights = WeightsSnapshot(built.algorithm, num_slots, block)
        pipe.send(READY)
        for slot, progress in messages(pipe):
            weights.read(slot)
            apply_progress(built.algorithm, progress)
            evaluation = evaluator.evaluate(seed)
            pipe.send((evaluation.returns.tolist(), evaluation.lengths.tolist()))
    finally:
        evaluator.close()
