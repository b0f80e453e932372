"""A game of two steps in which a model without chance is fooled.

    start -- risky --> lucky   (1/2)     the good action there: 2, the other: 0
                   +-> unlucky (1/2)     the good action there: 1, the other: 0
          -- safe ---> safe              the good action there: 1.8, the other: 0

The good action is number 0 but in `unlucky`, where it is number 1. Best returns: safe 1.8, risky 1.5. A model that
knows actions only, and has learned from players who see where they are, believes that risky followed by action 0 gives
2: who takes action 0 there was lucky.
"""

import torch

from alfish.models.tabular_stochastic_model import TabularStochasticModel

START, LUCKY, UNLUCKY, SAFE_STATE, END = range(5)
RISKY, SAFE = 0, 1
VALUES = torch.tensor([1.8, 2.0, 1.0, 1.8, 0.0])
"""The best return from each state."""


def tables():
    """`(probability, next_state, reward, discount)`, each `[5, 2, 2]`; the second outcome occurs after `risky` only."""
    probability = torch.zeros(5, 2, 2)
    probability[..., 0] = 1.0
    probability[START, RISKY] = 0.5
    next_state = torch.full((5, 2, 2), END)
    next_state[START, RISKY] = torch.tensor([LUCKY, UNLUCKY])
    next_state[START, SAFE] = SAFE_STATE
    reward = torch.zeros(5, 2, 2)
    reward[LUCKY, 0], reward[UNLUCKY, 1], reward[SAFE_STATE, 0] = 2.0, 1.0, 1.8
    discount = (next_state != END).float()
    return probability, next_state, reward, discount


def exact_model(**options):
    return TabularStochasticModel(*tables(), **options)


def model_of_actions():
    """What is learned without chance: one outcome per action, rewards conditioned on the two actions.

    States: start, after risky, after safe, end.
    """
    next_state = torch.tensor([[1, 2], [3, 3], [3, 3], [3, 3]]).unsqueeze(2)
    reward = torch.tensor([[0.0, 0.0], [2.0, 1.0], [1.8, 0.0], [0.0, 0.0]]).unsqueeze(2)
    return TabularStochasticModel(torch.ones(4, 2, 1), next_state, reward, (next_state != 3).float())
