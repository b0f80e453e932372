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
from alfish.rollout.engine import apply_progress
from alfish.rollout.supervisor import RESTARTED, Supervisor
from alfish.rollout.weights_snapshot import WeightsSnapshot
from alfish.rollout.worker_process import READY, Pipe, WorkerProcess, check_start_method, messages
from alfish.trainers.evaluations import EvaluationContext, FinishedEvaluation
from alfish.trainers.evaluator import Evaluation
from alfish.trainers.experiment import Experiment


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

    Training never waits, except at the end of the run for what is pending then. An evaluation is reported at the step
    that its weights are of, somewhat later than one of the same process would be, and its results are the same (on the
    same kind of device). If evaluations take longer than the time between two, up to `max_waiting` queue up; one more
    takes the place of the newest that waits, whose evaluation is left out (`evaluation/left_out`). A checkpoint holds
    what is pending, and a resumed run evaluates it first.

    Args:
        context: see EvaluationContext.
        device: of the worker's algorithm, such as `"cpu"` or `"cuda:1"`.
        max_waiting: requests that wait at most, at least 1; each is host memory for all weights.
        deadline_seconds: of one evaluation; a worker that takes longer hangs, and is started again.
        max_restarts: how often a worker that was lost is started again, at least 0.
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
        max_waiting: int = 8,
        deadline_seconds: float = 3600.0,
        max_restarts: int = 3,
        niceness: int = 10,
        start_method: str | None = None,
    ):
        check_at_least("EvaluationProcess.max_waiting", max_waiting, 1)
        check_at_least("EvaluationProcess.niceness", niceness, 0)
        check_start_method(start_method)
        # What is wrong with its settings shows now, and gin knows that they are used.
        context.experiment.evaluator(context.built, context.device).close()
        self._context = context
        num_slots = max_waiting + 1
        self._weights = WeightsSnapshot(context.built.algorithm, num_slots)
        self._free = list(range(num_slots))
        self._requests: collections.deque[_Request] = collections.deque()  # the first one is with the worker
        self._left_out = 0
        arguments = (context.make_experiment, device, niceness, context.seed, num_slots, self._weights.block)
        self._supervisor = Supervisor(
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
        if not self._free:
            self._free.append(self._requests.pop().slot)
            self._left_out += 1
        request = _Request(dict(progress), self._free.pop())
        with self._context.timers.phase("evaluate"):
            self._weights.write(request.slot)
        self._requests.append(request)
        if len(self._requests) == 1:
            self._send(request)

    def _send(self, request: _Request) -> None:
        self._supervisor.send(0, (request.slot, request.progress))

    def finished(self, wait: bool = False) -> list[FinishedEvaluation]:
        """See EvaluationRunner."""
        if not wait and not self._supervisor.due():
            return []
        finished = self._receive(0.0)
        with self._context.timers.phase("evaluate"):
            while wait and self._requests and not self._context.should_stop():
                finished += self._receive(0.2)
        return finished

    def _receive(self, seconds: float) -> list[FinishedEvaluation]:
        answer = self._supervisor.receive(seconds)
        if answer is None:
            return []
        if answer[1] == RESTARTED:
            if self._requests:
                self._send(self._requests[0])
            return []
        returns, lengths = answer[1]
        request = self._requests.popleft()
        # A copy: the slot may be written again before the weights have been used.
        weights = {name: tensor.clone() for name, tensor in self._weights.state(request.slot).items()}
        self._free.append(request.slot)
        if self._requests:
            self._send(self._requests[0])
        evaluation = Evaluation(np.array(returns), np.array(lengths, dtype=np.int64))
        return [FinishedEvaluation(request.progress[""], evaluation, weights)]

    def metrics(self) -> dict[str, float]:
        """See EvaluationRunner."""
        return {"restarts": float(sum(self._supervisor.restarts)), "left_out": float(self._left_out)}

    def state_dict(self) -> dict[str, Any]:
        """See EvaluationRunner."""
        pending = []
        for request in self._requests:
            weights = {name: tensor.clone() for name, tensor in self._weights.state(request.slot).items()}
            progress = {name: list(each) for name, each in request.progress.items()}
            pending.append({"progress": progress, "weights": weights})
        return {"pending": pending, "left_out": self._left_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See EvaluationRunner."""
        for pending in state["pending"]:
            progress = {name: Progress(*each) for name, each in pending["progress"].items()}
            if not self._free:  # it was allowed to wait for more when the checkpoint was made
                self._free.append(self._requests.pop().slot)
            slot = self._free.pop()
            for name, tensor in self._weights.state(slot).items():
                tensor.copy_(pending["weights"][name])
            self._requests.append(_Request(progress, slot))
        self._left_out = int(state.get("left_out", 0))

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
