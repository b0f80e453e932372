"""The rows of environments that are frozen after the end of an episode."""

import numpy as np

from alfish import nest
from alfish.data_structures import StepType, TimeStep


class RepeatedRows:
    """The LAST rows of B environments, to be written again."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []

    def keep(self, which: np.ndarray, row: TimeStep) -> None:
        """Copies a row `[B, ...]` where `which` `[B]` is True."""
        leaves = _leaves(row)
        if not self._kept:
            self._kept = [leaf.copy() for leaf in leaves]
        for kept, leaf in zip(self._kept, leaves, strict=True):
            kept[which] = leaf[which]

    def write(self, which: np.ndarray, out: TimeStep) -> None:
        """Writes the kept rows where `which` `[B]` is True: LAST again, now with reward 0 and a zero `prev_action`."""
        for kept, leaf in zip(self._kept, _leaves(out), strict=True):
            leaf[which] = kept[which]
        out.step_type.numpy()[which] = StepType.LAST
        out.reward.numpy()[which] = 0.0
        for tensor in nest.leaves(out.prev_action):
            tensor.numpy()[which] = 0


def _leaves(row: TimeStep) -> list[np.ndarray]:
    return [row.discount.numpy(), *(tensor.numpy() for tensor in nest.leaves(row.observation))]
