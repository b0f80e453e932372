"""The random numbers of one acting unit: a set of environments that one act-step loop steps together."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


class UnitStreams:
    """Two random streams of an acting unit: the seeds of its environments, and torch's numbers while it acts.

    A unit's numbers depend on its sequence alone, so that it collects the same rows whichever process it is in and
    whatever that process draws besides.

    Args:
        sequence: of this unit. It is not spawned from, so it may be used again.
        device: the device whose generator is swapped beside that of the CPU.
    """

    def __init__(self, sequence: np.random.SeedSequence, device: torch.device):
        for_environments, for_acting = _children(sequence)
        self._gpu = device if device.type == "cuda" else None
        self._generator = np.random.Generator(np.random.PCG64(for_environments))
        seed = int(for_acting.generate_state(1, np.uint64)[0] >> np.uint64(1))
        self._cpu_state = torch.Generator().manual_seed(seed).get_state()
        self._gpu_state = None if self._gpu is None else torch.Generator(device=self._gpu).manual_seed(seed).get_state()

    def environment_seed(self) -> int:
        """The seed of the environments' next reset."""
        return int(self._generator.integers(2**31))

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Inside, torch's global generators are those of this unit; afterwards they are as they were before."""
        with torch.random.fork_rng([] if self._gpu is None else [self._gpu]):
            torch.set_rng_state(self._cpu_state)
            if self._gpu is not None and self._gpu_state is not None:
                torch.cuda.set_rng_state(self._gpu_state, self._gpu)
            try:
                yield
            finally:
                self._cpu_state = torch.get_rng_state()
                if self._gpu is not None:
                    self._gpu_state = torch.cuda.get_rng_state(self._gpu)

    def state_dict(self) -> dict[str, Any]:
        """The states of both streams."""
        # JSON, because the 128-bit numbers of PCG64 are no tensors.
        state: dict[str, Any] = {
            "environments": json.dumps(self._generator.bit_generator.state),
            "torch_cpu": self._cpu_state.clone(),
        }
        if self._gpu_state is not None:
            state["torch_cuda"] = self._gpu_state.clone()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; a GPU's stream only where there is one, and was one."""
        self._generator.bit_generator.state = json.loads(state["environments"])
        self._cpu_state = state["torch_cpu"].cpu().clone()
        if self._gpu is not None and "torch_cuda" in state:
            self._gpu_state = state["torch_cuda"].cpu().clone()


def unit_sequence(base: np.random.SeedSequence, unit: int, restarts: int = 0) -> np.random.SeedSequence:
    """The seed sequence of a unit, from the one that all units of a run have in common.

    Args:
        base: of the run's engine.
        unit: its number, from 0.
        restarts: how often its process was lost: each time it goes on with other numbers.
    """
    key = (*base.spawn_key, unit, restarts)
    return np.random.SeedSequence(base.entropy, spawn_key=key)


def _children(sequence: np.random.SeedSequence) -> tuple[np.random.SeedSequence, np.random.SeedSequence]:
    """Two sequences that depend on `sequence` alone; `sequence.spawn` would count its calls."""
    first, second = (
        np.random.SeedSequence(sequence.entropy, spawn_key=(*sequence.spawn_key, index)) for index in range(2)
    )
    return first, second
