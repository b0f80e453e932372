"""What lies between the last row of a block and the end of its episode."""

import numpy as np
import torch

from alfish import nest
from alfish.data_structures import Experience, Tail, TailNeeded
from alfish.experience_replayers.ring import Ring
from alfish.ops.compilation import compile_cached
from alfish.ops.reward_transforms import transformed_rewards


def gather_tail(ring: Ring, needed: TailNeeded, last: np.ndarray, end: np.ndarray, env_id: np.ndarray) -> Tail:
    """Sums up the rows behind n blocks.

    Args:
        ring: the rows.
        needed: how rewards are transformed and discounted.
        last: int64 `[n]`, position of each block's last row.
        end: int64 `[n]`, where that row's episode ends; at least `last`.
        env_id: int64 `[n]`.

    Returns:
        See Tail; the sums are accumulated in float64.
    """
    num_rows = end - last
    stop = np.cumsum(num_rows)
    # All rows of all blocks one behind the other: one gather, and one call of the transform.
    position = np.arange(stop[-1]) + np.repeat(end + 1 - stop, num_rows)
    reward, discount = ring.gather(position, np.repeat(env_id, num_rows), _reward_and_discount)
    if needed.reward_transform is not None:
        reward = transformed_rewards(reward, needed.reward_transform)
    sums, products = np.empty(len(last), np.float32), np.empty(len(last), np.float32)
    _sum_backward(reward.numpy(), discount.numpy(), stop, float(needed.gamma), sums, products)
    return Tail(torch.from_numpy(sums), torch.from_numpy(products), ring.gather(end, env_id, _rollout_info))


def _reward_and_discount(rows: Experience) -> nest.Nest:
    return rows.time_step.reward, rows.time_step.discount


def _rollout_info(rows: Experience) -> nest.Nest:
    return rows.rollout_info


def _sum_each_backward(
    reward: np.ndarray, discount: np.ndarray, stop: np.ndarray, gamma: float, sums: np.ndarray, products: np.ndarray
) -> None:
    start = 0
    for block in range(len(stop)):
        total, product = 0.0, 1.0
        for row in range(stop[block] - 1, start - 1, -1):
            # The reward of arriving at a row is not discounted by that row; all that comes after it is.
            total = reward[row] + gamma * discount[row] * total
            product *= gamma * discount[row]
        sums[block], products[block] = total, product
        start = stop[block]


_sum_backward = compile_cached(_sum_each_backward)
