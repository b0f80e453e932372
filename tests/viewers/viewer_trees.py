"""Small searches for the tests of the viewers: over tables of random numbers, with everything that a tree can have."""

import torch

from alfish.mcts.records import RootNode, Step
from alfish.mcts.search import search
from alfish.mcts.settings import SearchSettings
from alfish.viewers.observations import png
from alfish.viewers.shown_tree import Episode, Move, formulas_of, shown_tree

NUM_STATES = 499
PLAIN = SearchSettings()


class TableModel:
    """A made-up game whose state is a number; states divisible by 7 end it, those divisible by 5 are chance nodes."""

    def __init__(self, num_actions=4, seed=0, players=False, chance=False, endings=False, illegal=False):
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.randn((NUM_STATES, num_actions), generator=generator)
        if illegal:
            self.logits[torch.rand((NUM_STATES, num_actions), generator=generator) < 0.3] = -torch.inf
            self.logits[:, 1] = 0.0
        self.values = torch.randn(NUM_STATES, generator=generator)
        self.rewards = torch.randn(NUM_STATES, generator=generator)
        self.players, self.chance, self.endings = players, chance, endings

    def root(self, state):
        state = torch.as_tensor(state)
        to_play = state % 2 if self.players else None
        return RootNode(state, self.logits[state], self.values[state], to_play)

    def step(self, state, action):
        state = (state * 31 + action * 101 + 17) % NUM_STATES
        ends = (state % 7 == 0) & self.endings
        return Step(
            state,
            self.rewards[state],
            torch.where(ends, 0.0, 0.9),
            self.logits[state],
            self.values[state],
            state % 2 if self.players else None,
            (state % 5 == 0) if self.chance else None,
        )


def searched(num_simulations=40, states=(3,), settings=PLAIN, model=None, **arguments):
    model = TableModel() if model is None else model
    return search(model.root(states), model.step, num_simulations, settings, **arguments)


def full_result(num_simulations=60):
    """A tree with two players, chance nodes, ends and illegal actions."""
    model = TableModel(players=True, chance=True, endings=True, illegal=True)
    mask = torch.tensor([[True, True, True, False]])
    return searched(num_simulations, (3,), model=model, legal_mask=mask)


def episode_of(results, names=("left", "right", "up", "down"), min_visits=1, title="test/Game-v0"):
    """An episode in which each move plays the most visited action and gets its number as the reward."""
    moves, before = [], 0.0
    for number, result in enumerate(results, 1):
        action = int(result.visits[0].argmax())
        image = torch.full((6, 8), 40 * number % 256, dtype=torch.uint8).numpy()
        tree = shown_tree(result, min_visits=min_visits)
        moves.append(Move(number, tree, action, float(action), before, png(image), f"state {number}"))
        before += action
    facts = ["the weights of a test", f"{results[0].visits.sum()} simulations"]
    return Episode(title, facts, names, formulas_of(results[0])), moves
