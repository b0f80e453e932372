"""Configurables with every kind of parameter, and what a refused configuration says, for the tests of gin."""

import collections.abc
import dataclasses
import pickle
from typing import Any, Literal, NamedTuple, Optional

import gin
import pytest

from alfish import gin_config
from alfish.gin_config import ConfigError


@gin.configurable
class Learner:
    def __init__(
        self,
        learning_rate: float = 0.1,
        steps: "int" = 1,
        name: str = "a",
        flag: bool = False,
        limit: Optional[int] = 3,  # noqa: UP045
        width: int | None = None,
        sizes: tuple[int, ...] = (1,),
        pair: tuple[int, str] = (1, "a"),
        rates: list[float] = None,  # type: ignore[assignment]
        table: dict[str, list[int]] | None = None,
        mode: Literal["fast", "slow", 3] = "fast",
        either: int | str = 1,
        sequence: collections.abc.Sequence[str] = (),
        make: collections.abc.Callable[..., Any] | None = None,
        network: object = None,
        strange: "NotDefinedAnywhere" = None,  # type: ignore[name-defined]  # noqa: F821
        anything: Any = None,
        unannotated=None,
        priority: Literal["error", "loss"] | collections.abc.Callable[..., Any] | None = None,
        part: "Part" = None,  # type: ignore[assignment]
    ):
        self.values = dict(locals())


@gin.configurable
class Part:
    def __init__(self, size: int = gin.REQUIRED, depth=1):
        self.size = size
        self.depth = depth


@gin.configurable
class Heir(Part):
    """Inherits its constructor, which gin then wraps twice."""


@gin.configurable
@dataclasses.dataclass
class Record:
    size: int
    names: list[str] = dataclasses.field(default_factory=list)


@gin.configurable
class Pair(NamedTuple):
    left: int = 1


@gin.configurable
def make_number(value: float, *, scale: float = 1.0) -> float:
    return value * scale


def message_of(*params: str, files: tuple[str, ...] = (), strict: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        gin_config.parse(files, params, strict=strict)
    message = str(caught.value)
    assert "\n" not in message
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), ConfigError)
    assert not gin.config._CONFIG, "a refused configuration must leave nothing behind"
    return message
