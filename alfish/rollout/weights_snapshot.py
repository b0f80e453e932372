"""Weights on their way between processes: all of a module's tensors in one flat block of bytes."""

import torch

from alfish.rollout.shared_memory import carve, num_bytes_of, shared_bytes
from alfish.specs import TensorSpec


class WeightsSnapshot:
    """Slots of host memory, each for all parameters and persistent buffers of a module.

    One process writes a slot, others that have the same module read it, told by a message which one. What is not in the
    module's `state_dict` (constants, schedules) is not carried.

    Args:
        module: whose weights; on any device.
        num_slots: how many versions can be held at once.
        block: the memory of another process's snapshot; None makes its own, in shared memory.

    Attributes:
        block: uint8 `[num_slots, bytes]`, to be given to other processes.

    Raises:
        ValueError: the module's state holds something that is no tensor, or `block` belongs to another module.
    """

    def __init__(self, module: torch.nn.Module, num_slots: int = 1, block: torch.Tensor | None = None):
        self._module = module
        tensors = self._tensors()
        layout = [TensorSpec(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
        size = num_bytes_of(layout)
        self.block = shared_bytes(num_slots * size).view(num_slots, size) if block is None else block
        if self.block.shape != (num_slots, size):
            raise ValueError(
                f"a snapshot of {tuple(self.block.shape)} bytes is not one of {num_slots} versions of this "
                f"{type(module).__name__}, {size} bytes each: it was built otherwise in the other process"
            )
        self._slots = [carve(slot, layout) for slot in self.block]
        # From a GPU, one copy of everything; tensor by tensor, each would wait for the device.
        device = tensors[0].device if tensors else torch.device("cpu")
        self._flat = None if device.type == "cpu" else torch.empty(size, dtype=torch.uint8, device=device)
        self._on_device = [] if self._flat is None else carve(self._flat, layout)

    def write(self, slot: int) -> None:
        """Copies the module's weights to a slot; waits for the device."""
        with torch.no_grad():
            if self._flat is None:
                _copy(self._slots[slot], self._tensors())
            else:
                _copy(self._on_device, self._tensors())
                self.block[slot].copy_(self._flat)

    def read(self, slot: int) -> None:
        """Copies a slot to the module."""
        with torch.no_grad():
            if self._flat is None:
                _copy(self._tensors(), self._slots[slot])
            else:
                self._flat.copy_(self.block[slot])
                _copy(self._tensors(), self._on_device)

    def state(self, slot: int) -> dict[str, torch.Tensor]:
        """What lies in a slot, as a `state_dict` of the module whose tensors are the slot's own memory."""
        return dict(zip(self._module.state_dict(), self._slots[slot], strict=True))

    def _tensors(self) -> list[torch.Tensor]:
        # Asked anew each time: a module may have replaced a tensor since.
        state = self._module.state_dict()
        for name, value in state.items():
            if not isinstance(value, torch.Tensor):
                raise ValueError(
                    f"{type(self._module).__name__} keeps {name!r}, a {type(value).__name__}, in its state; only "
                    "tensors can be sent to worker processes: keep it in a buffer"
                )
        return list(state.values())


def _copy(to: list[torch.Tensor], source: list[torch.Tensor]) -> None:
    if to:  # a search over the true rules has no weights
        torch._foreach_copy_(to, source)
