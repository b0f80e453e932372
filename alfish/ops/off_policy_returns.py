"""Targets that read ahead with a value estimate: λ-returns, V-trace, one-step targets, and importance weights.

Blocks and episode ends as in `returns.py`: `[B, T+1]` in, `[B, T]` out; row t's reward and discount are those received
on arriving at row t; a LAST row ends its episode, with discount 1 if it was truncated. The discount factor of the
algorithm is `gamma`; the environment's discount multiplies it. A target has no gradient to follow: call these without.
"""

import math
from typing import NamedTuple

import torch

from alfish.ops.masking import mask_logits
from alfish.ops.returns import backward_recursion, check_rows


class VTrace(NamedTuple):
    """What `v_trace` gives; `[B, T]`.

    Attributes:
        value_target: v, the target of the value.
        advantage: of the action, already multiplied by its clipped importance weight; 0 on LAST rows.
    """

    value_target: torch.Tensor
    advantage: torch.Tensor


def lambda_return(
    reward: torch.Tensor,
    discount: torch.Tensor,
    value: torch.Tensor,
    is_last: torch.Tensor,
    gamma: float,
    return_lambda: float,
) -> torch.Tensor:
    """The λ-return, an exponentially weighted mean of n-step returns (Sutton and Barto, 2nd edition, equation 12.2).

        G[t] = reward[t+1] + gamma * discount[t+1] * ((1 - λ) value[t+1] + λ G[t+1])      G[T] = value[T]

    Ends of episodes: G is `value` on a LAST row. So the return before a truncated LAST bootstraps from V(LAST), the one
    before a terminated LAST is its reward alone. Where the block ends inside an episode, V(row T) stands for the rest.

    Args:
        reward: `[B, T+1]` float; row 0 is not used.
        discount: `[B, T+1]` float, likewise.
        value: `[B, T+1]` float, the estimate for every row's observation.
        is_last: `[B, T+1]` bool; row T is not used.
        gamma: discount factor in [0, 1].
        return_lambda: λ; 0 gives the one-step return, 1 the discounted return.

    Returns:
        `[B, T]`.

    Raises:
        ValueError: the shapes are not one common `[B, T+1]` with T >= 1.
    """
    check_rows(reward, discount, value, is_last)
    ends = is_last[:, :-1]
    decay = discount[:, 1:] * gamma
    one_step = torch.addcmul(reward[:, 1:], decay, value[:, 1:], value=1.0 - return_lambda)
    return backward_recursion(
        torch.where(ends, value[:, :-1], one_step), torch.where(ends, 0.0, decay * return_lambda), value[:, -1]
    )


def v_trace(
    reward: torch.Tensor,
    discount: torch.Tensor,
    value: torch.Tensor,
    is_last: torch.Tensor,
    log_ratio: torch.Tensor,
    gamma: float,
    max_rho: float = 1.0,
    max_c: float = 1.0,
    v_trace_lambda: float = 1.0,
) -> VTrace:
    """V-trace: value targets and advantages of a policy pi from actions of an older policy mu.

    Espeholt et al., "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures" (2018),
    equation 1, its recursion in remark 1, λ in remark 2, the advantage in section 4.2. With ratio = pi(a|s) / mu(a|s):

        rho[t]   = min(max_rho, ratio[t])        c[t] = λ min(max_c, ratio[t])
        delta[t] = rho[t] (reward[t+1] + gamma * discount[t+1] * value[t+1] - value[t])
        v[t]     = value[t] + delta[t] + gamma * discount[t+1] * c[t] * (v[t+1] - value[t+1])      v[T] = value[T]
        A[t]     = rho[t] (reward[t+1] + gamma * discount[t+1] * (value[t+1] + λ (v[t+1] - value[t+1])) - value[t])

    With λ = 1 the advantage is the paper's. With a smaller one it reads ahead no further than v does, so that with
    ratios of 1 (and limits of at least 1) v is the λ-return and A the generalised advantage estimate.

    Ends of episodes: v is `value` and A is 0 on a LAST row, whatever its ratio. So the row before a truncated LAST
    bootstraps from V(LAST), the row before a terminated LAST from nothing, and nothing flows from one episode into the
    one before. Where the block ends inside an episode, V(row T) stands for the rest.

    Args:
        reward: `[B, T+1]` float; row 0 is not used.
        discount: `[B, T+1]` float, likewise.
        value: `[B, T+1]` float, the estimate for every row's observation.
        is_last: `[B, T+1]` bool; row T is not used.
        log_ratio: `[B, T]`, log pi(a|s) - log mu(a|s) of the actions taken; not used on LAST rows.
        gamma: discount factor in [0, 1].
        max_rho: limit of the weights of the temporal differences, above 0: what v converges to lies between the value
            of mu (towards 0) and that of pi (infinity).
        max_c: limit of the weights of the trace, at most `max_rho`: lower means less variance and slower learning.
        v_trace_lambda: λ in [0, 1].

    Returns:
        `[B, T]` each.

    Raises:
        ValueError: the shapes are not one common `[B, T+1]` with T >= 1, or that of `log_ratio` is not `[B, T]`.
    """
    check_rows(reward, discount, value, is_last)
    current, following = value[:, :-1], value[:, 1:]
    _check_log_ratio(log_ratio, current)
    ends = is_last[:, :-1]
    decay = discount[:, 1:] * gamma
    rho = importance_weights(log_ratio, max_rho)
    trace = decay * importance_weights(log_ratio, max_c) * v_trace_lambda
    delta = rho * (torch.addcmul(reward[:, 1:], decay, following) - current)
    correction = backward_recursion(
        torch.where(ends, 0.0, delta), torch.where(ends, 0.0, trace), torch.zeros_like(value[:, 0])
    )
    next_correction = torch.nn.functional.pad(correction[:, 1:], (0, 1))
    advantage = torch.addcmul(delta, rho * decay, next_correction, value=v_trace_lambda)
    return VTrace(current + correction, torch.where(ends, 0.0, advantage))


def _check_log_ratio(log_ratio: torch.Tensor, value: torch.Tensor) -> None:
    if log_ratio.shape != value.shape:
        raise ValueError(
            f"log_ratio has the shape {tuple(log_ratio.shape)}; expected {tuple(value.shape)}, one row less than the "
            "rewards have: the row after the last took no action that counts"
        )


def importance_weights(log_ratio: torch.Tensor, max_weight: float) -> torch.Tensor:
    """Clipped importance weights min(pi(a|s) / mu(a|s), max_weight), without gradient.

    Ionides, "Truncated Importance Sampling" (2008): the bias of the limit buys a bounded variance. With a finite limit
    no weight is infinite, however large the ratio.

    Args:
        log_ratio: `[...]`, log pi(a|s) - log mu(a|s).
        max_weight: above 0; `math.inf` for no limit.

    Returns:
        `[...]`.
    """
    return log_ratio.detach().clamp_max(math.log(max_weight)).exp()


def one_step_target(
    reward: torch.Tensor, discount: torch.Tensor, next_value: torch.Tensor, gamma: float
) -> torch.Tensor:
    """The target of a one-step temporal difference: reward + gamma * discount * next_value.

    Sutton and Barto, 2nd edition, equation 6.2; `next_value` makes it Sarsa's, Q-learning's (`double_q_target`) or soft
    actor-critic's (`soft_value`). For the K-step target give the same `next_value` to `returns.n_step_return`.

    Ends of episodes: a terminated row is arrived at with discount 0, so `next_value` is not used; a truncated one with
    discount 1, and the value of its last observation counts. The step that leaves a LAST row is none: leave it out.

    Args:
        reward: `[...]`, received on arriving at the next row: `reward[:, 1:]` of a block.
        discount: `[...]`, likewise.
        next_value: `[...]`, of the next row's observation, finite.
        gamma: discount factor in [0, 1].

    Returns:
        `[...]`.
    """
    return torch.addcmul(reward, discount, next_value, value=gamma)


def double_q_target(
    next_q_online: torch.Tensor, next_q_target: torch.Tensor, legal: torch.Tensor | None = None
) -> torch.Tensor:
    """The value of a row by double Q-learning: one network chooses the action, the other one says what it is worth.

    van Hasselt et al., "Deep Reinforcement Learning with Double Q-learning" (2016), equation 4 without its reward and
    discount (`one_step_target`):

        Q_target(s, argmax_a Q_online(s, a))

    With the target network as both it is the maximum, as in DQN (Mnih et al. 2015).

    Args:
        next_q_online: `[..., A]`, values of the network that learns.
        next_q_target: `[..., A]`, values of the target network.
        legal: `[..., A]` bool, None if all actions are. A row without a legal action takes the first one.

    Returns:
        `[...]`.
    """
    choice = next_q_online if legal is None else mask_logits(next_q_online, legal)
    return next_q_target.gather(-1, choice.argmax(dim=-1, keepdim=True)).squeeze(-1)


def soft_value(q_value: torch.Tensor, log_prob: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    """The soft value of a state from one action of the policy: Q(s, a) - α log pi(a|s).

    Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018b), equation 3.

    Args:
        q_value: `[...]`, of an action drawn from the policy: the smaller one of twin critics.
        log_prob: `[...]`, of this action.
        temperature: α, a scalar, at least 0.

    Returns:
        `[...]`.
    """
    return q_value - temperature * log_prob
