"""Plays an episode and keeps the tree of every move."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.mcts_algorithm import MCTSAlgorithm
from alfish.data_structures import TimeStep
from alfish.environments.environment import VectorEnvironment
from alfish.mcts.records import SearchResult
from alfish.mcts.search_policies import PolicyOutput
from alfish.models.sampled_model import SampledLatent
from alfish.rollout.acting import Actor
from alfish.viewers.observations import observation_text, picture_of, png, shrunk
from alfish.viewers.shown_tree import EdgeLabel, Move, ShownTree, shown_tree


class Wanted(NamedTuple):
    """What is recorded of an episode.

    Attributes:
        seed: decides the episode.
        first_move: from 1; those before it are played only.
        max_moves: from there on, at most.
        simulations: of each search; None for those of the run's evaluation.
        min_visits: nodes with fewer are left out.
        depth: edges from the root that are kept; None for all.
        pictures: whether to draw what is seen.
    """

    seed: int = 0
    first_move: int = 1
    max_moves: int = 100
    simulations: int | None = None
    min_visits: int = 1
    depth: int | None = None
    pictures: bool = True


class RecordedMove(NamedTuple):
    """A move, and what is known beside it.

    Attributes:
        move: the move.
        result: of the search before it.
        simulations: of each search.
        is_last: whether it ended the episode.
    """

    move: Move
    result: SearchResult
    simulations: int
    is_last: bool


def tree_search(algorithm: Algorithm) -> MCTSAlgorithm:
    """The part of an algorithm that searches trees.

    Raises:
        ValueError: there is none.
    """
    for part in algorithm.modules():
        if isinstance(part, MCTSAlgorithm):
            return part
    raise ValueError(
        f"{type(algorithm).__name__} acts without a search, so there is no tree to look at; give a run of an algorithm "
        "that searches, such as MuzeroAlgorithm"
    )


def record(
    environment: VectorEnvironment,
    row: TimeStep,
    algorithm: Algorithm,
    actor: Actor,
    wanted: Wanted,
    unrendered: str = "",
) -> Iterator[RecordedMove]:
    """Plays one episode as `play` does; each move comes as soon as its reward is known.

    Args:
        environment: one.
        row: `[1, ...]`, into which it writes.
        algorithm: in evaluation mode.
        actor: asks it.
        wanted: what to record.
        unrendered: why the environment cannot be rendered; empty if it can.
    """
    searches = _recorded_searches(tree_search(algorithm), wanted.simulations)
    draw = _Drawing(environment, unrendered)
    torch.manual_seed(wanted.seed)
    environment.reset(wanted.seed, row)
    before, simulations = 0.0, 0
    for number in range(1, wanted.first_move + wanted.max_moves):
        is_wanted = number >= wanted.first_move
        seen = nest.map_structure(lambda leaf: leaf[0].clone(), row.observation) if is_wanted else ()
        picture = draw(seen) if is_wanted and wanted.pictures else None
        with torch.inference_mode():
            action = actor.predict(row)
        found = searches.pop()
        simulations = simulations or int(found.search.visits[0].sum())  # of the first one, which has no older visits
        # Before the next search, which may go on with this tree and change it.
        tree = _shown(algorithm, found, wanted) if is_wanted else None
        environment.step(action, row)
        reward, is_last = row.reward.item(), bool(row.is_last().item())
        if tree is not None:
            move = Move(number, tree, int(found.action[0]), reward, before, picture, observation_text(seen))
            yield RecordedMove(move, found.search, simulations, is_last)
        before += reward
        if is_last:
            return


def _recorded_searches(policy: MCTSAlgorithm, simulations: int | None) -> list[PolicyOutput]:
    """A list to which the policy from now on adds what each of its searches finds."""
    found: list[PolicyOutput] = []
    search = policy.search

    def recorded(time_step: TimeStep, explore: bool) -> PolicyOutput:
        found.append(search(time_step, explore, simulations))
        return found[-1]

    policy.search = recorded  # type: ignore[method-assign, assignment]  # all that acts with it acts as before
    return found


def _shown(algorithm: Algorithm, found: PolicyOutput, wanted: Wanted) -> ShownTree:
    latents = found.search.latents
    proposed = latents.candidates if isinstance(latents, SampledLatent) else None
    return shown_tree(
        found.search,
        min_visits=wanted.min_visits,
        max_depth=wanted.depth,
        num_actions=algorithm.action_spec.num_values if proposed is None else 0,
        label=None if proposed is None else proposal_label(proposed),
    )


def proposal_label(candidates: torch.Tensor) -> EdgeLabel:
    """Names proposed actions `[N, B, K, ...]` of tree 0 by their numbers."""
    actions = candidates[:, 0].cpu()

    def label(node: int, edge: int) -> str:
        numbers = actions[node, edge].flatten().tolist()
        return ", ".join(f"{number:.3g}" for number in numbers)

    return label


class _Drawing:
    """Draws what is seen: the observation if it is an image, else what the environment renders; None if neither is."""

    def __init__(self, environment: VectorEnvironment, unrendered: str):
        self._environment = environment
        self._unrendered = unrendered
        self._said = False

    def __call__(self, observation: nest.Nest) -> bytes | None:
        image = picture_of(observation)
        if image is None and not self._unrendered:
            try:
                image = self._environment.render()
            except ValueError as error:
                self._unrendered = str(error)
        if image is not None:
            return png(shrunk(image))
        if not self._said:
            print(f"no pictures: {self._unrendered}", file=sys.stderr)
            self._said = True
        return None
