"""Search over a stochastic model: decision nodes, where a player chooses, and chance nodes, where the world does.

Antonoglou et al. 2022, "Planning in stochastic environments with a learned model", section 4. A model of two
functions becomes one model, as `search` asks it:

    state --- action ---> afterstate --- chance outcome ---> state
            reward 0                  reward, discount,
           discount 1               prior, value of a step
          decision node              chance node              decision node

The engine does the rest: at a chance node the edges' priors are the probabilities of the outcomes, and an outcome is
taken by them alone, whatever its value. A simulation adds one node of either kind.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional

from alfish import nest
from alfish.checks import check_at_least
from alfish.mcts.records import Model, RootNode, Step


class Afterstate(NamedTuple):
    """What an action makes of a state, before chance has spoken.

    Attributes:
        latent: nest of `[B, ...]` with the structure, shapes and dtypes of a state's latent.
        value: `[B]`, expected return from here on in the view of who acted: reward and discount of the outcome are in
            it.
        outcome_logits: `[B, C]`, log-probabilities of the outcomes, normalised or not; -inf marks an impossible one.
    """

    latent: nest.Nest
    value: torch.Tensor
    outcome_logits: torch.Tensor


DecisionStep = Callable[[nest.Nest, torch.Tensor], Afterstate]
"""`(state latent [B, ...], action [B] int64 in 0 … A−1) -> Afterstate`."""

ChanceStep = Callable[[nest.Nest, torch.Tensor], Step]
"""`(afterstate latent [B, ...], outcome [B] int64 in 0 … C−1) -> Step`: a state's latent, the reward and the discount
of the whole transition, and prior logits `[B, A]`, value and player of the state; `is_chance` is None."""


class StochasticLatent(NamedTuple):
    """The latent of either kind of node.

    Attributes:
        latent: nest of `[B, ...]`, of a state or an afterstate.
        is_chance: `[B]` bool, True for an afterstate.
        to_play: `[B]` int64, who moves in a state or has moved in an afterstate; None if the model does not say.
    """

    latent: nest.Nest
    is_chance: torch.Tensor
    to_play: torch.Tensor | None


def num_edges(num_actions: int, num_outcomes: int) -> int:
    """The edges of a node of either kind, max(A, C): the A of all arrays of the search."""
    return max(num_actions, num_outcomes)


def stochastic_root(root: RootNode, num_outcomes: int) -> RootNode:
    """A root of the model itself, with logits `[B, A]`, as the root of the search that `stochastic_model` serves.

    Args:
        root: states; `prior_logits` has -inf for illegal actions.
        num_outcomes: C.

    Returns:
        The same with logits `[B, max(A, C)]`, -inf beyond A. Of what comes out of a search the first A columns count.
    """
    is_chance = torch.zeros(root.prior_logits.shape[:1], dtype=torch.bool, device=root.prior_logits.device)
    width = num_edges(root.prior_logits.shape[1], num_outcomes)
    latent = StochasticLatent(root.latent, is_chance, root.to_play)
    return root._replace(latent=latent, prior_logits=_widened(root.prior_logits, width))


def stochastic_model(
    decision_step: DecisionStep,
    chance_step: ChanceStep,
    num_actions: int,
    num_outcomes: int,
    by_mask: bool | None = None,
) -> Model:
    """One search model from the two functions of a stochastic one.

    Args:
        decision_step: from a state and an action to an afterstate.
        chance_step: from an afterstate and an outcome to a state.
        num_actions: A, at least 1.
        num_outcomes: C, at least 1.
        by_mask: False calls each function on the rows whose node needs it, and not at all if there are none. True calls
            both on all rows and takes from each what is wanted: nothing depends on numbers in the memory of the device,
            as a captured CUDA graph demands, but each function also sees rows of the wrong kind, with action or outcome
            0. None is True on a CUDA device, where False waits for the device in every simulation, and False elsewhere.

    Returns:
        A model for searches that begin at `stochastic_root`. It answers with nodes of max(A, C) edges; those beyond A
        or C are illegal. Edges into chance nodes have reward 0 and discount 1.

    Raises:
        ValueError: a size is below 1; while searching, that an answer's shapes cannot be used.
    """
    check_at_least("num_actions", num_actions, 1)
    check_at_least("num_outcomes", num_outcomes, 1)
    width = num_edges(num_actions, num_outcomes)
    unchecked = {"decision_step", "chance_step"}

    def decide(latent: StochasticLatent, action: torch.Tensor) -> Step:
        answer = decision_step(latent.latent, action)
        if "decision_step" in unchecked:
            _check_afterstate(answer, latent, len(action), num_outcomes)
            unchecked.discard("decision_step")
        return _chance_node(answer, latent.to_play, width)

    def happen(latent: StochasticLatent, outcome: torch.Tensor) -> Step:
        answer = chance_step(latent.latent, outcome)
        if "chance_step" in unchecked:
            _check_state(answer, latent, len(outcome), num_actions)
            unchecked.discard("chance_step")
        return _decision_node(answer, width)

    def step(latent: StochasticLatent, action: torch.Tensor) -> Step:
        on_all_rows = latent.is_chance.is_cuda if by_mask is None else by_mask
        return (_on_all_rows if on_all_rows else _on_own_rows)(decide, happen, latent, action)

    return step


def _on_all_rows(decide: Model, happen: Model, latent: StochasticLatent, action: torch.Tensor) -> Step:
    """Both functions on all rows, those of the wrong kind with action or outcome 0; then what each row needs."""
    is_chance = latent.is_chance
    decided = decide(latent, action.masked_fill(is_chance, 0))
    happened = happen(latent, action.masked_fill(~is_chance, 0))
    return nest.map_structure(
        lambda left, right: torch.where(is_chance.view(-1, *[1] * (left.dim() - 1)), right, left), decided, happened
    )


def _on_own_rows(decide: Model, happen: Model, latent: StochasticLatent, action: torch.Tensor) -> Step:
    """Each function on the rows whose node needs it, if there are any."""
    num_decisions = len(action) - int(latent.is_chance.sum())
    if num_decisions == len(action):
        return decide(latent, action)
    if num_decisions == 0:
        return happen(latent, action)
    order = latent.is_chance.byte().argsort(stable=True)
    ordered = nest.map_structure(lambda leaf: leaf.index_select(0, order), (latent, action))
    decided = decide(*nest.map_structure(lambda leaf: leaf[:num_decisions], ordered))
    happened = happen(*nest.map_structure(lambda leaf: leaf[num_decisions:], ordered))
    back = order.argsort()
    return nest.map_structure(lambda left, right: torch.cat((left, right)).index_select(0, back), decided, happened)


def _chance_node(answer: Afterstate, to_play: torch.Tensor | None, width: int) -> Step:
    value = answer.value
    is_chance = torch.ones_like(value, dtype=torch.bool)
    return Step(
        latent=StochasticLatent(answer.latent, is_chance, to_play),
        reward=torch.zeros_like(value),
        discount=torch.ones_like(value),
        prior_logits=_edges(answer.outcome_logits, width),
        value=value,
        to_play=to_play,
        is_chance=is_chance,
    )


def _decision_node(answer: Step, width: int) -> Step:
    is_chance = torch.zeros_like(answer.value, dtype=torch.bool)
    return answer._replace(
        latent=StochasticLatent(answer.latent, is_chance, answer.to_play),
        prior_logits=_edges(answer.prior_logits, width),
        is_chance=is_chance,
    )


def _edges(logits: torch.Tensor, width: int) -> torch.Tensor:
    if logits.shape[1] == width:
        return logits
    # The search takes all edges of a node with logits of -inf only for legal; those beyond A or C must not be.
    return _widened(logits.masked_fill((logits == -torch.inf).all(dim=1, keepdim=True), 0.0), width)


def _widened(logits: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(logits, (0, width - logits.shape[1]), value=-torch.inf)


def _check_afterstate(answer: Afterstate, latent: StochasticLatent, num: int, num_outcomes: int) -> None:
    if not isinstance(answer, Afterstate):
        raise ValueError(f"decision_step returned a {type(answer).__name__}; expected an Afterstate(latent, ...)")
    _check_shape("decision_step's value", answer.value, (num,))
    _check_shape("decision_step's outcome_logits", answer.outcome_logits, (num, num_outcomes))
    _check_latent("decision_step's latent", answer.latent, latent.latent)


def _check_state(answer: Step, latent: StochasticLatent, num: int, num_actions: int) -> None:
    if not isinstance(answer, Step):
        raise ValueError(f"chance_step returned a {type(answer).__name__}; expected a Step(latent, reward, ...)")
    if answer.is_chance is not None:
        raise ValueError("chance_step's is_chance is set; expected None: after an outcome a player chooses")
    if (answer.to_play is None) != (latent.to_play is None):
        raise ValueError("chance_step's to_play and that of the root must both be given, or both be None")
    for name in ("reward", "discount", "value"):
        _check_shape(f"chance_step's {name}", getattr(answer, name), (num,))
    _check_shape("chance_step's prior_logits", answer.prior_logits, (num, num_actions))
    _check_latent("chance_step's latent", answer.latent, latent.latent)


def _check_latent(what: str, latent: nest.Nest, given: nest.Nest) -> None:
    nest.check_same_structure(given, latent, what)
    for (path, before), after in zip(nest.leaves_with_paths(given), nest.leaves(latent), strict=True):
        _check_shape(f"{what} {path}".rstrip(), after, tuple(before.shape))
        if after.dtype != before.dtype:
            raise ValueError(f"{what} {path}".rstrip() + f" has the dtype {after.dtype}; expected {before.dtype}")


def _check_shape(what: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{what} has the shape {tuple(tensor.shape)}; expected {shape}")
