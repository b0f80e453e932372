"""Perfect play on tic-tac-toe: a true model without knowledge (equal logits, value 0) and PUCT."""

import math

import torch

from alfish.mcts.records import PuctSettings, RootNode, Step
from alfish.mcts.search import search

LINES = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])

# The player to move is X; the squares are numbered from the top left. The best moves follow from minimax by hand.
POSITIONS = [
    ("win in one, a row", "XX./OO./...", {2}),
    ("win in one, a diagonal", "XO./OX./...", {8}),
    ("win rather than block", "OO./XX./...", {5}),
    ("win in one, a column", "X.O/X.O/...", {6}),
    ("block a row", "OO./X../...", {2}),
    ("block a column", "O.X/O../...", {6}),
    ("block a diagonal", "O../.OX/...", {8}),
    ("fork", "X.O/.O./..X", {6}),
    ("reply to a corner: the centre", "O../.../...", {4}),
    ("two opposite corners: a side, not a corner", "O../.X./..O", {1, 3, 5, 7}),
    ("reply to the centre: a corner", ".../.O./...", {0, 2, 6, 8}),
    ("forced draw", "XOX/.O./...", {7}),
    ("last square", "XOX/OOX/.XO", {6}),
]


def tic_tac_toe(board, action):
    """Boards `[B, 9]` of the player to move (1 own, -1 other); the answer's are of the player who moves next."""
    board = board.clone()
    board[torch.arange(len(board)), action] = 1
    won = (board[:, LINES].sum(2) == 3).any(1)
    over = won | (board != 0).all(1)
    logits = torch.zeros(board.shape).masked_fill(board != 0, -math.inf)
    return Step(-board, won.float(), -(~over).float(), logits, torch.zeros(len(board)))


def parse(text):
    return torch.tensor([{"X": 1, "O": -1, ".": 0}[square] for square in text.replace("/", "")])


def boards():
    return torch.stack([parse(text) for _, text, _ in POSITIONS])


def visits_of(boards, num_simulations):
    root = RootNode(boards, torch.zeros(boards.shape), torch.zeros(len(boards)))
    return search(root, tic_tac_toe, num_simulations, PuctSettings(known_range=(-1.0, 1.0)), boards == 0).visits


def test_finds_the_best_move_of_each_position():
    for (name, text, best), board in zip(POSITIONS, boards(), strict=True):
        budget = 200 * int((board == 0).sum())
        visits = visits_of(board.unsqueeze(0), budget)[0]
        assert int(visits.argmax()) in best, f"{name} ({text}): visits {visits.tolist()}"


def test_never_loses_against_any_play():
    """The search moves second; the opponent tries every move, so all boards that can come up are searched, as one batch."""
    frontier = torch.zeros(1, 9, dtype=torch.int64)
    while len(frontier):
        replies = []
        for action in range(9):
            free = frontier[frontier[:, action] == 0]
            if not len(free):
                continue
            step = tic_tac_toe(free, torch.full((len(free),), action))
            assert (step.reward == 0).all(), "the opponent won"
            replies.append(step.latent[step.discount != 0])
        ours = torch.unique(torch.cat(replies), dim=0)
        if not len(ours):
            break
        step = tic_tac_toe(ours, visits_of(ours, 200 * int((ours[0] == 0).sum())).argmax(1))
        frontier = torch.unique(step.latent[step.discount != 0], dim=0)
