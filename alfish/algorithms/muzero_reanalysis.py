"""Reanalysis: stored rows are searched again, with what has been learned since."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.making import check_takes
from alfish.algorithms.mcts_algorithm import MCTSAlgorithm
from alfish.algorithms.muzero_targets import Block
from alfish.checks import check_at_least
from alfish.data_structures import Progress, TimeStep
from alfish.models.mcts_model import MCTSModel
from alfish.ops.block_rows import bootstrap_rows

MONTE_CARLO = -1
"""The `td_steps` of returns to the end of the episode."""

_DIGITS = 6
"""Of a number of segments: a whole one must not become the one above or below by what is lost in a product."""

Shown = Callable[[nest.Nest, nest.Nest], nest.Nest]
"""From latents `[B, ...]` and the observations that they are of to what an algorithm over latents sees."""


def only_latent(latent: nest.Nest, observation: nest.Nest) -> nest.Nest:
    """Shows an algorithm the latents as they are."""
    del observation
    return latent


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Reanalysis:
    """Fresh policies and values for a share of each sampled batch.

    Schrittwieser et al. 2020, appendix H (MuZero Reanalyze); Schrittwieser et al. 2021, "Online and offline
    reinforcement learning by planning with a learned model". Each of the T + R rows that the targets of a segment reach
    is searched once, by the `rollout_step` of an algorithm, with the target network. Rows beyond the episode's end, and
    those at which the game is over, are not searched: nothing is learned there that a search could tell. (On a GPU they
    are: not to wait for the host is worth more there.)

    Args:
        ratio: the share of a batch's segments that is reanalysed, in [0, 1]. Where that is no whole number of segments,
            it is rounded up or down by a draw for each batch, so that the mean is right.
        algorithm: makes what searches, given both specs, `model` and `discount`: anything whose
            `rollout_step(...).info` has a `value`, and a `policy` if the policy is trained. None takes the algorithm
            that acts over the model's latents, in an Agent: PPO, say, whose value then is the target.
        td_steps: the n of the n-step returns of reanalysed segments, at least 1; -1 for Monte-Carlo returns, None for
            the learner's own. The returns are bootstrapped from the searches' values and, behind the T + R rows, from
            those of the target network.
        full: behind the T + R rows, too, they are bootstrapped from searches.
        batch_size: how many rows are searched in one call, at most; None searches them all at once.

    Raises:
        ValueError: an argument is out of its range.
    """

    ratio: float = gin.REQUIRED
    algorithm: Callable[..., Algorithm] | None = MCTSAlgorithm
    td_steps: int | None = None
    full: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio <= 1.0:
            raise ValueError(f"Reanalysis.ratio is {self.ratio}; it must be a share, in [0, 1]")
        if self.td_steps is not None:
            check_td_steps("Reanalysis.td_steps", self.td_steps)
        if self.batch_size is not None:
            check_at_least("Reanalysis.batch_size", self.batch_size, 1)
        if isinstance(self.algorithm, Algorithm):
            raise ValueError(
                f"Reanalysis.algorithm is a {type(self.algorithm).__name__} that is already built; expected its "
                "constructor: in a gin file, write @MCTSAlgorithm without the parentheses"
            )


class Found(NamedTuple):
    """What searches say of rows, `[B, L]` or `[S]`.

    Attributes:
        value: of the row.
        policy: `[..., A]`, or over candidates; `()` if no policy is trained.
        candidates: `[..., K, action]`, the actions that `policy` is over; `()` if those are all there are.
    """

    value: torch.Tensor
    policy: nest.Nest = ()
    candidates: nest.Nest = ()


class Searches(NamedTuple):
    """The searches that the segments of a block are learned from.

    Attributes:
        found: the value `[B, L]`; policy and candidates of the first N rows at least. As stored where none is fresh.
        segments: `[n]` int64, which of the batch are reanalysed; None for none.
        others: `[B - n]` int64, which are not; None for none, or all.
        fresh: `[B, L]` bool, which rows were searched again; None for none.
    """

    found: Found
    segments: torch.Tensor | None = None
    others: torch.Tensor | None = None
    fresh: torch.Tensor | None = None


class Reanalyzer:
    """Searches stored rows. The model, and an algorithm that acts, are held by reference.

    Args:
        settings: what is asked for.
        observation_spec: nest of TensorSpec.
        action_spec: of the environment.
        model: the target network, in evaluation mode.
        discount: gamma.
        train_policy: whether policies are wanted.

    Raises:
        ValueError: the algorithm cannot search rows that do not follow each other, or would have to be trained.
    """

    def __init__(
        self,
        settings: Reanalysis,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        model: MCTSModel,
        discount: float,
        train_policy: bool,
    ):
        self._settings = settings
        self._model = model
        self._train_policy = train_policy
        self._algorithm: Algorithm | None = None
        self._shown: Shown = only_latent
        if settings.algorithm is not None:
            algorithm = _make_search(settings.algorithm, observation_spec, action_spec, model, discount)
            _check_searches_any_rows(algorithm)
            _check_learns_nothing(algorithm, model)
            self._algorithm = algorithm.eval()

    def use_acting_algorithm(self, algorithm: Algorithm, shown: Shown = only_latent) -> None:
        """Takes the algorithm over latents if `Reanalysis.algorithm` is None; else does nothing.

        Args:
            algorithm: that acts over latents.
            shown: what it sees of a row.

        Raises:
            ValueError: it cannot search rows that do not follow each other.
        """
        if self._settings.algorithm is None:
            _check_searches_any_rows(algorithm)
            self._algorithm = algorithm
            self._shown = shown

    def after_train_iter(self, progress: Progress) -> None:
        """Hands the progress to an algorithm of our own."""
        if self._settings.algorithm is not None and self._algorithm is not None:
            self._algorithm.after_train_iter(progress)

    def draw(self, stored: Found) -> Searches:
        """Draws which segments of a batch are reanalysed, from torch's global generator, and how many if need be."""
        batch_size = len(stored.value)
        mean = round(self._settings.ratio * batch_size, _DIGITS)
        num_segments = math.floor(mean)
        if num_segments < mean:
            num_segments += float(torch.rand(())) < mean - num_segments
        if num_segments == 0:
            return Searches(stored)
        order = torch.randperm(batch_size, device=stored.value.device)
        return Searches(stored, order[:num_segments], order[num_segments:] if num_segments < batch_size else None)

    def search(self, block: Block, searches: Searches, horizon: int | torch.Tensor) -> Searches:
        """Searches the drawn segments of a block.

        Args:
            block: of rows as they were collected; observations as far as rows are searched.
            searches: from `draw`.
            horizon: how far returns look ahead, as for `bootstrap_rows`; read if `Reanalysis.full`.

        Returns:
            `searches` with what was found.

        Raises:
            ValueError: there is no algorithm yet, or it does not say what is needed, or says it otherwise than what is
                stored.
        """
        segments = searches.segments
        if segments is None:
            return searches
        bootstrap, width = None, block.num_rows
        if self._settings.full:
            bootstrap = bootstrap_rows(block.end_row, horizon, width)[segments]
            width = nest.leaves(block.rows.observation)[0].shape[1]
        if segments.device.type == "cpu":
            row, position = rows_to_search(block, segments, bootstrap).nonzero(as_tuple=True)
            place = (segments[row], position)
        else:
            place = every_row(segments, width)
        if len(place[0]) == 0:
            return searches
        found = self._search_rows(block.rows, place)
        stored = searches.found
        learned = nest.map_structure(lambda leaf: leaf[:, :width], (stored.policy, stored.candidates))
        stored = Found(stored.value, *learned)
        _check_alike(stored, found)
        merged = nest.map_structure(lambda old, new: old.index_put(place, new), stored, found)
        fresh = torch.zeros_like(block.over).index_put_(place, torch.ones_like(place[0], dtype=torch.bool))
        return searches._replace(found=merged, fresh=fresh)

    def _search_rows(self, rows: TimeStep, place: tuple[torch.Tensor, torch.Tensor]) -> Found:
        if self._algorithm is None:
            raise ValueError(
                "Reanalysis.algorithm is None, and no algorithm acts over latents; expected an Agent, or"
                " Reanalysis.algorithm = @MCTSAlgorithm"
            )
        algorithm, training = self._algorithm, self._algorithm.training
        if training:
            algorithm.eval()  # targets must not depend on what else is in the batch
        if self._settings.algorithm is not None:
            algorithm.to(rows.reward.device)  # it has no owner who moves it
        size = self._settings.batch_size or len(place[0])
        chunks = zip(place[0].split(size), place[1].split(size), strict=True)
        found = [self._search_chunk(algorithm, rows, chunk) for chunk in chunks]
        if training:
            algorithm.train()
        return found[0] if len(found) == 1 else nest.map_structure(lambda *leaves: torch.cat(leaves), *found)

    @torch.inference_mode()
    def _search_chunk(self, algorithm: Algorithm, rows: TimeStep, place: tuple[torch.Tensor, torch.Tensor]) -> Found:
        chunk = nest.map_structure(lambda leaf: leaf[place], rows)
        if self._settings.algorithm is None:
            latent = self._model.state_of(self._model.encode(chunk.observation))
            chunk = chunk._replace(observation=self._shown(latent, chunk.observation))
        info = algorithm.rollout_step(chunk, ()).info
        return found_in(info, self._train_policy, f"{type(algorithm).__name__}, which reanalyses,")


def check_td_steps(name: str, td_steps: int) -> None:
    """Raises a ValueError unless `td_steps` is -1 or a whole number of at least 1."""
    if td_steps != MONTE_CARLO:
        try:
            check_at_least(name, td_steps, 1)
        except ValueError as error:
            raise ValueError(f"{error}, or -1 for Monte-Carlo returns") from None


def found_in(info: nest.Nest, train_policy: bool, owner: str) -> Found:
    """Reads what targets need out of an algorithm's info, with any leading axes.

    Raises:
        ValueError: it is not there; the message begins with `owner`.
    """
    for name in ("value", "policy") if train_policy else ("value",):
        if not isinstance(getattr(info, name, ()), torch.Tensor):
            advice = (
                "; set MuzeroRepresentationImpl.train_policy = False to learn no policy" if name == "policy" else ""
            )
            raise ValueError(f"{owner} gives a {type(info).__name__} without a {name}, which targets need{advice}")
    return Found(info.value, info.policy, getattr(info, "candidates", ())) if train_policy else Found(info.value)


def rows_to_search(block: Block, segments: torch.Tensor, bootstrap: torch.Tensor | None) -> torch.Tensor:
    """Which rows of some segments of a block are searched.

    Args:
        block: the rows.
        segments: `[n]` int64, numbers in the batch.
        bootstrap: `[n, N]`, the rows at which returns from the first N rows end, if these are searched as well.

    Returns:
        `[n, L]` bool: the rows c = min(p + k, E(p)) of all starts p and k = 0 … R, and those of `bootstrap` behind
        these c, without those at which the game is over.
    """
    end_row, num_rows = block.end_row[segments], block.num_rows
    # All rows up to the last start are starts; those behind it are reached unless its episode ends before them.
    last = end_row[:, block.num_starts - 1 : block.num_starts].clamp_max(num_rows - 1)
    reached = torch.arange(end_row.shape[1], device=end_row.device) <= last
    if bootstrap is not None:
        # The first row is a start, so it may stand in for rows behind those that are not reached.
        reached = reached.scatter(1, torch.where(reached[:, :num_rows], bootstrap, 0), True)
    return reached & ~block.over[segments]


def every_row(segments: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch rows and positions, both `[n * width]`, of the first rows of segments `[n]`, without waiting for a GPU."""
    position = torch.arange(width, device=segments.device).repeat(len(segments))
    return segments.repeat_interleave(width), position


def _make_search(
    factory: Callable[..., Algorithm],
    observation_spec: nest.Nest,
    action_spec: nest.Nest,
    model: MCTSModel,
    discount: float,
) -> Algorithm:
    setting = "Reanalysis.algorithm"
    arguments = {"observation_spec": observation_spec, "action_spec": action_spec, "model": model, "discount": discount}
    advice = "expected one that searches a model, such as @MCTSAlgorithm, or None for the algorithm that acts"
    check_takes(setting, factory, arguments, "both specs, a model and a discount", advice)
    made = factory(**arguments)
    if not isinstance(made, Algorithm):
        raise ValueError(f"{setting} makes a {type(made).__name__}; {advice}")
    return made


def _check_alike(stored: Found, found: Found) -> None:
    nest.check_same_structure(stored, found, "what reanalysis finds, beside what is stored")
    for (name, old), (_, new) in zip(nest.leaves_with_paths(stored), nest.leaves_with_paths(found), strict=True):
        if old.shape[2:] != new.shape[1:] or old.dtype != new.dtype:
            raise ValueError(
                f"reanalysis finds a {name} of the shape {tuple(new.shape[1:])} and {new.dtype} for each row, stored is"
                f" one of {tuple(old.shape[2:])} and {old.dtype}; expected the same ProposalSettings.num_candidates in"
                " Reanalysis.algorithm and in the algorithm that acts"
            )


def _check_searches_any_rows(algorithm: Algorithm) -> None:
    name = type(algorithm).__name__
    if nest.leaves(algorithm.initial_state(1)):
        raise ValueError(
            f"Reanalysis.algorithm is a {name} with a recurrent state, but reanalysed rows come without the rows before"
            " them; expected an algorithm without, such as @MCTSAlgorithm"
        )
    in_turn: dict[str, str] = getattr(algorithm, "settings_in_turn", {})
    for setting, off in in_turn.items():
        raise ValueError(
            f"Reanalysis.algorithm is a {name} with {setting}, which is about the steps of one episode in turn, but"
            f" reanalysed rows come from anywhere; set Reanalysis.algorithm = @reanalysis/{name} and"
            f" reanalysis/{name}.{setting} = {off}"
        )


def _check_learns_nothing(algorithm: Algorithm, model: MCTSModel) -> None:
    known = {id(parameter) for parameter in model.parameters()}
    own = [name for name, parameter in algorithm.named_parameters() if id(parameter) not in known]
    if own:
        raise ValueError(
            f"Reanalysis.algorithm is a {type(algorithm).__name__} with parameters of its own, {own[0]} among them,"
            " which nothing would train; expected one that searches the model, or None for the algorithm that acts"
        )
