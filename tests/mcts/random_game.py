"""Random games as tables: what the search, the oracle and mctx are asked in the tests."""

from typing import NamedTuple

import numpy as np
import torch

from alfish.mcts.records import RootNode, Step

STATES = 9


class Answer(NamedTuple):
    """What one edge leads to, for one row: the same numbers as in a Step."""

    state: int
    reward: float
    discount: float
    logits: list
    value: float
    to_play: int | None
    is_chance: bool


class RandomGame:
    """B random games of STATES states; the latent is `{"row": [B], "state": [B]}`; every game starts in state 0.

    Args:
        discounts: each edge has one of these.
        coarse: all numbers are whole, so that scores are often equal.
        illegal: the share of the actions that are illegal, other ones in each row and state.
        players: more than 0: each state belongs to one of so many players.
        chance: the share of the states that are chance nodes; state 0 never is.
    """

    def __init__(self, B, A, discounts, seed, coarse=False, illegal=0.0, players=0, chance=0.0):
        rng = np.random.default_rng(seed)

        def draw(*shape):
            return rng.integers(-1, 2, shape).astype(float) if coarse else rng.standard_normal(shape)

        self.B, self.A = B, A
        self.next = rng.integers(0, STATES, (B, STATES, A))
        self.reward = draw(B, STATES, A).astype(np.float32)
        self.discount = rng.choice(np.asarray(discounts, np.float32), (B, STATES, A))
        self.value = (3 * draw(B, STATES)).astype(np.float32)
        logits = 2 * draw(B, STATES, A)
        logits[rng.random((B, STATES, A)) < illegal] = -np.inf
        row, state = np.ogrid[:B, :STATES]
        logits[row, state, rng.integers(A, size=(B, STATES))] = 0.5  # every state has a legal action
        self.is_chance = rng.random((B, STATES)) < chance
        self.is_chance[:, 0] = False
        probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        self.logits = np.where(self.is_chance[..., None], probabilities, logits).astype(np.float32)
        self.players, self.chance = players, chance
        self.to_play = rng.integers(0, max(players, 1), (B, STATES))

    def root(self, state=None):
        """The roots of all rows, in the states `[B]`; by default in state 0."""
        rows = np.arange(self.B)
        state = np.zeros(self.B, np.int64) if state is None else np.asarray(state)
        return RootNode(
            {"row": torch.from_numpy(rows), "state": torch.from_numpy(state)},
            torch.from_numpy(self.logits[rows, state]),
            torch.from_numpy(self.value[rows, state]),
            torch.from_numpy(self.to_play[rows, state]) if self.players else None,
        )

    def __call__(self, latent, action):
        row, state = latent["row"].numpy(), latent["state"].numpy()
        index = (row, state, action.numpy())
        state = self.next[index]
        arrays = (self.reward[index], self.discount[index], self.logits[row, state], self.value[row, state])
        return Step(
            {"row": latent["row"].clone(), "state": torch.from_numpy(state)},
            *map(torch.from_numpy, arrays),
            torch.from_numpy(self.to_play[row, state]) if self.players else None,
            torch.from_numpy(self.is_chance[row, state]) if self.chance else None,
        )

    def root_answer(self, row, legal=None, state=0):
        """The root of one row, as if an edge led there; `legal` `[A]` marks what the mask leaves."""
        logits = [float(logit) for logit in self.logits[row, state]]
        if legal is not None:
            logits = [logit if kept else -np.inf for logit, kept in zip(logits, legal, strict=True)]
        return Answer(state, 0.0, 1.0, logits, float(self.value[row, state]), self._player(row, state), False)

    def one_row(self, row):
        """`(state, action) -> Answer` for one row."""

        def step(state, action):
            index = (row, state, action)
            state = int(self.next[index])
            return Answer(
                state,
                float(self.reward[index]),
                float(self.discount[index]),
                [float(logit) for logit in self.logits[row, state]],
                float(self.value[row, state]),
                self._player(row, state),
                bool(self.is_chance[row, state]),
            )

        return step

    def _player(self, row, state):
        return int(self.to_play[row, state]) if self.players else None


class Recorder:
    """A game that notes the way of every simulation: `paths[row]` are lists of actions, in the order of the search.

    The way is part of the latent, so it is the search that says where each simulation ended.
    """

    def __init__(self, game, longest=64):
        self.game, self.longest = game, longest
        self.paths = [[] for _ in range(game.B)]

    def root(self):
        root = self.game.root()
        path = torch.full((self.game.B, self.longest), -1, dtype=torch.int16)
        length = torch.zeros(self.game.B, dtype=torch.int64)
        return root._replace(latent=root.latent | {"path": path, "length": length})

    def __call__(self, latent, action):
        step = self.game({name: latent[name] for name in ("row", "state")}, action)
        path, length = latent["path"].clone(), latent["length"] + 1
        path[torch.arange(len(action)), latent["length"]] = action.to(path.dtype)
        for row, taken, end in zip(latent["row"].tolist(), path.tolist(), length.tolist(), strict=True):
            self.paths[row].append(taken[:end])
        return step._replace(latent=step.latent | {"path": path, "length": length})
