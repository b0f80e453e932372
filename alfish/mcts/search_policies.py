"""Searches as an algorithm calls them: from the model's root to an action and a policy target."""

import math
from typing import NamedTuple

import torch

from alfish.mcts.records import Model, PuctSettings, RootNode, SearchResult
from alfish.mcts.search import search
from alfish.ops.distributions import sample_categorical


class PolicyOutput(NamedTuple):
    """How to act in B positions, and what to learn from them.

    Attributes:
        action: `[B]` int64.
        policy: `[B, A]` float32, the training target: the shares of the root's visits, whatever the temperature;
            without simulations the root's prior as the search saw it, masked and with noise.
        value: `[B]` float32, the root's value (`SearchResult.value`).
        search: the whole result; hold on to it only while it is needed, it owns the trees.
    """

    action: torch.Tensor
    policy: torch.Tensor
    value: torch.Tensor
    search: SearchResult


def puct_policy(
    root: RootNode,
    model: Model,
    num_simulations: int,
    settings: PuctSettings,
    legal_mask: torch.Tensor | None = None,
    temperature: float = 0.0,
    dirichlet_alpha: float = 0.3,
    noise_fraction: float = 0.0,
) -> PolicyOutput:
    """Acts by the root's visits (Schrittwieser et al. 2020, https://arxiv.org/abs/1911.08265, appendix B and D).

    Args:
        root: the positions.
        model: what the search asks.
        num_simulations: at least 0; with 0 the prior is the policy.
        settings: the rule of choice within the tree.
        legal_mask: `[B, A]` bool, True for legal actions; None for all.
        temperature: the action is drawn with probabilities `policy ** (1 / temperature)`, normalised; 0 takes the most
            visited, the lowest of those that are equal. Draws from torch's global generator.
        dirichlet_alpha: concentration of the root's noise, above 0. Read when `noise_fraction` > 0.
        noise_fraction: share of the noise in the root's prior, in [0, 1]; 0 for play and evaluation.

    Raises:
        ValueError: an argument is out of its range, or the search cannot run (`search`).
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature!r}; expected a finite number of at least 0")
    if not 0 <= noise_fraction <= 1:
        raise ValueError(f"noise_fraction is {noise_fraction!r}; expected a number in [0, 1]")
    if noise_fraction > 0:
        logits = noisy_logits(root.prior_logits, legal_mask, dirichlet_alpha, noise_fraction)
        root = root._replace(prior_logits=logits)
    result = search(root, model, num_simulations, settings, legal_mask)
    if num_simulations > 0:
        policy = result.visits / float(num_simulations)
    else:
        policy = torch.from_numpy(result.tree.priors[:, 0].copy()).to(result.visits.device)
    return PolicyOutput(sample_action(policy, temperature), policy, result.value, result)


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


def sample_action(policy: torch.Tensor, temperature: float) -> torch.Tensor:
    """Draws from `policy ** (1 / temperature)`, normalised; see `puct_policy`.

    Args:
        policy: `[B, A]`, probabilities.
        temperature: at least 0. At 0 the lowest of the most probable actions.

    Returns:
        `[B]` int64.
    """
    if temperature == 0:
        return policy.argmax(dim=1)
    logits = policy.log()
    # The maximum is taken off before the division, so that a small temperature cannot overflow.
    logits = (logits - logits.amax(dim=1, keepdim=True)) / temperature
    return sample_categorical(logits)
