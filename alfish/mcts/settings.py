"""How a search chooses, as small records that gin can make."""

import dataclasses
import functools
import math
from typing import Literal

import gin
import numpy as np
import torch

from alfish.mcts import rule
from alfish.mcts.rule import LARGEST_Q, Rule

LARGEST_WEIGHT = 1e9
"""Of constants that scores are made of: far above all that makes sense, far below where float32 overflows."""


def check_setting(owner: object, name: str, valid: object, expected: str) -> None:
    """Raises a ValueError that names the setting, unless it is valid."""
    if not valid:
        raise ValueError(f"{type(owner).__name__}.{name} is {getattr(owner, name)!r}; expected {expected}")


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def _check_exploration(settings: "Puct | RegularisedPolicy") -> None:
    unvisited = settings.unvisited_value
    valid = unvisited in ("parent", "siblings") if isinstance(unvisited, str) else abs(unvisited) <= LARGEST_WEIGHT
    check_setting(settings, "unvisited_value", valid, 'a number within ±1e9, "parent" or "siblings"')
    check_setting(settings, "c2", 1e-9 <= settings.c2 < math.inf, "a finite number of at least 1e-9")


def _check_value_pressure(settings: "ImprovedPolicy | SequentialHalving") -> None:
    for name in ("visit_offset", "value_scale"):
        check_setting(settings, name, 0 <= getattr(settings, name) <= LARGEST_WEIGHT, "a number in [0, 1e9]")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Puct:
    """PUCT (Schrittwieser et al. 2020, https://arxiv.org/abs/1911.08265, appendix B, equation 2).

        argmax_a  Q̄(s, a) + P(s, a) · √n(s) / (1 + n(s, a)) · (c1 + log((n(s) + c2 + 1) / c2))

    Q̄ is Q scaled to [0, 1] (`SearchSettings.value_range`). n(s) counts the evaluation of s itself, so
    n(s) = 1 + Σ n(s, b). At the root the paper's pseudocode counts Σ n(s, b) only, and its first simulation cannot see
    the prior; ours can.

    Args:
        c1: weight of the prior, at least 0.
        c2: visits at which the prior's weight begins to grow, above 0.
        unvisited_value: Q̄ of an action that was not visited: a number (0 in the paper), "parent" for the value of s,
            scaled and clipped to [0, 1], or "siblings" for the mean Q̄ of the visited actions, 0 if there is none.
    """

    c1: float = 1.25
    c2: float = 19652.0
    unvisited_value: float | Literal["parent", "siblings"] = 0.0

    def __post_init__(self) -> None:
        check_setting(self, "c1", 0 <= self.c1 <= LARGEST_WEIGHT, "a number in [0, 1e9]")
        _check_exploration(self)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ImprovedPolicy:
    """Gumbel MuZero's rule below the root.

    Danihelka et al. 2022, "Policy improvement by planning with Gumbel", https://openreview.net/forum?id=bERaNdoegnO,
    section 5:

        argmax_a  π'(a) - n(a) / (1 + Σ n),   π' = softmax(logits + (visit_offset + max n) · value_scale · Q̄)

    An unvisited action counts with the mixed value of appendix D. Deterministic: the visits follow π'. At the root it
    explores without noise.

    Args:
        visit_offset: c_visit, at least 0.
        value_scale: c_scale, at least 0. The paper takes 1 for Go and chess and 0.1 where values are scaled over a
            wide range.
    """

    visit_offset: float = 50.0
    value_scale: float = 0.1

    def __post_init__(self) -> None:
        _check_value_pressure(self)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SequentialHalving:
    """Gumbel MuZero's rule at the root (Danihelka et al. 2022, algorithm 2): only at the root.

    The `max_considered` legal actions with the largest Gumbel noise plus logit are visited equally often, then the
    better half of them, and so on; better by noise + logit + (visit_offset + max n) · value_scale · Q̄.

    Args:
        max_considered: m, at least 1; rows with fewer legal actions consider those.
        visit_offset: c_visit, at least 0.
        value_scale: c_scale, at least 0.
    """

    max_considered: int = 16
    visit_offset: float = 50.0
    value_scale: float = 0.1

    def __post_init__(self) -> None:
        check_setting(self, "max_considered", _is_count(self.max_considered), "a whole number of at least 1")
        _check_value_pressure(self)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RegularisedPolicy:
    """The regularised policy (Grill et al. 2020, https://arxiv.org/abs/2007.12509, section 3).

        π̄(a) = λ P(a) / (α - Q̄(a)),  Σ π̄ = 1,   λ = √n(s) · (c1 + log((n(s) + c2 + 1) / c2)) / (|A| + Σ n)

    |A| are the legal actions, and n(s) = 1 + Σ n where the paper writes Σ n: with 0 there, a new node would not see its
    prior.

    Args:
        c1: weight of the prior, above 0.
        c2: visits at which the prior's weight begins to grow, above 0.
        unvisited_value: as in `Puct`.
        sampled: if True each simulation draws its action from π̄ (the paper's SEARCH), else it takes the argmax of
            π̄(a) - n(a) / (1 + Σ n), so that the visits follow π̄ without noise.
    """

    c1: float = 1.25
    c2: float = 19652.0
    unvisited_value: float | Literal["parent", "siblings"] = "parent"
    sampled: bool = True

    def __post_init__(self) -> None:
        check_setting(self, "c1", 0 < self.c1 <= LARGEST_WEIGHT, "a number above 0, at most 1e9")
        _check_exploration(self)


InteriorRule = Puct | ImprovedPolicy | RegularisedPolicy
RootRule = InteriorRule | SequentialHalving


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How a search chooses, at the root and below.

    Args:
        root: the rule at the root.
        interior: the rule at all other nodes that a player chooses at.
        value_range: over which values Q is scaled to [0, 1]: "tree", all Q-values of the tree so far; a pair
            (smallest, largest), where that range starts if the task's values are known, values beyond it widening it;
            or "node", the node's own value and its visited actions (for ImprovedPolicy and SequentialHalving: its
            completed Q-values).
        minimum_range: least width by which Q is scaled, in units of the value, so that differences of noise are not
            blown up (0.01 in EfficientZero, https://arxiv.org/abs/2111.00210).
        max_depth: largest number of edges from the root; None for no limit. A simulation that reaches it visits the
            existing node again.
        tie_breaking: which of exactly equal actions is taken: "lowest", or "random", an order drawn for each node from
            the search's seed. Of the untried actions of a node only the most probable is compared; of equally probable
            ones, that which comes first in this order.
        chance: how a chance node chooses its outcome: "balanced", the argmax of P / (1 + n), as in Stochastic MuZero's
            published search, or "sampled", a draw from P.
        leaves_per_round: how many leaves a tree selects before the model is asked for all of them at once. Each
            selection counts one assumed visit on its way for those after it; values are those of the last round. Fewer
            and larger calls of the model, for a search that knows less when it selects. Divides the number of
            simulations.

    Raises:
        ValueError: a setting is out of its range, or two do not fit together.
    """

    root: RootRule = Puct()
    interior: InteriorRule = Puct()
    value_range: Literal["tree", "node"] | tuple[float, float] = "tree"
    minimum_range: float = 0.01
    max_depth: int | None = None
    tie_breaking: Literal["lowest", "random"] = "lowest"
    chance: Literal["balanced", "sampled"] = "balanced"
    leaves_per_round: int = 1

    def __post_init__(self) -> None:
        rules = "Puct, ImprovedPolicy or RegularisedPolicy"
        check_setting(self, "root", isinstance(self.root, RootRule), f"a SequentialHalving, {rules}")
        check_setting(self, "interior", isinstance(self.interior, InteriorRule), f"a {rules}")
        bounds, expected = self.value_range, '"tree", "node", or (smallest, largest) of the values, both finite'
        if isinstance(bounds, str):
            check_setting(self, "value_range", bounds in ("tree", "node"), expected)
        else:
            in_order = len(bounds) == 2 and -LARGEST_Q <= bounds[0] <= bounds[1] <= LARGEST_Q
            check_setting(self, "value_range", in_order, expected)
        if not isinstance(bounds, str):
            object.__setattr__(self, "value_range", tuple(bounds))  # gin gives lists too, which are not hashable
        least = self.minimum_range
        check_setting(self, "minimum_range", 1e-37 <= least <= 1e37, "a number between 1e-37 and 1e37")
        check_setting(
            self,
            "max_depth",
            self.max_depth is None or _is_count(self.max_depth),
            "a whole number of at least 1, or None",
        )
        check_setting(self, "tie_breaking", self.tie_breaking in ("lowest", "random"), '"lowest" or "random"')
        check_setting(self, "chance", self.chance in ("balanced", "sampled"), '"balanced" or "sampled"')
        check_setting(self, "leaves_per_round", _is_count(self.leaves_per_round), "a whole number of at least 1")

    @property
    def known_range(self) -> tuple[float, float] | None:
        """Where a tree's value range starts, if it is known."""
        return None if isinstance(self.value_range, str) else self.value_range

    @property
    def needs_logits(self) -> bool:
        """Whether a rule reads the logits of its node beside its priors."""
        return any(isinstance(rule, ImprovedPolicy | SequentialHalving) for rule in (self.root, self.interior))

    @property
    def is_random(self) -> bool:
        """Whether the search draws numbers of its own, so that its seed matters."""
        drawn = any(isinstance(rule, RegularisedPolicy) and rule.sampled for rule in (self.root, self.interior))
        return drawn or self.tie_breaking == "random" or self.chance == "sampled"


def kernel_kind(chosen: RootRule) -> int:
    """The number by which the kernels know a rule."""
    if isinstance(chosen, RegularisedPolicy):
        return rule.REGULARISED_SAMPLED if chosen.sampled else rule.REGULARISED
    return {Puct: rule.PUCT, ImprovedPolicy: rule.IMPROVED, SequentialHalving: rule.HALVING}[type(chosen)]


_NO_LIMIT = np.iinfo(np.int32).max


@functools.lru_cache(maxsize=64)
def kernel_rule(settings: SearchSettings, num_simulations: int, max_visits: int, device: torch.device) -> Rule:
    """The settings as the kernels read them.

    Args:
        settings: the settings.
        num_simulations: of the search.
        max_visits: the most visits that a node can have.
        device: where the kernels run.
    """
    rules = (settings.root, settings.interior)
    choices = np.zeros((2, 7), np.int32)
    numbers = np.zeros((2, 4), np.float32)
    exploration = np.zeros((2, max_visits + 1), np.float32)
    visits = np.arange(max_visits + 1)
    choices[:, rule.RANGE] = rule.RANGE_NODE if settings.value_range == "node" else rule.RANGE_TREE
    choices[:, rule.MAX_DEPTH] = _NO_LIMIT if settings.max_depth is None else min(settings.max_depth, _NO_LIMIT)
    choices[:, rule.TIES] = rule.TIES_RANDOM if settings.tie_breaking == "random" else rule.TIES_LOWEST
    choices[:, rule.CHANCE_RULE] = rule.CHANCE_SAMPLED if settings.chance == "sampled" else rule.CHANCE_BALANCED
    choices[:, rule.LEAVES] = settings.leaves_per_round
    numbers[:, rule.MINIMUM_RANGE] = settings.minimum_range
    considered = np.zeros((1, 1), np.int32)
    for level, chosen in enumerate(rules):
        choices[level, rule.KIND] = kernel_kind(chosen)
        if isinstance(chosen, Puct | RegularisedPolicy):
            exploration[level] = np.sqrt(visits) * (chosen.c1 + np.log((visits + chosen.c2 + 1) / chosen.c2))
            unvisited = chosen.unvisited_value
            if isinstance(unvisited, str):
                modes = {"parent": rule.UNVISITED_PARENT, "siblings": rule.UNVISITED_SIBLINGS}
                choices[level, rule.UNVISITED] = modes[unvisited]
            else:
                numbers[level, rule.UNVISITED_VALUE] = unvisited
        else:
            numbers[level, rule.VISIT_OFFSET] = chosen.visit_offset
            numbers[level, rule.VALUE_SCALE] = chosen.value_scale
        if isinstance(chosen, SequentialHalving):
            # More actions than simulations all have the plan of as many: each is visited once, or not at all.
            considered = considered_table(min(chosen.max_considered, max(num_simulations, 1)), num_simulations)
    arrays = (choices, numbers, exploration, considered)
    return Rule(*(torch.from_numpy(array).to(device) for array in arrays))


def considered_table(max_considered: int, num_simulations: int) -> np.ndarray:
    """`[max_considered + 1, num_simulations]` int32: row m is `considered_visits(m, num_simulations)`."""
    rows = [considered_visits(number, num_simulations) for number in range(max_considered + 1)]
    return np.array(rows, np.int32).reshape(max_considered + 1, num_simulations)


def considered_visits(num_considered: int, num_simulations: int) -> list[int]:
    """Sequential halving's plan (Danihelka et al. 2022, algorithm 2 and appendix A).

    In simulation t the root chooses among the actions that have the t-th number of visits. Each of the
    ⌈log2 m⌉ phases has the same share of the simulations and half the actions of the one before, at least 2; what is
    left over goes on in the last phase. With one action it is that action's own visits.
    """
    if num_considered <= 1:
        return list(range(num_simulations))
    phases = math.ceil(math.log2(num_considered))
    plan: list[int] = []
    visits, remaining = 0, num_considered
    while len(plan) < num_simulations:
        for _ in range(max(1, num_simulations // (phases * remaining))):
            plan += [visits] * remaining
            visits += 1
        remaining = max(2, remaining // 2)
    return plan[:num_simulations]
