"""The one place that writes metrics, best effort."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from absl import logging

from alfish.data_structures import Progress

Metrics = Mapping[str, float | torch.Tensor]


class Writer(Protocol):
    """Writes one summary somewhere. A writer whose place survives a restart also has the two state methods."""

    def write(self, progress: Progress, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """Writes `values`, which may be NaN or infinite, and `timing` if the place is for the eyes only."""

    def close(self) -> None:
        """Gives back what the writer holds open."""


class Summaries:
    """Hands every summary to every writer, and lets none of them stop the run.

    A writer that raises is warned about once, with its name and the cause; it is still tried the next time, since a
    disk may have room again. The other writers are not affected.

    Args:
        writers: in the order in which they write.
    """

    def __init__(self, writers: Iterable[Writer]):
        self._writers: dict[str, Writer] = {}
        counts: collections.Counter[str] = collections.Counter()
        for writer in writers:
            kind = type(writer).__name__
            counts[kind] += 1
            self._writers[kind if counts[kind] == 1 else f"{kind}_{counts[kind]}"] = writer
        self._warned: set[str] = set()

    def write(self, progress: Progress, metrics: Metrics, timing: Metrics | None = None) -> None:
        """Writes one summary.

        Args:
            progress: where the run stands.
            metrics: numbers or tensors with one element, on any device. All tensors of a device and dtype come down in
                one transfer. A value that is neither is left out, with one warning.
            timing: likewise, what was measured with a clock: `time/<phase>`, the fraction of the time that it took, and
                `time/env_steps_per_second`. It differs from run to run and is kept out of the CSV file.
        """
        values, times = self._to_floats(metrics), self._to_floats(timing or {})
        for name, writer in self._writers.items():
            try:
                writer.write(progress, values, times)
            except Exception as error:  # whatever goes wrong here is not worth a run
                self._warn_once(name, f"the summary writer {name} failed: {error!r}; training goes on")

    def close(self) -> None:
        """Closes all writers."""
        for name, writer in self._writers.items():
            try:
                writer.close()
            except Exception as error:  # as above
                self._warn_once(name, f"the summary writer {name} failed to close: {error!r}")

    def state_dict(self) -> dict[str, Any]:
        """The states of the writers that have one, by name."""
        states = {}
        for name, writer in self._writers.items():
            if hasattr(writer, "state_dict"):
                states[name] = writer.state_dict()
        return states

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hands the writers their states. A run may be resumed with other writers: a new one starts afresh."""
        for name, writer in self._writers.items():
            if name not in state or not hasattr(writer, "load_state_dict"):
                continue
            try:
                writer.load_state_dict(state[name])
            except Exception as error:  # as above
                self._warn_once(name, f"the summary writer {name} could not go on where it was: {error!r}")

    def _to_floats(self, metrics: Metrics) -> dict[str, float]:
        found: dict[str, Any] = dict(metrics)
        groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
        for name, value in metrics.items():
            if isinstance(value, torch.Tensor) and value.numel() == 1:
                groups.setdefault((value.device, value.dtype), []).append(name)
        for names in groups.values():
            together = torch.stack([found[name].detach().reshape(()) for name in names])
            found.update(zip(names, together.tolist(), strict=True))
        values = {}
        for name, value in found.items():
            try:
                values[name] = float(value)
            except (TypeError, ValueError, OverflowError, RuntimeError) as error:
                what = f"of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
                self._warn_once(
                    f"metric {name}",
                    f"the metric {name!r} is left out of the summaries: {what} is not one number ({error})",
                )
        return values

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            logging.warning("%s", message)
