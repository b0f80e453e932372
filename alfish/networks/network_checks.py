"""Networks that a user gives are built and tried before a run begins."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from alfish import nest, specs
from alfish.networks.encoders import Encoder

_NUM_ROWS, _NUM_STEPS = 2, 3


def build_network(setting: str, make: Callable[..., torch.nn.Module], **arguments: Any) -> torch.nn.Module:
    """Builds a network.

    Args:
        setting: what was set, for the message, e.g. `"PPOAlgorithm.actor_critic"`.
        make: its constructor.
        **arguments: what it is called with.

    Raises:
        ValueError: `make` is a network that is already built, or makes something else.
    """
    if isinstance(make, torch.nn.Module):
        name = type(make).__name__
        raise ValueError(
            f"{setting} is a {name} that is already built; expected its constructor: in a gin file, write @{name} "
            "without the parentheses"
        )
    network = make(**arguments)
    if not isinstance(network, torch.nn.Module):
        raise ValueError(f"{setting} makes a {type(network).__name__}; expected a torch.nn.Module")
    return network


def check_outputs(
    network: torch.nn.Module, input_specs: tuple[nest.Nest, ...], outputs: Mapping[str, tuple[int, ...]]
) -> None:
    """Tries a network on two rows of zeros: values of shape `[N, 1]` would broadcast in a loss without an error.

    Args:
        network: is called with one nest of tensors `[2, ...]` for each of `input_specs`.
        input_specs: the specs of its arguments.
        outputs: names and shapes, without the rows, of the tensors that it should return.

    Raises:
        ValueError: it returns others.
    """
    training = network.training
    network.eval()  # zeros must leave no trace in running statistics
    with torch.no_grad():
        returned = network(*(specs.zeros(spec, (_NUM_ROWS,)) for spec in input_specs))
    network.train(training)
    found = returned if isinstance(returned, (tuple, list)) else (returned,)
    shapes = [tuple(each.shape) if isinstance(each, torch.Tensor) else type(each).__name__ for each in found]
    wanted = [(_NUM_ROWS, *shape) for shape in outputs.values()]
    if shapes != wanted:
        raise ValueError(
            f"for {_NUM_ROWS} rows {type(network).__name__} returned tensors of shape "
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
        ValueError: `make` makes no encoder, or its features are not as its `output_spec` says.
    """
    encoder: Any = build_network(setting, make, observation_spec=observation_spec)  # type: ignore[arg-type]
    name = type(encoder).__name__
    missing = [each for each in ("output_spec", "initial_state", "step", "unroll") if not hasattr(encoder, each)]
    if missing:
        raise ValueError(f"{setting} makes a {name} without {', '.join(missing)}; expected an Encoder")
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        state = encoder.initial_state(_NUM_ROWS)
        row, next_state = encoder.step(specs.zeros(observation_spec, (_NUM_ROWS,)), state)
        begins = torch.zeros(_NUM_ROWS, _NUM_STEPS, dtype=torch.bool) if nest.leaves(state) else ()
        block = encoder.unroll(specs.zeros(observation_spec, (_NUM_ROWS, _NUM_STEPS)), state, begins)
    encoder.train(training)
    nest.check_same_structure(state, next_state, f"{name}.step's next state, beside that of initial_state")
    for hook, features, outer in (("step", row, (_NUM_ROWS,)), ("unroll", block, (_NUM_ROWS, _NUM_STEPS))):
        nest.check_same_structure(encoder.output_spec, features, f"{name}.{hook}")
        for spec, leaf in zip(nest.leaves(encoder.output_spec), nest.leaves(features), strict=True):
            if tuple(leaf.shape) != (*outer, *spec.shape):
                raise ValueError(
                    f"{name}.{hook} returned features of shape {tuple(leaf.shape)} for {outer} rows; its output_spec "
                    f"{spec} says {(*outer, *spec.shape)}"
                )
    return encoder
