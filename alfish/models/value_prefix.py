"""Value prefixes: the sum of the rewards since the last reset, instead of each reward (Ye et al. 2021, section 4.2).

When in a row of steps a reward comes is hard to say, how much has come by now is easier. A network with a recurrent
state reads one latent after the other and predicts the sum so far; every `horizon` steps it starts again, because a
recurrent state cannot be carried through an unroll of any length. The sum is not discounted.

    step since reset          1        2        3 = horizon     1
    predicted prefix          p1       p2       p3              p4
    reward of the edge        p1       p2 - p1  p3 - p2         p4
    recurrent state after     s1       s2       0               s4

A search gets the reward of each edge, so its values and the range of its values need no knowledge of prefixes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional

from alfish import nest


class ValuePrefixLatent(NamedTuple):
    """A model's latent with what the next prefix is counted from. At a reset all but `latent` is 0.

    Attributes:
        latent: nest of `[B, ...]`.
        reward_state: nest of `[B, ...]`, the recurrent state of the network of the prefix.
        prefix: `[B]`, the prefix that was predicted on the way here.
        steps_since_reset: `[B]` int64 in 0 … horizon − 1.
    """

    latent: nest.Nest
    reward_state: nest.Nest
    prefix: torch.Tensor
    steps_since_reset: torch.Tensor


def start_prefix(latent: nest.Nest, reward_state: nest.Nest) -> ValuePrefixLatent:
    """A root: latents `[B, ...]` with the recurrent state of the beginning, zeros."""
    first = nest.leaves(latent)[0]
    return ValuePrefixLatent(
        latent=latent,
        reward_state=reward_state,
        prefix=torch.zeros(len(first), device=first.device),
        steps_since_reset=torch.zeros(len(first), dtype=torch.int64, device=first.device),
    )


def advance_prefix(
    parent: ValuePrefixLatent, latent: nest.Nest, reward_state: nest.Nest, prefix: torch.Tensor, horizon: int
) -> tuple[ValuePrefixLatent, torch.Tensor]:
    """One step: the reward of the edge, and the new latent, reset if `horizon` steps are full.

    Args:
        parent: where the step began.
        latent: nest of `[B, ...]`, where it led.
        reward_state: nest of `[B, ...]`, the recurrent state after it.
        prefix: `[B]`, predicted since the parent's last reset, this step included.
        horizon: h, steps between two resets.

    Returns:
        The new latent, and the rewards `[B]`.
    """
    steps = parent.steps_since_reset + 1
    reset = steps == horizon
    new = ValuePrefixLatent(
        latent=latent,
        reward_state=nest.map_structure(
            lambda leaf: leaf.masked_fill(reset.view(-1, *[1] * (leaf.dim() - 1)), 0), reward_state
        ),
        prefix=prefix.masked_fill(reset, 0.0),
        steps_since_reset=steps.masked_fill(reset, 0),
    )
    return new, prefix - parent.prefix


def value_prefixes(reward: torch.Tensor, horizon: int) -> torch.Tensor:
    """What should be predicted: sums `[..., R]` of rewards `[..., R]` since the last reset.

    prefix[k] = reward[k] if k is a multiple of h, else prefix[k-1] + reward[k], k = 0 … R−1.
    """
    num_steps = reward.shape[-1]
    padded = torch.nn.functional.pad(reward, (0, -num_steps % horizon))
    return padded.unflatten(-1, (-1, horizon)).cumsum(dim=-1).flatten(-2)[..., :num_steps]


def rewards_of_prefixes(prefix: torch.Tensor, horizon: int) -> torch.Tensor:
    """The inverse of `value_prefixes`: the rewards `[..., R]` that make up prefixes `[..., R]`."""
    before = torch.nn.functional.pad(prefix[..., :-1], (1, 0))
    begins = torch.arange(prefix.shape[-1], device=prefix.device) % horizon == 0
    return prefix - before.masked_fill(begins, 0.0)
