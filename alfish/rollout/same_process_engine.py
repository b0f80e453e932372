"""Collects in the process that trains."""

from collections.abc import Mapping
from typing import Any

import gin
import torch

from alfish.checks import check_at_least
from alfish.data_structures import Progress
from alfish.rollout.collector import Collector
from alfish.rollout.engine import Collected, EngineContext, check_pin_memory, other_engine
from alfish.rollout.unit_streams import UnitStreams, unit_sequence
from alfish.rollout.window import Window, allocate


@gin.configurable
class SameProcessEngine:
    """Collects with the learner's own algorithm while nothing else runs: always with the newest weights.

    Timeline; the engine owns the one window while it collects, and the learner until it asks for the next::

        learner  ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ train on 0 ┄┄┄┄┄┄┄┄┄┄┄┄┄ train on 1 ┄┄┄┄
        engine   collect window 0 ┄┄┄┄┄┄┄┄┄┄ collect window 1 ┄┄┄┄┄┄┄┄┄┄

    Args:
        context: see EngineContext.
        pin_memory: keeps the window in pinned host memory, for faster copies to a GPU.

    Raises:
        ValueError: the window is shorter than 1 row, or memory is to be pinned without a GPU.
    """

    owns_environments = False

    def __init__(self, context: EngineContext, pin_memory: bool = False):
        check_at_least("window_length", context.window_length, 1)
        check_pin_memory("SameProcessEngine", pin_memory, context.device)
        self.window_envs = context.num_envs
        self._pinned_for = context.device if pin_memory else None
        past_rows = context.transform.past_rows
        memory = allocate(context.stored_specs, context.window_length, context.num_envs, past_rows, pin_memory)
        self._window = Window(memory, past_rows)
        self._collector = Collector(
            context.environment,
            context.algorithm,
            context.transform,
            context.stored_specs.time_step,
            context.device,
            UnitStreams(unit_sequence(context.streams, 0), context.device),
            context.timers,
            between_rows=context.poll_others,
        )

    def collect(self, progress: Mapping[str, Progress]) -> Collected:
        """See Engine. The learner's algorithm knows its progress already."""
        del progress
        if self._pinned_for is not None:
            # What updates copy from the window to the GPU may not have been copied yet.
            torch.cuda.current_stream(self._pinned_for).synchronize()
        self._collector.collect(self._window)
        return Collected(self._window.experience)

    def poll(self) -> None:
        """See Engine."""

    def metrics(self) -> dict[str, float]:
        """See Engine."""
        return {}

    def cut(self) -> None:
        """See Engine."""
        self._collector.cut()

    def state_dict(self) -> dict[str, Any]:
        """See Engine."""
        return self._collector.state_dict()

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine."""
        if "turns" in state:
            raise other_engine(next(iter(state["turns"])).partition(".")[0], "SameProcessEngine")
        self._collector.check_state_dict(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine."""
        self._collector.load_state_dict(state)

    def close(self) -> None:
        """See Engine. The environments are closed by who made them."""
