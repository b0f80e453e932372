"""Answering rows: the part of the act-step loop that every engine, the evaluator and `play` share."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from alfish import nest, specs
from alfish.algorithms.algorithm import Algorithm
from alfish.data_structures import AlgStep, Experience, StepType, TimeStep
from alfish.networks.preprocessing import ObservationTransform
from alfish.rollout.window import Answers


class Actor:
    """Follows B environments row by row: moves a row to the device, transforms it, asks the algorithm, keeps the state.

    Call it in inference mode.

    Args:
        algorithm: answers the rows; must be on `device`.
        transform: from stored to seen observations.
        num_envs: B.
        device: where the algorithm is.
    """

    def __init__(self, algorithm: Algorithm, transform: ObservationTransform, num_envs: int, device: torch.device):
        self._algorithm = algorithm
        self._transform = transform
        self._device = device
        self._initial_state = nest.map_structure(
            lambda leaf: leaf.to(device), (algorithm.initial_state(num_envs), transform.initial_state(num_envs, device))
        )
        self._needs_begins = bool(nest.leaves(self._initial_state)) or not transform.is_identity
        self._state, self._transform_state = self._initial_state
        self._follows_last = torch.ones(num_envs, dtype=torch.bool, device=device)

    def rollout(self, row: TimeStep) -> Answers:
        """Answers host rows `[B]` by `rollout_step`."""
        state_before, step = self._step(self._algorithm.rollout_step, row)
        return Answers(step.output, step.info, state_before)

    def predict(self, row: TimeStep) -> nest.Nest:
        """Answers host rows `[B]` by `predict_step`: the actions on the host."""
        _, step = self._step(self._algorithm.predict_step, row)
        return self.to_host(step.output)

    def to_host(self, action: nest.Nest) -> nest.Nest:
        """The actions as CPU tensors. On a GPU this is the one synchronisation of a step: the environment must know."""
        if self._device.type == "cpu":
            return action
        return nest.map_structure(lambda leaf: leaf.cpu(), action)

    def _step(self, hook: Callable[[TimeStep, nest.Nest], AlgStep], row: TimeStep) -> tuple[nest.Nest, AlgStep]:
        if self._device.type != "cpu":
            row = nest.map_structure(lambda leaf: leaf.to(self._device, non_blocking=True), row)
        state: nest.Nest = ()
        if self._needs_begins:
            begins = row.is_first() | self._follows_last
            self._follows_last = row.is_last()
            state = _where_begins(begins, self._initial_state[0], self._state)
            observation, self._transform_state = self._transform.step(row.observation, self._transform_state, begins)
            row = row._replace(observation=observation)
        step = hook(row, state)
        self._state = step.state
        return state, step

    def state_dict(self) -> dict[str, Any]:
        """The recurrent state, the transform's state, and where the row before was LAST."""
        held = nest.map_structure(torch.clone, (self._state, self._transform_state))
        return {"held": nest.leaves(held), "follows_last": self._follows_last.clone()}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raises a ValueError if the state is of another recurrent network or another number of environments."""
        expected = [tuple(leaf.shape) for leaf in nest.leaves(self._initial_state)]
        found = [tuple(leaf.shape) for leaf in state["held"]]
        if expected != found:
            raise ValueError(
                f"the checkpoint's acting states have the shapes {found}, this run's have {expected}; use the "
                "configuration of the run that wrote it, or begin a new run in another folder"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        held = [leaf.to(self._device) for leaf in state["held"]]
        self._state, self._transform_state = nest.unflatten(nest.structure(self._initial_state), held)
        self._follows_last = state["follows_last"].to(self._device)


def random_numbers_kept(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """A context after which torch's generators, of the CPU and of `device`, are as they were before."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def blank_rows(row_specs: TimeStep, num_envs: int) -> TimeStep:
    """Host rows `[B]` of zeros that any algorithm can answer, before there are real ones.

    They are LAST rows: at an episode's end no action need be legal, as none is in a mask of zeros.

    Args:
        row_specs: the specs of a TimeStep.
        num_envs: B.
    """
    rows: TimeStep = specs.zeros(row_specs, (num_envs,))
    rows.step_type.fill_(StepType.LAST)
    return rows


def experience_specs(
    algorithm: Algorithm, transform: ObservationTransform, row_specs: TimeStep, num_envs: int, device: torch.device
) -> Experience:
    """The specs of one stored row: found by answering a row of zeros, with no random number taken from the run.

    Args:
        algorithm: whose `rollout_step` decides what is stored.
        transform: from stored to seen observations.
        row_specs: the specs of a TimeStep.
        num_envs: B.
        device: where the algorithm is.
    """
    training = algorithm.training
    algorithm.eval()
    with torch.inference_mode(), random_numbers_kept(device):
        answer = Actor(algorithm, transform, num_envs, device).rollout(blank_rows(row_specs, num_envs))
    algorithm.train(training)
    return Experience(row_specs, *specs.spec_of(answer, outer_dims=1))


def _where_begins(begins: torch.Tensor, initial: nest.Nest, state: nest.Nest) -> nest.Nest:
    return nest.map_structure(
        lambda start, kept: torch.where(begins.view(-1, *[1] * (kept.ndim - 1)), start, kept), initial, state
    )
