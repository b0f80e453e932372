"""Weights of another run, to begin with."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import gin
import torch

from alfish.trainers.state_checks import MISSING, NOT_EXPECTED, Difference, describe, raise_mismatch
from alfish.trainers.weight_files import read_run, read_weights

MAX_PREFIXES = 10


@gin.configurable
class InitialWeights:
    """Takes weights from another run, all of them or one part.

    The weights whose names begin with `prefix` are taken, and it is replaced by `into_prefix`. With
    `prefix = "representation.model."` and `into_prefix = "representation.impl.model."` what MuzeroAlgorithm has learned
    becomes the representation of an Agent. Together they must be all the weights below `into_prefix`, in their shapes.

    Args:
        path: of a run's folder, whose best weights are taken, or its newest if it has not evaluated yet; or of a file
            `weights.pt`.
        prefix: of names in the other run; all names by default.
        into_prefix: what it becomes in this run; several give each the same weights, as a network and its target
            network need them. None leaves it as it is.
    """

    def __init__(self, path: str = gin.REQUIRED, prefix: str = "", into_prefix: str | Sequence[str] | None = None):
        self._path = pathlib.Path(path).expanduser()
        self._prefix = prefix
        into_prefix = prefix if into_prefix is None else into_prefix
        self._into_prefixes = [into_prefix] if isinstance(into_prefix, str) else list(into_prefix)

    def __call__(self, module: torch.nn.Module) -> None:
        """Writes the weights into a module.

        Raises:
            ValueError: the weights cannot be read, or do not fit. Nothing has been changed then.
        """
        stored = self._read()
        taken = _below(self._prefix, stored)
        if not taken:
            raise ValueError(
                f"InitialWeights.prefix is {self._prefix!r}, but no weight in {self._path} begins so; expected one of "
                f"{_prefixes(stored)}"
            )
        state = module.state_dict()
        for prefix in self._into_prefixes:
            self._check(prefix, taken, _below(prefix, state), state)
            state |= {f"{prefix}{name}": value for name, value in taken.items()}
        module.load_state_dict(state)

    def _read(self) -> dict[str, Any]:
        try:
            return read_run(self._path)[0] if self._path.is_dir() else read_weights(self._path)
        except ValueError as error:
            raise ValueError(
                f"InitialWeights.path is {str(self._path)!r}: {error}; set InitialWeights.path to the folder of a run "
                "that has saved weights, or to a file weights.pt"
            ) from error

    def _check(self, prefix: str, taken: dict[str, Any], own: dict[str, Any], state: Iterable[str]) -> None:
        if not own:
            raise ValueError(
                f"InitialWeights.into_prefix is {prefix!r}, but no weight of this run begins so; expected one of "
                f"{_prefixes(state)}"
            )
        rows = []
        for name in sorted(own.keys() | taken.keys()):
            expected = describe(own[name]) if name in own else NOT_EXPECTED
            found = describe(taken[name]) if name in taken else MISSING
            if expected != found:
                rows.append(Difference(f"{prefix}{name}", expected, found))
        raise_mismatch(f"InitialWeights: what begins with {self._prefix!r} in {self._path}", rows)


def _below(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _prefixes(names: Iterable[str]) -> str:
    """The beginnings of names, as deep as there are few of them."""
    names = list(names)
    shown: list[str] = []
    for depth in range(1, 5):
        deeper = sorted({".".join([*name.split(".")[:depth], ""]) for name in names if name.count(".") >= depth})
        if len(shown) + len(deeper) > MAX_PREFIXES:
            break
        shown += deeper
    return ", ".join(map(repr, sorted(shown))) or "''"
