"""Makes environments that are registered with Gymnasium."""

import contextlib
import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import gin
import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import SyncVectorEnv, VectorEnv

from alfish.checks import check_at_least
from alfish.environments import optional, workers
from alfish.environments.environment import VectorEnvironment
from alfish.environments.faults import EnvironmentFault
from alfish.environments.guarded_environment import EnvironmentMaker
from alfish.environments.gymnasium_environment import GymnasiumEnvironment

# Names that begin so are registered by an optional package: (module, extra).
_NAMESPACES = {"ALE/": ("ale_py", "atari"), "MinAtar/": ("minatar.gym", "minatar")}
# Environments whose code lives here need an extra.
_ENTRY_POINTS = {"gymnasium.envs.box2d": "box2d", "gymnasium.envs.mujoco": "mujoco"}
# Their sticky action outlives a seeded reset.
_KEEPS_STATE = ("MinAtar/",)


@gin.configurable
def make_gymnasium(
    name: str,
    num_envs: int,
    vectorization: Literal["sync", "async", "native"] = "sync",
    wrappers: Sequence[Callable[[gymnasium.Env], gymnasium.Env]] = (),
    env_kwargs: dict[str, Any] | None = None,
    time_limit: int | None = None,
    rebuild_on_reset: bool | None = None,
    render_mode: str | None = None,
    freeze_after_end: bool = False,
) -> VectorEnvironment:
    """Makes B environments that are registered with Gymnasium.

    An environment of your own needs no change here: register it, and import its module in the gin file
    (docs/adding_an_environment.md).

    Args:
        name: as registered, e.g. `"CartPole-v1"`; `"module:Name-v0"` imports the module first. `"ALE/Pong-v5"` is the
            game as ale-py registers it, with frames `(210, 160, 3)`; `make_atari` has the usual preprocessing.
        num_envs: B, at least 1.
        vectorization: `"sync"` steps one environment after the other in this process; `"async"` each in a worker
            process of its own, for environments that take a millisecond or more; `"native"` uses the environment's own
            vector implementation, whose seeds and episodes may differ from those of the single environment.
        wrappers: applied to each single environment, in this order; not with `"native"`. A wrapper that keeps
            statistics keeps them across `reset(seed)`: see `rebuild_on_reset`.
        env_kwargs: arguments of the environment's constructor.
        time_limit: steps after which an episode is truncated, instead of the registered limit. Counted inside the
            wrappers.
        rebuild_on_reset: makes the environments anew at every `reset(seed)`, for those in which something outlives a
            seeded reset; otherwise a resumed run would differ. None decides by name: True for MinAtar.
        render_mode: `"rgb_array"` to `render` them; None is faster.
        freeze_after_end: see `VectorEnvironment.freezes`; bind `Experiment.freeze_after_end`, which gives it. Not with
            `"native"`.

    Returns:
        The environments.

    Raises:
        ValueError: an argument cannot be used; the message says what can.
        MissingPackageError: an optional package is not installed; the message holds the pip line.
        EnvironmentFault: the environment could not be made.
    """
    kwargs = dict(env_kwargs or {})
    _check_choices(num_envs, time_limit, vectorization)
    spec = _find_spec(name)
    native = vectorization == "native"
    if native:
        _check_native(spec, name, wrappers, freeze_after_end)
    if rebuild_on_reset is None:
        rebuild_on_reset = name.startswith(_KEEPS_STATE)
    with _naming_missing_packages(spec):
        _check_kwargs(spec, kwargs, native)
        if time_limit is not None:
            kwargs["max_episode_steps"] = time_limit
        kwargs |= _rendering(spec, render_mode, native)
        if native:
            make = _native_maker(spec, num_envs, kwargs)
        else:
            make = _vector_maker(spec, num_envs, kwargs, wrappers, name, vectorization == "async", freeze_after_end)
        return GymnasiumEnvironment(make, name, not native, rebuild_on_reset, freezes=freeze_after_end)


def _check_choices(num_envs: int, time_limit: int | None, vectorization: str) -> None:
    check_at_least("num_envs", num_envs, 1)
    check_at_least("time_limit", 1 if time_limit is None else time_limit, 1)
    if vectorization not in ("sync", "async", "native"):
        raise ValueError(f"vectorization is {vectorization!r}; expected 'sync', 'async' or 'native'")


@contextlib.contextmanager
def _naming_missing_packages(spec: EnvSpec) -> Iterator[None]:
    try:
        yield
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        for prefix, extra in _ENTRY_POINTS.items():
            if str(spec.entry_point).startswith(prefix):
                raise optional.missing_package(extra, extra) from error
        raise EnvironmentFault(f"{spec.id!r} needs a package that is not installed: {error}") from error


def _vector_maker(
    spec: EnvSpec,
    num_envs: int,
    kwargs: dict[str, Any],
    wrappers: Sequence[Callable[[gymnasium.Env], gymnasium.Env]],
    name: str,
    in_workers: bool,
    held: bool,
) -> Callable[[], VectorEnv]:
    makers = [EnvironmentMaker(spec, kwargs, wrappers, name, i, num_envs, in_workers, held) for i in range(num_envs)]
    if in_workers:
        return lambda: workers.start(makers)
    # copy=False: its one buffer is copied into the row before the next step.
    return lambda: SyncVectorEnv(makers, copy=False)


def _check_native(
    spec: EnvSpec, name: str, wrappers: Sequence[Callable[[gymnasium.Env], gymnasium.Env]], freeze_after_end: bool
) -> None:
    if freeze_after_end:
        raise ValueError(f"the native vector environment of {name!r} cannot freeze after an episode's end; use 'sync'")
    if wrappers:
        raise ValueError(f"wrappers cannot be applied to the native vector environment of {name!r}; use 'sync'")
    if spec.namespace == "ALE":
        raise ValueError(
            f"the native vector environment of {name!r} clips rewards and stacks frames unasked; use make_atari"
        )


def _native_maker(spec: EnvSpec, num_envs: int, kwargs: dict[str, Any]) -> Callable[[], VectorEnv]:
    return lambda: gymnasium.make_vec(spec, num_envs=num_envs, vectorization_mode="vector_entry_point", **kwargs)


def _find_spec(name: str) -> EnvSpec:
    module, _, registered = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"the module {module!r} of the environment {name!r} cannot be imported: {error}; "
                "install it, or put its folder on PYTHONPATH"
            ) from error
    for prefix, (package, extra) in _NAMESPACES.items():
        if registered.startswith(prefix):
            imported = optional.require(package, extra)
            if registered not in gymnasium.registry and hasattr(imported, "register_envs"):
                imported.register_envs()
    if registered in gymnasium.registry:
        return gymnasium.registry[registered]
    lowered = {known.lower(): known for known in gymnasium.registry}
    close = difflib.get_close_matches(registered.lower(), lowered, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(repr(lowered[match]) for match in close)}?" if close else "no name is like it."
    raise ValueError(
        f"no environment {registered!r} is registered with Gymnasium; {hint} An environment of your own must be "
        "registered by a module that the gin file imports"
    )


def _rendering(spec: EnvSpec, render_mode: str | None, native: bool) -> dict[str, Any]:
    if render_mode is None:
        return {}
    creator = _creator(spec, native)
    offered = getattr(creator, "metadata", {}).get("render_modes", [])
    if render_mode not in offered and inspect.isclass(creator):
        raise ValueError(
            f"{spec.id!r} cannot be rendered: its metadata['render_modes'] is {offered}; expected {render_mode!r} in it"
        )
    return {"render_mode": render_mode}


def _creator(spec: EnvSpec, native: bool) -> Callable[..., Any]:
    entry_point = spec.vector_entry_point if native else spec.entry_point
    if entry_point is None:
        offer = "use 'sync' or 'async'" if native else "use 'native'"
        raise ValueError(f"{spec.id!r} has no {'native vector' if native else 'single'} environment; {offer}")
    return entry_point if callable(entry_point) else load_env_creator(entry_point)


def _check_kwargs(spec: EnvSpec, kwargs: dict[str, Any], native: bool) -> None:
    creator = _creator(spec, native)
    if "max_episode_steps" in kwargs:
        raise ValueError("env_kwargs has max_episode_steps; use time_limit")
    parameters = inspect.signature(creator).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [key for key in parameters if key not in ("self", "num_envs", "max_episode_steps")]
    for key in kwargs:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"env_kwargs has {key!r}, which {spec.id!r} does not take; {hint}It takes {known}")
