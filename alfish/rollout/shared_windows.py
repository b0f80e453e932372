"""A pool of windows in shared memory, which worker processes fill side by side."""

import torch

from alfish import nest
from alfish.data_structures import Experience
from alfish.rollout.shared_memory import carve, num_bytes_of, shared_bytes
from alfish.specs import TensorSpec


class SharedWindows:
    """Windows of E environments in one block of shared memory.

    Each worker fills its own columns of a window, so that nothing has to be put together afterwards.

    Args:
        stored_specs: the specs of one stored row.
        window_length: T.
        num_envs: E of a window.
        past_rows: how many rows before a window are kept.
        num_windows: how many there are.
        block: the memory of another process's pool; None makes its own.

    Attributes:
        block: uint8 `[num_windows, bytes]`, to be given to other processes.
        windows: `time_step` `[past+T+1, E, ...]`, the rest `[T, E, ...]`.

    Raises:
        ValueError: there is not so much shared memory, or `block` is that of other windows.
    """

    def __init__(
        self,
        stored_specs: Experience,
        window_length: int,
        num_envs: int,
        past_rows: int,
        num_windows: int,
        block: torch.Tensor | None = None,
    ):
        rows = _layout(stored_specs.time_step, (past_rows + window_length + 1, num_envs))
        layout = Experience(rows, *(_layout(field, (window_length, num_envs)) for field in stored_specs[1:]))
        leaves, structure = nest.leaves(layout), nest.structure(layout)
        size = num_bytes_of(leaves)
        self.block = shared_bytes(num_windows * size).view(num_windows, size) if block is None else block
        if self.block.shape != (num_windows, size):
            raise ValueError(
                f"a pool of {tuple(self.block.shape)} bytes is not one of {num_windows} windows of {size} bytes: the "
                "algorithm or the environments of a worker process store other rows than the learner's. They must "
                "follow from the configuration alone"
            )
        self.windows: list[Experience] = [nest.unflatten(structure, carve(slot, leaves)) for slot in self.block]
        self._pinned = False

    def pin(self) -> None:
        """Pins the memory, which makes copies to a GPU faster and lets them overlap with other work.

        Raises:
            ValueError: the GPU's driver refuses.
        """
        code = int(torch.cuda.cudart().cudaHostRegister(self.block.data_ptr(), self.block.nbytes, 1))
        if code != 0:
            raise ValueError(
                f"{self.block.nbytes / 2**20:.0f} MiB of windows cannot be pinned (CUDA error {code}); set "
                "pin_memory=False, or make the windows smaller"
            )
        self._pinned = True

    def close(self) -> None:
        """Unpins the memory. May be called twice."""
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self.block.data_ptr())
            self._pinned = False


def _layout(row_specs: nest.Nest, outer: tuple[int, ...]) -> nest.Nest:
    return nest.map_structure(lambda spec: TensorSpec((*outer, *spec.shape), spec.dtype), row_specs)
