"""Searches as an algorithm calls them: noise, then a search, then an action and a policy target.

Each policy is a small record of choices, made by gin or by hand, and its call is the recipe. A new one is a function or
a record with the call of `SearchPolicy`, put together from the parts in this file and in `root_policies.py`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import gin
import torch

from alfish.mcts.records import Model, RetainedTrees, RootNode, SearchResult
from alfish.mcts.root_policies import RootPolicy, halving_winner, improvement_of, root_policy
from alfish.mcts.search import search
from alfish.mcts.settings import (
    ImprovedPolicy,
    RegularisedPolicy,
    SearchSettings,
    SequentialHalving,
    check_setting,
)
from alfish.ops.categorical_distributions import sample_categorical


class PolicyOutput(NamedTuple):
    """How to act in B positions, and what to learn from them.

    Attributes:
        action: `[B]` int64.
        policy: `[B, A]` float32, the training target, whatever the temperature.
        value: `[B]` float32, the root's value (`SearchResult.value`).
        search: the whole result; hold on to it only while it is needed, it owns the trees.
    """

    action: torch.Tensor
    policy: torch.Tensor
    value: torch.Tensor
    search: SearchResult


SearchFunction = Callable[..., SearchResult]
"""With the arguments of `search.search`."""


class SearchPolicy(Protocol):
    """From the model's roots to actions and targets."""

    @property
    def retains_trees(self) -> bool:
        """Whether `retained` may be given."""
        raise NotImplementedError

    def __call__(
        self,
        root: RootNode,
        model: Model,
        num_simulations: int,
        legal_mask: torch.Tensor | None = None,
        temperature: float | torch.Tensor = 0.0,
        explore: bool = False,
        retained: RetainedTrees | None = None,
        run: SearchFunction = search,
    ) -> PolicyOutput:
        """Searches B positions. Random numbers come from torch's global generator.

        Args:
            root: the positions.
            model: what the search asks.
            num_simulations: at least 0.
            legal_mask: `[B, A]` bool, True for legal actions; None for all.
            temperature: of the drawing of actions, a number or one for each row `[B]`, at least 0; 0 takes the best.
            explore: True while collecting, for the noise of the root; False for play and evaluation.
            retained: trees to go on with (`search`).
            run: what searches: `search.search`, or `SearchGraphs.search`, which keeps the trees on a GPU.

        Raises:
            ValueError: an argument is out of its range, or the search cannot run (`search`).
        """
        raise NotImplementedError


@gin.configurable
@dataclasses.dataclass(frozen=True)
class PuctPolicy:
    """MuZero's acting: Dirichlet noise, search, visits (Schrittwieser et al. 2020, appendix B and D).

    With other rules in `settings` and other policies in `act` and `learn` it is policy-regularised search, or part of
    it (Grill et al. 2020, section 4: SEARCH, ACT and LEARN).

    Args:
        settings: how the search chooses, by default as SearchSettings is bound; at its root any rule but
            SequentialHalving (`GumbelPolicy`).
        dirichlet_alpha: concentration of the root's noise, above 0. Read when `noise_fraction` > 0.
        noise_fraction: share of the noise in the root's prior while exploring, in [0, 1].
        act: the policy from whose probabilities, to the power of 1 / temperature, the action is drawn: "visits", an
            ImprovedPolicy or a RegularisedPolicy.
        learn: the policy to learn: the same choice. Without simulations, "visits" are the root's prior as the search
            saw it, masked and with noise.

    Raises:
        ValueError: a choice is out of its range.
    """

    settings: SearchSettings = dataclasses.field(default_factory=SearchSettings)
    dirichlet_alpha: float = 0.3
    noise_fraction: float = 0.25
    act: RootPolicy = "visits"
    learn: RootPolicy = "visits"

    def __post_init__(self) -> None:
        check_setting(self, "settings", isinstance(self.settings, SearchSettings), "a SearchSettings, from gin with ()")
        halves = isinstance(self.settings.root, SequentialHalving)
        check_setting(self, "settings", not halves, "a root that is not SequentialHalving; GumbelPolicy acts with that")
        check_root_noise(self)
        for name in ("act", "learn"):
            policy = getattr(self, name)
            valid = policy == "visits" or isinstance(policy, ImprovedPolicy | RegularisedPolicy)
            check_setting(self, name, valid, '"visits", an ImprovedPolicy or a RegularisedPolicy')

    @property
    def retains_trees(self) -> bool:
        return True

    def __call__(
        self,
        root: RootNode,
        model: Model,
        num_simulations: int,
        legal_mask: torch.Tensor | None = None,
        temperature: float | torch.Tensor = 0.0,
        explore: bool = False,
        retained: RetainedTrees | None = None,
        run: SearchFunction = search,
    ) -> PolicyOutput:
        """See `SearchPolicy`."""
        if explore:
            root = with_root_noise(root, legal_mask, self)
        seed = draw_seed(self.settings)
        result = run(root, model, num_simulations, self.settings, legal_mask, None, seed, retained)
        acting = root_policy(result, self.act)
        learned = acting if self.learn == self.act else root_policy(result, self.learn)
        return PolicyOutput(sample_action(acting, temperature), learned, result.value, result)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class GumbelPolicy:
    """Gumbel MuZero's acting: Gumbel noise, sequential halving, its winner (Danihelka et al. 2022, sections 2 to 4).

    The winner is the action, whatever the temperature: the Gumbel noise is its exploration. The policy to learn is
    softmax(logits + σ(completed Q)).

    Args:
        settings: how the search chooses; its root must be SequentialHalving.
        gumbel_scale: of the noise while exploring, at least 0; without exploring it is 0.

    Raises:
        ValueError: a choice is out of its range.
    """

    settings: SearchSettings = dataclasses.field(
        default_factory=lambda: SearchSettings(SequentialHalving(), ImprovedPolicy())
    )
    gumbel_scale: float = 1.0

    def __post_init__(self) -> None:
        check_setting(self, "settings", isinstance(self.settings, SearchSettings), "a SearchSettings, from gin with ()")
        halves = isinstance(self.settings.root, SequentialHalving)
        check_setting(self, "settings", halves, "a root of SequentialHalving; PuctPolicy acts with the others")
        check_setting(self, "gumbel_scale", 0 <= self.gumbel_scale < math.inf, "a finite number, at least 0")

    @property
    def retains_trees(self) -> bool:
        return False

    def __call__(
        self,
        root: RootNode,
        model: Model,
        num_simulations: int,
        legal_mask: torch.Tensor | None = None,
        temperature: float | torch.Tensor = 0.0,
        explore: bool = False,
        retained: RetainedTrees | None = None,
        run: SearchFunction = search,
    ) -> PolicyOutput:
        """See `SearchPolicy`."""
        del temperature
        noise = None
        if explore and self.gumbel_scale > 0:
            uniform = torch.rand_like(root.prior_logits, dtype=torch.float32).clamp_(min=1e-20)
            noise = -self.gumbel_scale * (-uniform.log()).log()
        seed = draw_seed(self.settings)
        result = run(root, model, num_simulations, self.settings, legal_mask, noise, seed, retained)
        halving = self.settings.root
        assert isinstance(halving, SequentialHalving)
        return PolicyOutput(halving_winner(result), root_policy(result, improvement_of(halving)), result.value, result)


def draw_seed(settings: SearchSettings) -> int:
    """A seed for the search's own choices, from torch's global generator, if it makes any at random."""
    return int(torch.randint(1 << 31, ())) if settings.is_random else 0


class RootNoise(Protocol):
    """The settings of Dirichlet noise that a policy has.

    Attributes:
        dirichlet_alpha: concentration, above 0.
        noise_fraction: its share of the root's prior, in [0, 1].
    """

    @property
    def dirichlet_alpha(self) -> float:
        raise NotImplementedError

    @property
    def noise_fraction(self) -> float:
        raise NotImplementedError


def check_root_noise(policy: RootNoise) -> None:
    """Raises a ValueError that names a setting of the policy's noise, unless both are in their ranges."""
    check_setting(policy, "dirichlet_alpha", 0 < policy.dirichlet_alpha < math.inf, "a finite number above 0")
    check_setting(policy, "noise_fraction", 0 <= policy.noise_fraction <= 1, "a number in [0, 1]")


def with_root_noise(root: RootNode, legal_mask: torch.Tensor | None, policy: RootNoise) -> RootNode:
    """The root with the policy's noise in its prior."""
    if policy.noise_fraction == 0:
        return root
    logits = noisy_logits(root.prior_logits, legal_mask, policy.dirichlet_alpha, policy.noise_fraction)
    return root._replace(prior_logits=logits)


def noisy_logits(
    logits: torch.Tensor, legal_mask: torch.Tensor | None, dirichlet_alpha: float, noise_fraction: float
) -> torch.Tensor:
    """The logits of `(1 - noise_fraction) · softmax(logits) + noise_fraction · Dirichlet(dirichlet_alpha)`.

    Args:
        logits: `[B, A]`; -inf marks illegal actions.
        legal_mask: `[B, A]` bool, or None. Illegal actions take no part in either distribution.
        dirichlet_alpha: above 0.
        noise_fraction: in [0, 1].

    Returns:
        `[B, A]` float32: finite for legal actions, -inf for illegal ones. A row with a NaN or +inf, or without a legal
        action, stays as it is, and the search names it.

    Raises:
        ValueError: `dirichlet_alpha` is not above 0, or the shapes differ.
    """
    if not 0 < dirichlet_alpha < math.inf:
        raise ValueError(f"dirichlet_alpha is {dirichlet_alpha!r}; expected a finite number above 0")
    if legal_mask is not None and legal_mask.shape != logits.shape:
        raise ValueError(f"legal_mask has the shape {tuple(legal_mask.shape)}; expected {tuple(logits.shape)}")
    logits = logits.detach().float()
    illegal = logits == -math.inf if legal_mask is None else (logits == -math.inf) | ~legal_mask
    masked = logits.masked_fill(illegal, -math.inf)
    # Gamma draws, normalised over the legal actions, are the Dirichlet of those actions. They are never below `tiny`.
    concentration = torch.full_like(masked, dirichlet_alpha)
    draws = torch.distributions.Gamma(concentration, torch.ones_like(masked), validate_args=False).sample()
    draws = draws.masked_fill(illegal, 0.0)
    noise = draws / draws.sum(dim=1, keepdim=True)
    mixture = (1.0 - noise_fraction) * torch.softmax(masked, dim=1) + noise_fraction * noise
    mixed = mixture.clamp(min=torch.finfo(torch.float32).tiny).log().masked_fill(illegal, -math.inf)
    usable = (masked < math.inf).all(dim=1) & ~illegal.all(dim=1)
    return torch.where(usable.unsqueeze(1), mixed, logits)


def sample_action(policy: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
    """Draws from `policy ** (1 / temperature)`, normalised.

    Args:
        policy: `[B, A]`, probabilities.
        temperature: a number or one for each row `[B]`, at least 0. At 0 the lowest of the most probable actions.

    Returns:
        `[B]` int64.

    Raises:
        ValueError: the temperature is negative or not finite.
    """
    return sample_by_scores(policy.log(), policy.argmax(dim=1), temperature)


def sample_by_scores(scores: torch.Tensor, best: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
    """Draws from softmax(scores / temperature), from torch's global generator.

    Args:
        scores: `[B, A]`; -inf for an action that is not taken. Each row has another one.
        best: `[B]` int64, what is taken at temperature 0.
        temperature: a number or one for each row `[B]`, at least 0.

    Returns:
        `[B]` int64.

    Raises:
        ValueError: a temperature that is a number is negative or not finite, or one that is a tensor is not `[B]`.
    """
    divisor = temperature
    if isinstance(temperature, torch.Tensor):
        if temperature.shape != best.shape:
            raise ValueError(f"temperature has the shape {tuple(temperature.shape)}; expected [B] with B = {len(best)}")
        divisor = torch.where(temperature > 0, temperature, 1.0).unsqueeze(1)
    elif not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature!r}; expected a finite number of at least 0")
    elif temperature == 0:
        return best
    # The maximum is taken off before the division, so that a small temperature cannot overflow.
    drawn = sample_categorical((scores - scores.amax(dim=1, keepdim=True)) / divisor)
    return torch.where(temperature > 0, drawn, best) if isinstance(temperature, torch.Tensor) else drawn
