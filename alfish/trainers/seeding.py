"""Named random streams from one seed."""

import json
import zlib
from typing import Any

import numpy as np
import torch


class RandomStreams:
    """NumPy generators by name, and torch's global generators, all from one seed.

    Each stream depends on the seed and its name only, so that adding one changes no other.

    Args:
        seed: a number of at least 0. Seeds torch's global generators too.
        device: the device whose generator is saved beside that of the CPU.

    Raises:
        ValueError: the seed is negative.
    """

    def __init__(self, seed: int, device: torch.device | None = None):
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must be a whole number of at least 0")
        self._seed = seed
        self._gpu = device if device is not None and device.type == "cuda" else None
        self._generators: dict[str, np.random.Generator] = {}
        torch.manual_seed(int(self.sequence("torch").generate_state(1)[0]))

    def sequence(self, name: str) -> np.random.SeedSequence:
        """The seed sequence of a name."""
        return np.random.SeedSequence(self._seed, spawn_key=(zlib.crc32(name.encode()),))

    def generator(self, name: str) -> np.random.Generator:
        """The generator of a name; the same object at every call."""
        if name not in self._generators:
            self._generators[name] = np.random.Generator(np.random.PCG64(self.sequence(name)))
        return self._generators[name]

    def state_dict(self) -> dict[str, Any]:
        """The state of every stream."""
        state: dict[str, Any] = {
            "seed": self._seed,
            # JSON, because the 128-bit numbers of PCG64 are no tensors.
            "numpy": {name: json.dumps(each.bit_generator.state) for name, each in self._generators.items()},
            "torch_cpu": torch.get_rng_state(),
        }
        if self._gpu is not None:
            state["torch_cuda"] = torch.cuda.get_rng_state(self._gpu)
        return state

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raises a ValueError if the state is of another seed."""
        if state["seed"] != self._seed:
            raise ValueError(
                f"the run was started with the seed {state['seed']}, not {self._seed}; give --seed={state['seed']} to "
                "go on, or another --root_dir for a new run"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores every stream. Do this last: building and loading other things draws numbers."""
        for name, text in state["numpy"].items():
            self.generator(name).bit_generator.state = json.loads(text)
        torch.set_rng_state(state["torch_cpu"].cpu())
        if self._gpu is not None and "torch_cuda" in state:
            torch.cuda.set_rng_state(state["torch_cuda"].cpu(), self._gpu)
