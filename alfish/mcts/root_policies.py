"""What a finished search says of its roots, on the device of the search."""

import dataclasses
from typing import Literal

import torch

from alfish.mcts import cuda_search, rule
from alfish.mcts.host import read_policy
from alfish.mcts.records import SearchResult
from alfish.mcts.settings import ImprovedPolicy, RegularisedPolicy, SequentialHalving, kernel_rule

RootPolicy = Literal["visits"] | ImprovedPolicy | RegularisedPolicy
"""What `root_policy` can read off a root, by any rule of search."""


def root_policy(result: SearchResult, policy: RootPolicy) -> torch.Tensor:
    """The policies that searches found for their roots, `[B, A]` float32; 0 for illegal actions.

    Args:
        result: of a search.
        policy: "visits" for the shares of the root's visits, the prior if there were none (Schrittwieser et al. 2020);
            an ImprovedPolicy for softmax(logits + σ(completed Q)) (Danihelka et al. 2022); a
            RegularisedPolicy for π̄ (Grill et al. 2020, section 3: ACT and LEARN).

    Raises:
        ValueError: `policy` is none of these.
    """
    if policy == "visits":
        return _read(result, ImprovedPolicy(), rule.POLICY_VISITS)
    if isinstance(policy, ImprovedPolicy):
        return _read(result, policy, rule.POLICY_IMPROVED)
    if isinstance(policy, RegularisedPolicy):
        return _read(result, policy, rule.POLICY_REGULARISED)
    raise ValueError(f'policy is {policy!r}; expected "visits", an ImprovedPolicy or a RegularisedPolicy')


def halving_winner(result: SearchResult) -> torch.Tensor:
    """The action `[B]` int64 that sequential halving ends with (Danihelka et al. 2022, algorithm 2, last line).

    Of the most visited actions the one with the largest noise + logit + σ(q). Without simulations, the one with the
    largest noise + logit.

    Raises:
        ValueError: the search's root did not halve.
    """
    halving = result.settings.root
    if not isinstance(halving, SequentialHalving):
        raise ValueError(f"SearchSettings.root is {halving!r}; expected SequentialHalving, which alone has a winner")
    return _read(result, improvement_of(halving), rule.POLICY_WINNER).argmax(dim=1)


def improvement_of(halving: SequentialHalving) -> ImprovedPolicy:
    """The improved policy with the constants by which a root halved."""
    return ImprovedPolicy(halving.visit_offset, halving.value_scale)


def _read(result: SearchResult, policy: ImprovedPolicy | RegularisedPolicy, kind: int) -> torch.Tensor:
    max_visits = result.rule.exploration.shape[1] - 1
    settings = dataclasses.replace(result.settings, root=policy)
    reading = kernel_rule(settings, 0, max_visits, result.tree.visits.device)
    if result.tree.visits.is_cuda:
        return cuda_search.read_policy(result.tree, reading, kind)
    return read_policy(result.tree, reading, kind).to(result.visits.device)
