"""Candidate actions of a search whose actions are too many to list: K per node, drawn from the policy.

Hubert et al. 2021, "Learning and planning in complex action spaces" (https://arxiv.org/abs/2104.06303), sections 4 and
5. A node gets K actions drawn from a distribution β, and the search runs over them as over any A = K actions. What the
policy π would weigh becomes what π weighs among the draws: with β̂(a) the share of the draws that are a, the prior of a
candidate is

    P(a) ∝ β̂(a) / β(a) · π(a)

so that Σ_a β̂(a)/β(a) π(a) f(a) has the mean Σ_a π(a) f(a) for any f, before it is normalised by its sum, which tends
to 1 as K grows. With β = π the prior is β̂ itself: 1/K for a candidate that was drawn once. A wider β looks at more
actions, and the prior still says what the policy thinks of them: little, if the policy has given them up. What visits
them nevertheless is noise on the prior, or an optimistic value of what was not visited.

All functions draw from the generator they are given, or from torch's global one, and never synchronise with a device.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import gin
import torch

from alfish.checks import check_at_least
from alfish.mcts.settings import check_setting
from alfish.ops.sampled_policies import SampledPolicy

_SMALLEST = torch.finfo(torch.float32).tiny
_LINEAR = -30.0  # from here down log(1 - exp(-exp(x))) is x in float32


class Proposals(NamedTuple):
    """The candidates of B nodes.

    Attributes:
        candidates: `[B, K, ...]`, actions. Not all are different.
        prior_logits: `[B, K]` float32, log(β̂/β · π), not normalised; -inf for a candidate that repeats an earlier one,
            or is illegal.
    """

    candidates: torch.Tensor
    prior_logits: torch.Tensor


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ProposalSettings:
    """How candidates are drawn.

    Below the root all K are drawn from π^(1/τ), normalised. At the root some of them can be drawn from wider
    distributions, so that the search sees actions that the policy has given up. The shares are whole numbers of draws,
    at least one each; together they are draws from their mixture β, which is what the prior is corrected for. As long
    as some draws are from π itself, no correction is larger than K divided by their number.

    EfficientZero V2 (Wang et al. 2024, https://arxiv.org/abs/2403.00564) takes half of the root's candidates from a
    wider normal, with equal priors for all: here `root_noise_scale` 3 and `prior` "drawn".

    Args:
        num_candidates: K, at least 1.
        temperature: τ, above 0; 1 draws from π. A normal's standard deviation is multiplied by √τ.
        root_noise_scale: at least 1. A share of the root's candidates is drawn from π^(1/(τ · scale²)): a normal whose
            standard deviation is multiplied by the scale. 1 leaves this share out.
        root_noise_fraction: that share, in (0, 1].
        root_uniform_fraction: share of the root's candidates that are drawn uniformly, in [0, 1].
        prior: "corrected" for β̂/β · π, "drawn" for β̂: the search then improves on β instead of π.
        replacement: False draws K different actions of one discrete choice (`propose_different`).

    Raises:
        ValueError: a number is out of its range, or the shares of the root are more than K draws.
    """

    num_candidates: int
    temperature: float = 1.0
    root_noise_scale: float = 1.0
    root_noise_fraction: float = 0.5
    root_uniform_fraction: float = 0.0
    prior: Literal["corrected", "drawn"] = "corrected"
    replacement: bool = True

    def __post_init__(self) -> None:
        check_at_least("ProposalSettings.num_candidates", self.num_candidates, 1)
        check_setting(self, "temperature", 0 < self.temperature < math.inf, "a finite number above 0")
        check_setting(self, "root_noise_scale", 1 <= self.root_noise_scale < math.inf, "a finite number of at least 1")
        check_setting(self, "root_noise_fraction", 0 < self.root_noise_fraction <= 1, "a number in (0, 1]")
        check_setting(self, "root_uniform_fraction", 0 <= self.root_uniform_fraction <= 1, "a number in [0, 1]")
        check_setting(self, "prior", self.prior in ("corrected", "drawn"), '"corrected" or "drawn"')
        own = self.num_candidates - sum(draws for draws, _ in self._wider())
        if own < 0:
            raise ValueError(
                f"ProposalSettings.num_candidates is {self.num_candidates}, fewer than the draws of the root's shares"
                f" (root_noise_fraction {self.root_noise_fraction}, root_uniform_fraction {self.root_uniform_fraction},"
                " at least one draw each); lower the shares or take more candidates"
            )

    def shares(self, at_root: bool) -> tuple[tuple[int, float], ...]:
        """`(draws, temperature)` of each share, at least one draw each, K in all; uniform draws have `math.inf`."""
        if not at_root:
            return ((self.num_candidates, self.temperature),)
        wider = self._wider()
        own = self.num_candidates - sum(draws for draws, _ in wider)
        return ((own, self.temperature), *wider) if own else wider

    def _wider(self) -> tuple[tuple[int, float], ...]:
        noise = self.root_noise_fraction if self.root_noise_scale > 1.0 else 0.0
        temperature = self.temperature * self.root_noise_scale**2
        shares = ((noise, temperature), (self.root_uniform_fraction, math.inf))
        return tuple(
            (max(1, round(fraction * self.num_candidates)), temperature)
            for fraction, temperature in shares
            if fraction > 0.0
        )


def propose(
    policy: SampledPolicy,
    parameters: torch.Tensor,
    settings: ProposalSettings,
    at_root: bool = False,
    generator: torch.Generator | None = None,
) -> Proposals:
    """Draws the candidates of B nodes.

    Args:
        policy: the family of π.
        parameters: `[B, P]` of π; of discrete choices the logits, -inf for illegal ones.
        settings: how many, and from where.
        at_root: whether the root's shares are drawn.
        generator: on the device of the parameters; None takes torch's global one.

    Returns:
        Proposals. Where fewer actions are legal than K, or some come up twice, fewer than K candidates have a prior. A
        row without a legal action has none; a row with a NaN has NaN priors, so that the search names it.
    """
    shares = settings.shares(at_root)
    if not settings.replacement:
        assert policy.num_choices is not None, "only choices of one among A can be drawn without replacement"
        choices = torch.arange(policy.num_choices, device=parameters.device).expand(len(parameters), -1)
        log_policy = policy.log_prob(parameters, choices)
        log_proposal = _log_mixture(policy, parameters, choices, log_policy, shares)
        weighed = log_policy if settings.prior == "corrected" else log_proposal
        return propose_different(weighed, log_proposal, settings.num_candidates, generator)
    drawn = [policy.sample(parameters, draws, temperature, generator) for draws, temperature in shares]
    candidates = drawn[0] if len(drawn) == 1 else torch.cat(drawn, dim=1)
    log_policy = policy.log_prob(parameters, candidates)
    log_proposal = _log_mixture(policy, parameters, candidates, log_policy, shares)
    weighed = log_policy if settings.prior == "corrected" else log_proposal
    share_drawn = count_candidates(candidates) / float(settings.num_candidates)
    logits = share_drawn.log() + (weighed - log_proposal)
    impossible = (log_policy == -math.inf) | (log_proposal == -math.inf)
    return Proposals(candidates, logits.masked_fill(impossible, -math.inf))


def _log_mixture(
    policy: SampledPolicy,
    parameters: torch.Tensor,
    candidates: torch.Tensor,
    log_policy: torch.Tensor,
    shares: tuple[tuple[int, float], ...],
) -> torch.Tensor:
    """The log probabilities `[B, K]` of the candidates in the mixture β of the shares."""
    total = float(sum(draws for draws, _ in shares))
    parts = [
        (log_policy if temperature == 1.0 else policy.log_prob(parameters, candidates, temperature))
        + math.log(draws / total)
        for draws, temperature in shares
    ]
    return parts[0] if len(parts) == 1 else torch.logsumexp(torch.stack(parts), dim=0)


def propose_different(
    log_policy: torch.Tensor, log_proposal: torch.Tensor, num_candidates: int, generator: torch.Generator | None = None
) -> Proposals:
    """Draws K different choices of A, without replacement, by the Gumbel-top-k trick.

    Kool et al. 2019, "Stochastic beams and where to find them" (https://arxiv.org/abs/1903.06059). With φ = log β +
    Gumbel noise, the K largest are a sample without replacement from β. Given the next largest φ, κ, each is among them
    with probability q(a) = 1 - exp(-exp(log β(a) - κ)), and the prior

        P(a) ∝ π(a) / q(a)

    has the right mean as above, and less variance than draws with replacement. With K choices or fewer that are legal,
    all of them are candidates, q is 1 and the prior is π.

    Args:
        log_policy: `[B, A]`, log π; -inf for illegal choices.
        log_proposal: `[B, A]`, log β; -inf at least where π is.
        num_candidates: K, at least 1.
        generator: as in `propose`.

    Returns:
        Proposals with int64 candidates `[B, K]`, in the order of φ.
    """
    num_choices = log_policy.shape[1]
    clocks = torch.empty_like(log_proposal).exponential_(generator=generator).clamp_min_(_SMALLEST)
    perturbed = log_proposal - clocks.log()
    if num_choices <= num_candidates:  # a place more than there are choices, so that the next largest is -inf
        perturbed = torch.nn.functional.pad(perturbed, (0, num_candidates + 1 - num_choices), value=-math.inf)
    largest, index = perturbed.topk(num_candidates + 1, dim=1)
    candidates = index[:, :-1].clamp_max(num_choices - 1)
    log_policy, log_proposal = log_policy.gather(1, candidates), log_proposal.gather(1, candidates)
    surplus = log_proposal - largest[:, -1:]
    log_inclusion = torch.where(surplus > _LINEAR, torch.expm1(-surplus.exp()).neg().log(), surplus)
    nothing = (largest[:, :-1] == -math.inf) | (log_policy == -math.inf)
    return Proposals(candidates, (log_policy - log_inclusion).masked_fill(nothing, -math.inf))


def count_candidates(candidates: torch.Tensor) -> torch.Tensor:
    """How often each candidate was drawn, at its first place; 0 where it repeats an earlier one.

    Args:
        candidates: `[B, K, ...]`.

    Returns:
        `[B, K]` int32; each row sums to K, unless it holds NaN.
    """
    numbers = candidates.unsqueeze(-1).flatten(2).unbind(2)
    same = numbers[0].unsqueeze(2) == numbers[0].unsqueeze(1)
    for number in numbers[1:]:  # faster than a comparison with one more axis and its reduction
        same &= number.unsqueeze(2) == number.unsqueeze(1)
    earlier = torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril(diagonal=-1)
    # int32: on the CPU, sums of Booleans to int64, and `any`, take several times as long.
    repeats = (same & earlier).sum(dim=2, dtype=torch.int32)
    return same.sum(dim=2, dtype=torch.int32).masked_fill(repeats > 0, 0)


def take_candidates(candidates: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The candidate `[B, ...]` at each row's index `[B]`, from `[B, K, ...]`."""
    return candidates[torch.arange(len(index), device=index.device), index]


def spread_policy(policy: torch.Tensor, candidates: torch.Tensor, num_choices: int) -> torch.Tensor:
    """A policy over candidates as a policy over all choices, as a replay buffer stores it and a cross entropy reads it.

    Args:
        policy: `[B, K]`, what the search found.
        candidates: `[B, K]` int64.
        num_choices: A.

    Returns:
        `[B, A]`; 0 for what was no candidate.
    """
    return policy.new_zeros((len(policy), num_choices)).scatter_add_(1, candidates, policy)
