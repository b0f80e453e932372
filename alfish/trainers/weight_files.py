"""Weights of a module, in a file of their own or in a run's folder, read and written whole."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import torch

from alfish.trainers.checkpoint_files import DamagedCheckpoint, deserialize, replace_file, serialize
from alfish.trainers.checkpoint_store import CheckpointStore
from alfish.trainers.state_checks import differences, raise_mismatch
from alfish.trainers.state_nests import checksum

WEIGHTS_VERSION = 1


def save_weights(path: str | os.PathLike[str], weights: torch.nn.Module | Mapping[str, Any]) -> None:
    """Writes the state of a module; the file is either whole or not there, and the one before stays until then.

    Args:
        path: the file; its folder is made if needed.
        weights: a module, or the state of one; on any device.

    Raises:
        OSError: it could not be written; a file that was there is untouched.
    """
    path = pathlib.Path(path)
    found = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    # Clones: parameters may be parts of one block of memory, which the file would hold as a whole.
    state = {key: value.cpu().clone() if isinstance(value, torch.Tensor) else value for key, value in found.items()}
    content = {"format_version": WEIGHTS_VERSION, "sha256": checksum(state), "weights": state}
    data = serialize(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise OSError(error.errno, f"the weights could not be saved to {path}: {error.strerror}") from error


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state of a module in a file of `save_weights`, on the CPU.

    Raises:
        ValueError: there is no such file, or it is damaged (DamagedCheckpoint); it says what is wrong.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file of weights at {path}")
    content = deserialize(path, str(path))
    if not isinstance(content, dict) or not {"format_version", "sha256", "weights"} <= content.keys():
        raise DamagedCheckpoint(f"{path} holds no weights that save_weights wrote")
    if content["format_version"] != WEIGHTS_VERSION:
        raise ValueError(f"{path} has the format {content['format_version']!r}; this version reads {WEIGHTS_VERSION}")
    if content["sha256"] != checksum(content["weights"]):
        raise DamagedCheckpoint(f"{path} is damaged: its checksum differs")
    return content["weights"]


def take_weights(module: torch.nn.Module, weights: dict[str, Any], what: str) -> None:
    """Gives a module weights, all of them or nothing.

    Raises:
        CheckpointMismatch: keys or shapes are not those of the module; it begins with `what`.
    """
    raise_mismatch(what, differences(module, weights))
    module.load_state_dict(weights)


def read_run(folder: pathlib.Path) -> tuple[dict[str, Any], int | None]:
    """The weights of a run's algorithm, on the CPU.

    Args:
        folder: of the run, which may still be training.

    Returns:
        The weights of the best evaluation and None; or, if there was none yet, the newest and their environment step.

    Raises:
        ValueError: it has none yet, or they are damaged.
    """
    path = folder / "best" / "weights.pt"
    if path.is_file():
        return read_weights(path), None
    held = _Held()
    step = CheckpointStore(folder / "checkpoints").load({"algorithm": held}, on_missing="skip")
    if step is None:
        raise ValueError(f"{folder} holds no weights: the run was stopped before its first checkpoint; let it train on")
    return held.state, step


class _Held:
    """A component that takes any state, and keeps it."""

    state: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state
