"""Metrics for TensorBoard."""

import os
from collections.abc import Mapping
from typing import Any

from torch.utils import tensorboard

from alfish.data_structures import Progress


class TensorBoardWriter:
    """Writes scalars to event files; the step is the number of environment steps.

    A resumed run writes a new event file, which hides what was written after the checkpoint.

    Args:
        folder: where the event files go; made if needed.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self._folder = os.fspath(folder)
        self._writer: tensorboard.SummaryWriter | None = None
        self._newest_step = -1

    def write(self, progress: Progress, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """Writes the values and waits until they are in the file, so that an error shows here and now.

        Raises:
            OSError: they could not be written.
        """
        if self._writer is None:
            self._writer = tensorboard.SummaryWriter(self._folder, purge_step=self._newest_step + 1)
        for name, value in (*values.items(), *timing.items()):
            self._writer.add_scalar(name, value, progress.env_steps)
        self._writer.flush()
        self._newest_step = progress.env_steps

    def close(self) -> None:
        """Closes the event file. A later `write` would begin a new one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def state_dict(self) -> dict[str, Any]:
        """The newest step written; -1 if there is none."""
        return {"newest_step": self._newest_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next `write` hide everything after the step of `state_dict()`."""
        self.close()
        self._newest_step = int(state["newest_step"])
