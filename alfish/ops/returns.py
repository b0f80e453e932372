"""Returns and advantages over rows of the house's TimeStep convention.

All functions take blocks `[B, T+1]` and return `[B, T]`. Row t's reward and discount are those received on arriving at
row t, so the transition from row t to row t+1 carries `reward[:, t+1]` and `discount[:, t+1]`. A LAST row ends its
episode: the transition that leaves it carries nothing, whatever the rows behind it hold. Termination arrives with
discount 0, so V(LAST) is never used; truncation arrives with discount 1, and V(LAST) stands for the lost future.

The discount factor of the algorithm is `gamma`; the environment's discount multiplies it.
"""

import torch

from alfish.checks import check_at_least
from alfish.ops.block_rows import bootstrap_rows, nearest_end_rows


def generalized_advantage_estimate(
    reward: torch.Tensor,
    discount: torch.Tensor,
    value: torch.Tensor,
    is_last: torch.Tensor,
    gamma: float,
    gae_lambda: float,
) -> torch.Tensor:
    """The generalised advantage estimate, an exponentially weighted mean of n-step advantages.

    Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation" (2016), section 3,
    equations 11-16:

        delta[t] = reward[t+1] + gamma * discount[t+1] * value[t+1] - value[t]
        A[t]     = delta[t] + gamma * gae_lambda * discount[t+1] * A[t+1]      A[T] = 0

    Ends of episodes: A is 0 on a LAST row. So the row before a truncated LAST bootstraps from V(LAST), the row before a
    terminated LAST from nothing, and no advantage flows from one episode into the one before. Where the block ends
    inside an episode, V(row T) stands for the rest. `A + value[:, :T]` is the lambda-return, the target of the value.

    Args:
        reward: `[B, T+1]` float; row 0 is not used.
        discount: `[B, T+1]` float, likewise.
        value: `[B, T+1]` float, the estimate for every row's observation.
        is_last: `[B, T+1]` bool; row T is not used.
        gamma: discount factor in [0, 1].
        gae_lambda: 0 gives the one-step temporal difference, 1 the return minus the value.

    Returns:
        `[B, T]`.

    Raises:
        ValueError: the shapes are not one common `[B, T+1]` with T >= 1.
    """
    check_rows(reward, discount, value, is_last)
    ends = is_last[:, :-1]
    decay = discount[:, 1:] * gamma
    delta = torch.addcmul(reward[:, 1:], decay, value[:, 1:]) - value[:, :-1]
    return backward_recursion(
        torch.where(ends, 0.0, delta), torch.where(ends, 0.0, decay * gae_lambda), torch.zeros_like(value[:, 0])
    )


def discounted_return(
    reward: torch.Tensor, discount: torch.Tensor, value: torch.Tensor, is_last: torch.Tensor, gamma: float
) -> torch.Tensor:
    """The sum of discounted rewards to the end of the episode (Sutton and Barto, 2nd edition, equation 3.8).

        G[t] = reward[t+1] + gamma * discount[t+1] * G[t+1]      G[T] = value[T]

    Ends of episodes: G is `value` on a LAST row. So the return before a truncated LAST bootstraps from V(LAST), the
    one before a terminated LAST is its reward alone. Where the block ends inside an episode, V(row T) stands for the
    rest. Pass zeros as `value` for the plain sum of the rewards in the block.

    Args:
        reward: `[B, T+1]` float; row 0 is not used.
        discount: `[B, T+1]` float, likewise.
        value: `[B, T+1]` float, used on LAST rows and on row T only.
        is_last: `[B, T+1]` bool; row T is not used.
        gamma: discount factor in [0, 1].

    Returns:
        `[B, T]`.

    Raises:
        ValueError: the shapes are not one common `[B, T+1]` with T >= 1.
    """
    check_rows(reward, discount, value, is_last)
    ends = is_last[:, :-1]
    return backward_recursion(
        torch.where(ends, value[:, :-1], reward[:, 1:]), torch.where(ends, 0.0, discount[:, 1:] * gamma), value[:, -1]
    )


def n_step_return(
    reward: torch.Tensor,
    discount: torch.Tensor,
    value: torch.Tensor,
    is_last: torch.Tensor,
    gamma: float,
    num_steps: int,
) -> torch.Tensor:
    """The n-step bootstrapped return (Sutton and Barto, 2nd edition, section 7.1) with n = K = `num_steps`.

        G0[t] = value[t]
        Gk[t] = reward[t+1] + gamma * discount[t+1] * Gk-1[t+1]      Gk[T] = value[T]

    Ends of episodes: every Gk is `value` on a LAST row, so a return never looks past the end of its episode; with a
    truncated LAST it bootstraps from V(LAST) after fewer than K steps, with a terminated LAST from nothing. The last
    K-1 returns of the block bootstrap from V(row T) after fewer than K steps.

    Args:
        reward: `[B, T+1]` float; row 0 is not used.
        discount: `[B, T+1]` float, likewise.
        value: `[B, T+1]` float, the estimate for every row's observation.
        is_last: `[B, T+1]` bool; row T is not used.
        gamma: discount factor in [0, 1].
        num_steps: K, at least 1.

    Returns:
        `[B, T]`.

    Raises:
        ValueError: the shapes are not one common `[B, T+1]` with T >= 1, or `num_steps` is below 1.
    """
    check_rows(reward, discount, value, is_last)
    check_at_least("num_steps", num_steps, 1)
    num_starts = reward.shape[1] - 1
    steps = bootstrap_rows(nearest_end_rows(is_last), num_steps, num_starts)
    steps -= torch.arange(num_starts, device=reward.device)
    return bootstrapped_return(reward, discount, value, steps, gamma, min(num_steps, num_starts))


def bootstrapped_return(
    reward: torch.Tensor,
    discount: torch.Tensor,
    value: torch.Tensor,
    steps: torch.Tensor,
    gamma: float,
    max_steps: int,
) -> torch.Tensor:
    """The return over as many steps as each row asks for, and the value of the row where they end.

    With m = steps[t]:

        G[t] = sum_{j=1..m} gamma^{j-1} (prod_{i=t+1..t+j-1} discount[i]) reward[t+j]
               + gamma^m (prod_{i=t+1..t+m} discount[i]) value[t+m]

    Ends of episodes: none are looked for; `steps` must not lead past one. Takes memory for `[B, N, max_steps]`.

    Args:
        reward: `[B, L]` float.
        discount: `[B, L]` float.
        value: `[B, L]` float.
        steps: `[B, N]` int64, of the first N rows; t + steps[t] at most L - 1.
        gamma: discount factor in [0, 1].
        max_steps: at least 1 and at least all of `steps`.

    Returns:
        `[B, N]`.
    """
    num_rows = steps.shape[1]
    surplus = num_rows + max_steps - reward.shape[1]
    if surplus > 0:
        reward, discount = (torch.nn.functional.pad(rows, (0, surplus)) for rows in (reward, discount))
    # Windows [B, N, max_steps] of the rows t+1, t+2, …: views, so nothing is gathered.
    following = slice(1, num_rows + max_steps)
    rewards = reward[:, following].unfold(1, max_steps, 1)
    decays = (discount[:, following] * gamma).unfold(1, max_steps, 1)
    weights = torch.nn.functional.pad(decays, (1, 0), value=1.0).cumprod(dim=2)
    within = torch.arange(max_steps, device=steps.device) < steps.unsqueeze(2)
    rewarded = torch.where(within, weights[..., :-1] * rewards, 0.0).sum(2)
    last = steps + torch.arange(num_rows, device=steps.device)
    return torch.addcmul(rewarded, weights.gather(2, steps.unsqueeze(2)).squeeze(2), value.gather(1, last))


def backward_recursion(base: torch.Tensor, decay: torch.Tensor, final: torch.Tensor) -> torch.Tensor:
    """x[t] = base[t] + decay[t] * x[t+1], from x[T] = `final` `[B]` down; `[B, T]` in and out."""
    current = final
    results = []
    for base_row, decay_row in zip(reversed(base.unbind(1)), reversed(decay.unbind(1)), strict=True):
        current = torch.addcmul(base_row, decay_row, current)
        results.append(current)
    results.reverse()
    return torch.stack(results, dim=1)


def check_rows(*rows: torch.Tensor) -> None:
    """Checks that all `rows` have one common shape `[B, T+1]` with T >= 1.

    Raises:
        ValueError: they have not.
    """
    shapes = [tuple(tensor.shape) for tensor in rows]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2 or shapes[0][1] < 2:
        raise ValueError(
            f"reward, discount, value and is_last have the shapes {shapes}; expected one common shape [B, T+1] with "
            "T >= 1: give every row and the one after the last"
        )
