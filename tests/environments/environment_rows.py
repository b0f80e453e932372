"""Helpers of the environment tests: collecting rows and comparing them."""

import torch

from alfish import nest, specs
from alfish.data_structures import TimeStep, time_step_spec
from alfish.environments.environment import VectorEnvironment


def empty_row(environment: VectorEnvironment) -> TimeStep:
    """A row full of rubbish, so that what is not written shows."""
    row = specs.zeros(time_step_spec(environment.observation_spec, environment.action_spec), (environment.num_envs,))
    return nest.map_structure(lambda leaf: leaf.fill_(77), row)


def random_action(environment: VectorEnvironment, generator: torch.Generator) -> nest.Nest:
    """Uniform actions `[B, ...]`."""

    def draw(spec: specs.BoundedTensorSpec) -> torch.Tensor:
        uniform = torch.rand((environment.num_envs, *spec.shape), generator=generator)
        low, high = spec.bounds()
        values = low + uniform * (high - low + (1 if spec.is_discrete else 0))
        return values.to(spec.dtype)

    return nest.map_structure(draw, environment.action_spec)


def collect(environment: VectorEnvironment, seed: int, steps: int, action_seed: int = 0) -> list[TimeStep]:
    """`1 + steps` rows from a reset on."""
    generator = torch.Generator().manual_seed(action_seed)
    environment.reset(seed, row := empty_row(environment))
    rows = [row]
    for _ in range(steps):
        environment.step(random_action(environment, generator), row := empty_row(environment))
        rows.append(row)
    return rows


def same(left: list[TimeStep], right: list[TimeStep]) -> bool:
    """True if all rows are equal bit for bit."""
    pairs = zip(nest.leaves(left), nest.leaves(right), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def column(rows: list[TimeStep], field: str, index: int = 0) -> list[float]:
    """One field of one environment over the rows."""
    return [getattr(row, field)[index].tolist() for row in rows]
