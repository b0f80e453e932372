"""Networks that a user gives are built and tried before a run begins."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from alfish import nest, specs
from alfish.networks.encoders import Encoder
from alfish.networks.preprocessing import zeroed_state
from alfish.specs import BoundedTensorSpec, TensorSpec

_NUM_ROWS, _NUM_STEPS = 2, 3


def build_network(
    setting: str, make: Callable[..., torch.nn.Module], expected: str = "a torch.nn.Module", **arguments: Any
) -> torch.nn.Module:
    """Builds a network.

    Args:
        setting: what was set, for the message, e.g. `"PPOAlgorithm.actor_critic"`.
        make: its constructor.
        expected: what it should make, for the message.
        **arguments: what it is called with.

    Raises:
        ValueError: `make` is a network that is already built, cannot be called so, or makes something else.
    """
    if isinstance(make, torch.nn.Module):
        name = type(make).__name__
        raise ValueError(
            f"{setting} is a {name} that is already built; expected its constructor: in a gin file, write @{name} "
            "without the parentheses"
        )
    name = getattr(make, "__name__", type(make).__name__)
    try:
        network = make(**arguments)
    except ValueError as error:
        raise ValueError(f"{setting} ({name}): {_first_line(error)}") from error
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise ValueError(
            f"{setting} is {name}, which cannot be called with {', '.join(arguments)}: {_first_line(error)}; expected "
            f"what makes {expected}"
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise ValueError(f"{setting} makes a {type(network).__name__}; expected {expected}")
    return network


def takes_argument(make: Callable[..., Any], name: str) -> bool:
    """Whether a constructor, or a function, takes an argument of this name."""
    if isinstance(make, torch.nn.Module):  # already built, which `build_network` refuses
        return False
    # gin's reference to a class in a scope shows its arguments in no other place.
    return name in inspect.signature(make.__init__ if isinstance(make, type) else make).parameters  # type: ignore[misc]


def try_network(setting: str, network: torch.nn.Module, input_specs: tuple[nest.Nest, ...]) -> Any:
    """What a network returns for two rows of zeros.

    Args:
        setting: what made it, for the message, e.g. `"PPOAlgorithm.actor_critic"`.
        network: is called with one nest of tensors `[2, ...]` for each of `input_specs`.
        input_specs: the specs of its arguments.

    Raises:
        ValueError: it cannot read them.
    """
    training = network.training
    network.eval()  # zeros must leave no trace in running statistics
    try:
        with torch.no_grad():
            return network(*(specs.zeros(spec, (_NUM_ROWS,)) for spec in input_specs))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{setting}: {type(network).__name__} cannot read rows of {', '.join(map(str, input_specs))}: "
            f"{_first_line(error)}; expected a network that takes these"
        ) from error
    finally:
        network.train(training)


def check_outputs(
    setting: str,
    network: torch.nn.Module,
    input_specs: tuple[nest.Nest, ...],
    outputs: Mapping[str, tuple[int, ...]],
) -> None:
    """Tries a network on two rows of zeros: values of shape `[N, 1]` would broadcast in a loss without an error.

    Args:
        setting: what made it, for the message, e.g. `"PPOAlgorithm.actor_critic"`.
        network: is called with one nest of tensors `[2, ...]` for each of `input_specs`.
        input_specs: the specs of its arguments.
        outputs: names and shapes, without the rows, of the tensors that it should return.

    Raises:
        ValueError: it returns others, or cannot read its arguments.
    """
    returned = try_network(setting, network, input_specs)
    found = returned if isinstance(returned, (tuple, list)) else (returned,)
    shapes = [tuple(each.shape) if isinstance(each, torch.Tensor) else type(each).__name__ for each in found]
    wanted = [(_NUM_ROWS, *shape) for shape in outputs.values()]
    if shapes != wanted:
        raise ValueError(
            f"{setting}: for {_NUM_ROWS} rows {type(network).__name__} returned tensors of shape "
            f"{', '.join(map(str, shapes)) or '(nothing)'}; expected "
            f"{', '.join(f'{name} of shape {shape}' for name, shape in zip(outputs, wanted, strict=True))}"
        )


def build_encoder(setting: str, make: Callable[..., Encoder], observation_spec: nest.Nest) -> Encoder:
    """Builds an encoder and tries it: row by row and on a block, from its initial state.

    Args:
        setting: what was set, for the message, e.g. `"PPOAlgorithm.encoder"`.
        make: its constructor, called with `observation_spec`.
        observation_spec: nest of TensorSpec.

    Raises:
        ValueError: `make` makes no encoder, its features are not as its `output_spec` says, its initial state is not
            zeros, it needs an axis of time without having a memory, or `step` and `unroll` do not agree.
    """
    encoder: Any = build_network(
        setting,
        make,  # type: ignore[arg-type]
        "an Encoder, such as @IdentityEncoder or @MLPEncoder",
        observation_spec=observation_spec,
    )
    name = type(encoder).__name__
    missing = [each for each in ("output_spec", "initial_state", "step", "unroll") if not hasattr(encoder, each)]
    if missing:
        raise ValueError(f"{setting} makes a {name} without {', '.join(missing)}; expected an Encoder")
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        _try_encoder(encoder, _any_observations(observation_spec))
    encoder.train(training)
    return encoder


def _try_encoder(encoder: Any, observation: nest.Nest) -> None:
    name, state = type(encoder).__name__, encoder.initial_state(_NUM_ROWS)
    if any(bool(leaf.any()) for leaf in nest.leaves(state)):
        raise ValueError(
            f"{name}.initial_state is not zeros; expected zeros, which a block sets it to where an episode begins: "
            "add what an episode should begin with inside of step and unroll"
        )
    begins = torch.zeros(_NUM_ROWS, _NUM_STEPS, dtype=torch.bool)
    begins[1, 1] = True
    block = _unrolled(encoder, observation, state, begins, (_NUM_ROWS, _NUM_STEPS))
    first = nest.map_structure(lambda leaf: leaf[:, 0], observation)
    if not nest.leaves(state):
        _unrolled(encoder, first, (), (), (_NUM_ROWS,))
    for t in range(_NUM_STEPS):
        state = zeroed_state(state, begins[:, t])
        features, next_state = encoder.step(nest.map_structure(lambda leaf, t=t: leaf[:, t], observation), state)
        nest.check_same_structure(state, next_state, f"{name}.step's next state, beside that of initial_state")
        _check_features(encoder, "step", features, (_NUM_ROWS,))
        unrolled = nest.map_structure(lambda leaf, t=t: leaf[:, t], block)
        if not all(map(_is_close, nest.leaves(features), nest.leaves(unrolled))):
            raise ValueError(
                f"{name}.step and {name}.unroll give different features of the same rows, row {t} of a block; expected "
                "the same: what is acted on must be what is trained on, with the state zeroed where an episode begins"
            )
        state = next_state


def _unrolled(encoder: Any, observation: nest.Nest, state: nest.Nest, begins: nest.Nest, outer: tuple[int, ...]) -> Any:
    try:
        features = encoder.unroll(observation, state, begins if nest.leaves(state) else ())
    except (IndexError, RuntimeError) as error:
        raise ValueError(
            f"{type(encoder).__name__}.unroll cannot read {outer} rows: {_first_line(error)}; expected rows with any "
            "leading axes, or of an encoder with a memory [B, T]"
        ) from error
    _check_features(encoder, "unroll", features, outer)
    return features


def _first_line(error: Exception) -> str:
    # gin adds lines that say in which call it was, which here are already said.
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_features(encoder: Any, hook: str, features: nest.Nest, outer: tuple[int, ...]) -> None:
    name = type(encoder).__name__
    nest.check_same_structure(encoder.output_spec, features, f"{name}.{hook}")
    for spec, leaf in zip(nest.leaves(encoder.output_spec), nest.leaves(features), strict=True):
        if tuple(leaf.shape) != (*outer, *spec.shape):
            raise ValueError(
                f"{name}.{hook} returned features of shape {tuple(leaf.shape)} for {outer} rows; its output_spec "
                f"{spec} says {(*outer, *spec.shape)}"
            )


def _any_observations(observation_spec: nest.Nest) -> nest.Nest:
    """A block of observations that differ, as far as bounds say what they may be; the run's random numbers stay."""
    generator = torch.Generator().manual_seed(0)

    def draw(spec: TensorSpec) -> torch.Tensor:
        zeros = spec.zeros((_NUM_ROWS, _NUM_STEPS))
        if spec.dtype.is_floating_point:
            drawn = zeros.normal_(generator=generator)
            return drawn.clamp(*spec.bounds()) if isinstance(spec, BoundedTensorSpec) else drawn
        if not isinstance(spec, BoundedTensorSpec):
            return zeros
        return torch.where(torch.rand(zeros.shape, generator=generator) < 0.5, *spec.bounds())

    return nest.map_structure(draw, observation_spec)


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=1.0e-2, atol=1.0e-3, equal_nan=True)
