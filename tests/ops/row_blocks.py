"""Random blocks of rows, and returns by walking along them."""

import numpy as np
import torch

# One environment, five rows. gamma = 0.5, and where there is one lambda = 0.5, in the tests by hand. Reward and
# discount of row 0 are never used.
REWARD = torch.tensor([[9.0, 1.0, 2.0, 3.0, 4.0]])
VALUE = torch.tensor([[8.0, 4.0, 2.0, 6.0, 10.0]])
ONES = torch.ones(1, 5)
MID = torch.zeros(1, 5, dtype=torch.bool)
# Row 2 ends an episode; row 3 is the FIRST row of the next one, where the environment gives reward 0 and discount 1.
LAST_AT_2 = torch.tensor([[False, False, True, False, False]])
TERMINATED_AT_2 = torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0]])


def random_block(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reward, discount, value and is_last, `[6, 13]`: terminations, truncations, LAST rows behind LAST rows."""
    generator = np.random.default_rng(seed)
    reward, value = generator.normal(size=(2, 6, 13))
    is_last = generator.random((6, 13)) < 0.25
    discount = np.where(is_last & (generator.random((6, 13)) < 0.5), 0.0, 1.0)
    reward, discount, value = (torch.tensor(array, dtype=torch.float64) for array in (reward, discount, value))
    return reward, discount, value, torch.tensor(is_last)


def brute_force_n_step(reward, discount, value, is_last, gamma, num_steps, row, start) -> float:
    """Walks forward from one row and adds up."""
    total, weight, position = 0.0, 1.0, start
    for _ in range(num_steps):
        if is_last[row, position] or position == reward.shape[1] - 1:
            break
        position += 1
        weight *= gamma
        total += weight / gamma * float(reward[row, position])
        weight *= float(discount[row, position])
    return total + weight * float(value[row, position])


def brute_force_v_trace(reward, discount, value, is_last, ratio, gamma, max_rho, max_c, row, start) -> float:
    """Equation 1 of the IMPALA paper as it stands, a sum of weighted temporal differences from one row on."""
    total, weight, position = float(value[row, start]), 1.0, start
    while position < reward.shape[1] - 1 and not is_last[row, position]:
        following = position + 1
        decay = gamma * float(discount[row, following])
        difference = float(reward[row, following] + decay * value[row, following] - value[row, position])
        total += weight * min(max_rho, float(ratio[row, position])) * difference
        weight *= decay * min(max_c, float(ratio[row, position]))
        position = following
    return total
