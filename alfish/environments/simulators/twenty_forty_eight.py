"""2048: a stochastic game with masks."""

import gin
import torch

from alfish.environments.simulator import SimulatorStep

_BASE = 18  # exponents of a tile: 0 for an empty square, at most 17, the largest that can be reached
_SQUARES = 16
_PROBABILITY_OF_2 = 0.9


@gin.configurable
class TwentyFortyEight:
    """2048: tiles slide and equal ones merge, the sum of the merged tiles is the reward, then a tile appears.

    The new tile is on any free square with equal probability, a 2 with probability 0.9 and otherwise a 4. The game ends
    when no move changes the board. Actions 0 … 3 move up, right, down and left; those that change nothing are illegal.

    A state is a board `[B, 16]` int8 from the top left: exponents of 2, 0 for a free square. An observation is
    `[B, 18, 4, 4]` float32, one plane for each exponent.

    Args:
        device: of the states.
    """

    num_actions = 4
    num_random = 2

    def __init__(self, device: torch.device | str = "cpu"):
        self._device = device
        moved, rewards = _slide_table()
        self._moved = moved.to(device)
        self._rewards = rewards.to(device)
        self._weights = torch.tensor([_BASE**3, _BASE**2, _BASE, 1], device=device)
        squares = torch.arange(_SQUARES).view(4, 4)
        # The squares of each direction's four lines, in the order in which tiles slide: [4, 16].
        lines = torch.stack((squares.t(), squares.flip(1), squares.flip(0).t(), squares)).flatten(1)
        self._lines = lines.to(device)
        self._back = lines.argsort(1).to(device)

    def initial_state(self, num: int, seed: int = 0) -> torch.Tensor:
        """Boards with two tiles. The first rows do not depend on `num`."""
        random = torch.rand(num, 4, generator=torch.Generator().manual_seed(seed)).to(self._device)
        empty = torch.zeros(num, _SQUARES, dtype=torch.int8, device=self._device)
        return _with_new_tile(_with_new_tile(empty, random[:, :2]), random[:, 2:])

    def step(self, state: torch.Tensor, action: torch.Tensor, random: torch.Tensor) -> SimulatorStep:
        """See Simulator."""
        index = self._line_index(state.gather(1, self._lines[action]))
        moved = self._moved[index].flatten(1).gather(1, self._back[action])
        board = _with_new_tile(moved, random)
        legal_mask = self.legal_mask(board)
        return SimulatorStep(board, self._rewards[index].sum(1), legal_mask.any(1).float(), legal_mask)

    def legal_mask(self, state: torch.Tensor) -> torch.Tensor:
        """The moves that change the board."""
        lines = state[:, self._lines]
        return (self._moved[self._line_index(lines)].flatten(2) != lines).any(2)

    def observation(self, state: torch.Tensor) -> torch.Tensor:
        """See Simulator."""
        exponents = torch.arange(_BASE, dtype=torch.int8, device=state.device)
        return (state.unsqueeze(1) == exponents.view(-1, 1)).float().unflatten(2, (4, 4))

    def _line_index(self, squares: torch.Tensor) -> torch.Tensor:
        """`[..., 16]` squares to `[..., 4]` numbers of their lines."""
        return (squares.unflatten(-1, (4, 4)) * self._weights).sum(-1)


def _with_new_tile(board: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
    """Boards with a tile on one of their free squares; a full board stays as it is.

    Args:
        board: `[B, 16]` int8.
        random: `[B, 2]` in [0, 1), for the square and the tile.
    """
    free = board == 0
    rank = free.cumsum(1)
    # A float32 below 1 times a count is never rounded up to the count.
    chosen = (random[:, :1] * rank[:, -1:]).long()
    exponent = 1 + (random[:, 1:] >= _PROBABILITY_OF_2).to(board.dtype)
    return torch.where(free & (rank == chosen + 1), exponent, board)


def _slide_table() -> tuple[torch.Tensor, torch.Tensor]:
    """What becomes of each line of four squares that slides to its first one: `[18⁴, 4]` int8 and its reward."""
    digits = torch.arange(_BASE, dtype=torch.int8)
    lines = _packed(torch.cartesian_prod(digits, digits, digits, digits))
    rewards = torch.zeros(len(lines))
    for left in range(3):
        tile = lines[:, left]
        # Two of the largest tile cannot be had in a game, and their sum has no exponent.
        merges = (tile > 0) & (tile == lines[:, left + 1]) & (tile < _BASE - 1)
        lines[:, left] += merges.to(torch.int8)
        lines[:, left + 1].masked_fill_(merges, 0)
        rewards += torch.where(merges, torch.exp2(lines[:, left].float()), 0.0)
    return _packed(lines), rewards


def _packed(lines: torch.Tensor) -> torch.Tensor:
    """Lines with their free squares moved to the end."""
    return lines.gather(1, (lines == 0).to(torch.int8).argsort(dim=1, stable=True))
