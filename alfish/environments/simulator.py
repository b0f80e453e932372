"""True simulators: environments whose state is a value, so that a search can try actions without taking them."""

from typing import NamedTuple, Protocol

import torch

from alfish import nest
from alfish.checks import check_at_least


class SimulatorStep(NamedTuple):
    """What one action in each of B states leads to.

    Attributes:
        state: nest of `[B, ...]` with the structure, shapes and dtypes of the states that were given.
        reward: `[B]` float32, in the view of the player who acted.
        discount: `[B]` float32: 1 goes on with the same player, -1 the other player moves next, 0 ends the game. γ is
            not in it. A time limit that is part of the rules ends the game.
        legal_mask: `[B, A]` bool of the new states, True for legal actions; anything where the game has ended.
    """

    state: nest.Nest
    reward: torch.Tensor
    discount: torch.Tensor
    legal_mask: torch.Tensor


class Simulator(Protocol):
    """Rules of a game or an environment, without memory: all there is to know is in the state.

    Rows do not see each other, nothing given is changed, and the same inputs give the same answer: what is random comes
    in as numbers. A state is a nest of tensors `[B, ...]`, so it can be copied, indexed and kept like any other.
    (A simulator that must keep something for each state has a method `release(state)`, see `release_states`.)

    Attributes:
        num_actions: A.
        num_random: how many uniform numbers one step reads; 0 for deterministic rules.
    """

    num_actions: int
    num_random: int

    def initial_state(self, num: int, seed: int = 0) -> nest.Nest:
        """`num` first states, nest of `[num, ...]`; if the start is random, drawn from `seed`."""

    def step(self, state: nest.Nest, action: torch.Tensor, random: torch.Tensor) -> SimulatorStep:
        """Takes one action in each state.

        Args:
            state: nest of `[B, ...]`.
            action: `[B]` int64, 0 … A−1.
            random: `[B, num_random]` float32 in [0, 1), uniform and independent.

        Returns:
            What follows. After an illegal action, or from a state in which the game has ended, it may be anything of
            the right shapes, but must not raise: rows that ended stay in the batch, and what they answer is not used.
        """

    def legal_mask(self, state: nest.Nest) -> torch.Tensor:
        """`[B, A]` bool, True for legal actions; at least one while the game goes on."""

    def observation(self, state: nest.Nest) -> nest.Nest:
        """What a network would see, nest of `[B, ...]`; in two-player games in the view of who moves next."""


def release_states(simulator: Simulator, state: nest.Nest) -> None:
    """Says that states will not be used again. Only a simulator that keeps something for each of them listens."""
    release = getattr(simulator, "release", None)
    if release is not None:
        release(state)


def check_simulator_step(step: SimulatorStep, state: nest.Nest, action: torch.Tensor, num_actions: int) -> None:
    """Checks structure, shapes and dtypes of what a simulator answered to `state` and `action`.

    Reads no numbers, so it does not wait for a device.

    Raises:
        ValueError: names the field.
    """
    if not isinstance(step, SimulatorStep):
        raise ValueError(f"the simulator's step returned a {type(step).__name__}; expected a SimulatorStep(state, ...)")
    num = action.shape[0]
    _check_leaf("reward", step.reward, (num,), torch.float32)
    _check_leaf("discount", step.discount, (num,), torch.float32)
    _check_leaf("legal_mask", step.legal_mask, (num, num_actions), torch.bool)
    nest.check_same_structure(state, step.state, "the simulator's state after a step")
    for (path, before), after in zip(nest.leaves_with_paths(state), nest.leaves(step.state), strict=True):
        _check_leaf(f"state {path}".strip(), after, tuple(before.shape), before.dtype)


def check_simulator(simulator: Simulator, num_games: int = 16, num_steps: int = 50, seed: int = 0) -> None:
    """Plays random legal actions and checks that a simulator keeps what `Simulator` promises.

    For the tests of a simulator of your own. Checked are shapes and dtypes, finite rewards, discounts, masks, that a
    step changes nothing it was given, that the same step again gives the same, and that rows do not see each other.

    Args:
        simulator: what to check.
        num_games: B, at least 1. All begin at once; those that end leave.
        num_steps: at most so many steps.
        seed: of the first states, the actions and the random numbers.

    Raises:
        ValueError: says what was wrong, in which step and row.
    """
    check_at_least("num_games", num_games, 1)
    generator = torch.Generator().manual_seed(seed)
    state = simulator.initial_state(num_games, seed)
    for path, leaf in nest.leaves_with_paths(state):
        if not isinstance(leaf, torch.Tensor) or leaf.dim() == 0 or leaf.shape[0] != num_games:
            raise ValueError(f"the simulator's initial state {path} is {leaf!r}; expected a tensor [{num_games}, ...]")
    for time in range(num_steps):
        mask = simulator.legal_mask(state)
        num = mask.shape[0]
        _check_leaf("legal_mask", mask, (num, simulator.num_actions), torch.bool)
        _check_rows(f"legal_mask in step {time}", mask, mask.any(1), "a legal action in a state that goes on")
        action = torch.multinomial(mask.float().cpu(), 1, generator=generator).squeeze(1).to(mask.device)
        random = torch.rand(num, simulator.num_random, generator=generator).to(mask.device)
        step = _checked_step(simulator, state, action, random, time)
        goes_on = step.discount != 0
        if not goes_on.any():
            return
        state = nest.map_structure(lambda leaf, rows=goes_on: leaf[rows.to(leaf.device)], step.state)


def _checked_step(
    simulator: Simulator, state: nest.Nest, action: torch.Tensor, random: torch.Tensor, time: int
) -> SimulatorStep:
    given = {"state": state, "action": action, "random": random}
    copies = nest.map_structure(torch.clone, given)
    seen = nest.map_structure(torch.clone, simulator.observation(state))
    step = simulator.step(state, action, random)
    check_simulator_step(step, state, action, simulator.num_actions)
    for (path, after), before in zip(nest.leaves_with_paths(given), nest.leaves(copies), strict=True):
        if not torch.equal(before, after):
            raise ValueError(f"the simulator's step {time} changed what it was given ({path}); work on a copy")
    _check_same(seen, simulator.observation(state), f"the observation of the state before step {time}", "that step")
    _check_rows(f"reward in step {time}", step.reward, step.reward.isfinite(), "a finite number")
    known = (step.discount == 0) | (step.discount.abs() == 1)
    _check_rows(f"discount in step {time}", step.discount, known, "1, -1 or 0; γ is added by the search's model")
    answer = _visible(simulator, step)
    what = f"what the simulator answered in step {time}"
    again = simulator.step(state, action, random)
    _check_same(answer, _visible(simulator, again), what, "the same step again")
    flipped = nest.map_structure(lambda leaf: leaf.flip(0), (state, action, random))
    mirrored = nest.map_structure(lambda leaf: leaf.flip(0), _visible(simulator, simulator.step(*flipped)))
    _check_same(answer, mirrored, what, "the same rows in another order")
    ends = (step.discount == 0).unsqueeze(1)
    _check_same(
        step.legal_mask | ends,
        simulator.legal_mask(step.state) | ends,
        f"the legal_mask that step {time} returned",
        "legal_mask(state) of its state",
    )
    return step


def _visible(simulator: Simulator, step: SimulatorStep) -> nest.Nest:
    """A step without what is not used where the game ended. A state may be a handle: its observation stands for it."""
    goes_on = step.discount != 0
    seen = nest.map_structure(lambda leaf: leaf[goes_on.to(leaf.device)], simulator.observation(step.state))
    return {"reward": step.reward, "discount": step.discount, "mask": step.legal_mask[goes_on], "observation": seen}


def _check_same(expected: nest.Nest, actual: nest.Nest, what: str, other: str) -> None:
    nest.check_same_structure(expected, actual, what)
    for (path, left), right in zip(nest.leaves_with_paths(expected), nest.leaves(actual), strict=True):
        # Equal bit for bit cannot be asked: vectorised functions may round differently at the end of a batch.
        same = left.shape == right.shape and torch.allclose(left.double(), right.double(), equal_nan=True)
        if not same:
            raise ValueError(f"{what} is not what comes of {other} ({path or 'the whole value'} differs)")


def _check_rows(what: str, values: torch.Tensor, valid: torch.Tensor, expected: str) -> None:
    if not valid.all():
        row = int((~valid).nonzero()[0, 0])
        raise ValueError(f"the simulator's {what} is {values[row].tolist()} in row {row}; expected {expected}")


def _check_leaf(what: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != shape or tensor.dtype != dtype:
        found = f"{tensor.dtype} {list(tensor.shape)}" if isinstance(tensor, torch.Tensor) else repr(tensor)
        raise ValueError(f"the simulator's {what} is {found}; expected {dtype} {list(shape)}")
