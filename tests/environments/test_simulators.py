"""The simulators in torch: what all of them promise, and each against plain rules or Gymnasium."""

import gymnasium
import numpy as np
import pytest
import torch

from alfish import gin_config
from alfish.environments.simulator import check_simulator
from alfish.environments.simulators.cart_pole import CartPole
from alfish.environments.simulators.tabular import make_tabular_simulator
from alfish.environments.simulators.tic_tac_toe import TicTacToe
from alfish.environments.simulators.time_limited import TimeLimited
from alfish.environments.simulators.twenty_forty_eight import TwentyFortyEight

SIMULATORS = {
    "tic-tac-toe": TicTacToe,
    "2048": TwentyFortyEight,
    "cart pole": CartPole,
    "cart pole, 7 steps": lambda: TimeLimited(CartPole(), 7),
    "slippery lake": lambda: make_tabular_simulator("FrozenLake-v1"),
    "lake": lambda: make_tabular_simulator("FrozenLake-v1", {"is_slippery": False}),
    "cliff": lambda: make_tabular_simulator("CliffWalking-v1"),
}
NONE = torch.empty(1, 0)


@pytest.fixture(params=SIMULATORS.values(), ids=SIMULATORS.keys())
def simulator(request):
    return request.param()


@pytest.mark.parametrize("seed", range(3))
def test_keeps_the_protocol(simulator, seed):
    check_simulator(simulator, num_games=16, num_steps=200, seed=seed)


def test_first_states_follow_from_the_seed(simulator):
    seen = simulator.observation(simulator.initial_state(8, 3))
    assert seen[:4].equal(simulator.observation(simulator.initial_state(4, 3)))
    assert len(seen) == 8


@pytest.mark.parametrize(("name", "expected"), [("CartPole", CartPole), ("TicTacToe", TicTacToe)])
def test_is_made_by_gin(name, expected):
    gin_config.parse([], ["TimeLimited.max_steps=4", f"TimeLimited.simulator=@{name}()"])
    limited = TimeLimited()
    assert limited.num_actions == expected.num_actions
    check_simulator(limited, num_steps=4)


# Tic-tac-toe


def board_of(text):
    return torch.tensor([[{"X": 1, "O": -1, ".": 0}[square] for square in text.replace("/", "")]], dtype=torch.int8)


@pytest.mark.parametrize(
    ("board", "action", "reward", "discount", "after"),
    [
        ("XX./OO./...", 2, 1.0, 0.0, "OOO/XX./..."),
        ("XX./OO./...", 5, 0.0, -1.0, "OO./XXO/..."),
        ("X../XO./.O.", 6, 1.0, 0.0, "O../OX./OX."),
        ("..X/OXO/...", 6, 1.0, 0.0, "..O/XOX/O.."),
        ("XOX/OOX/.XO", 6, 0.0, 0.0, "OXO/XXO/OOX"),
        ("XXO/OOX/X.X", 7, 1.0, 0.0, "OOX/XXO/OOO"),
    ],
)
def test_tic_tac_toe(board, action, reward, discount, after):
    step = TicTacToe().step(board_of(board), torch.tensor([action]), NONE)
    assert (step.reward.item(), step.discount.item()) == (reward, discount)
    assert step.state.equal(board_of(after))
    assert step.legal_mask.equal(board_of(after) == 0)


def test_tic_tac_toe_shows_own_and_other_squares():
    seen = TicTacToe().observation(board_of("XO./.../..X"))
    assert seen[0].tolist() == [[[1, 0, 0], [0, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 0], [0, 0, 0]]]


# 2048


def slid(line):
    """A line that slides to its first square, and the reward; exponents, by the rules of the game."""
    tiles, out, reward = [tile for tile in line if tile], [], 0
    while tiles:
        tile = tiles.pop(0)
        if tiles and tiles[0] == tile:
            tiles.pop(0)
            tile += 1
            reward += 2**tile
        out.append(tile)
    return out + [0] * (4 - len(out)), reward


def moved(board, action):
    """A board `[4, 4]` after a move without its new tile, and the reward. Rotated so that it moves to the left."""
    turns = {0: 1, 1: 2, 2: 3, 3: 0}[action]
    rows, rewards = zip(*(slid(row) for row in np.rot90(board, turns).tolist()), strict=True)
    return np.rot90(np.array(rows), -turns), sum(rewards)


def test_2048_follows_the_rules():
    simulator, generator = TwentyFortyEight(), torch.Generator().manual_seed(0)
    boards = torch.multinomial(torch.tensor([4.0, 4, 4, 3, 2, 1, 1]), 16 * 300, True, generator=generator)
    boards = boards.to(torch.int8).view(300, 16)
    boards[::7] = 1 + boards[::7] % 2  # full boards
    for action in range(4):
        step = simulator.step(boards, torch.full((300,), action), torch.rand(300, 2, generator=generator))
        legal = simulator.legal_mask(boards)[:, action]
        for row, board in enumerate(boards.view(-1, 4, 4).numpy()):
            expected, reward = moved(board, action)
            assert legal[row] == (expected != board).any()
            assert step.reward[row] == reward
            after = step.state[row].view(4, 4).numpy()
            new = after != expected
            assert new.sum() == (expected == 0).any()
            assert set(after[new]) <= {1, 2}
            assert (expected[new] == 0).all()
            assert step.discount[row] == any((moved(after, other)[0] != after).any() for other in range(4))


def test_2048_largest_tiles():
    board = torch.zeros(1, 16, dtype=torch.int8)
    board[0, :4] = torch.tensor([16, 16, 17, 17])
    step = TwentyFortyEight().step(board, torch.tensor([3]), torch.tensor([[0.999, 0.0]]))
    # Two of the largest, which no game can reach, stay as they are.
    assert step.state[0].tolist() == [17, 17, 17, 0] + [0] * 11 + [1]
    assert step.reward.item() == 2.0**17


def test_2048_new_tiles():
    board = torch.tensor([[1, 1, 2, 3, 2, 3, 2, 3, 3, 2, 3, 2, 0, 0, 2, 3]], dtype=torch.int8)
    n = 200
    grid = (torch.arange(n) + 0.5) / n
    random = torch.cartesian_prod(grid, grid)
    step = TwentyFortyEight().step(board.expand(n * n, 16), torch.full((n * n,), 3), random)
    rest = torch.tensor([2, 2, 3, 0, 2, 3, 2, 3, 3, 2, 3, 2, 2, 3, 0, 0], dtype=torch.int8)
    new = torch.where(step.state == rest, 0, step.state)
    assert (new != 0).sum(1).eq(1).all()
    assert (new == 1).sum(0)[[3, 14, 15]].div(n * n).tolist() == pytest.approx([0.3] * 3, abs=0.005)
    assert (new == 2).sum(0)[[3, 14, 15]].div(n * n).tolist() == pytest.approx([0.1 / 3] * 3, abs=0.005)
    extreme = torch.tensor([[1 - 2.0**-24, 1 - 2.0**-24]])
    last = TwentyFortyEight().step(board, torch.tensor([3]), extreme).state
    assert last[0, 15] == 2


def test_2048_sees_planes():
    seen = TwentyFortyEight().observation(torch.arange(16, dtype=torch.int8).unsqueeze(0))
    assert seen.shape == (1, 18, 4, 4)
    assert seen[0].argmax(0).flatten().tolist() == list(range(16))
    assert seen.sum() == 16


# Cart pole


def test_cart_pole_moves_as_gymnasiums():
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([2.4, 2.0, 0.22, 2.0])
    states = (2 * torch.rand(200, 4, generator=generator) - 1) * scale
    actions = torch.randint(2, (200,), generator=generator)
    step = CartPole().step(states, actions, NONE.expand(200, 0))
    env = gymnasium.make("CartPole-v1").unwrapped
    for row in range(200):
        env.reset()
        env.state = states[row].double().numpy()
        seen, reward, terminated, _, _ = env.step(actions[row].item())
        assert step.state[row].tolist() == pytest.approx(seen.tolist(), abs=1e-5)
        assert step.reward[row] == reward
        assert step.discount[row] == (not terminated)
    assert 0 < step.discount.mean() < 1


def test_cart_pole_starts_as_gymnasiums():
    start = CartPole().initial_state(1000, 0)
    assert 0.049 < start.max() <= 0.05
    assert -0.05 <= start.min() < -0.049


# Time limit


def test_time_limit_ends_every_game():
    simulator = TimeLimited(CartPole(), 3)
    state = simulator.initial_state(2)
    for expected in (1.0, 1.0, 0.0):
        step = simulator.step(state, torch.tensor([0, 1]), NONE.expand(2, 0))
        assert step.discount.tolist() == [expected] * 2
        state = step.state
    assert state.time.tolist() == [3, 3]


def test_time_limit_keeps_earlier_ends():
    state = TimeLimited(TicTacToe(), 9).initial_state(1)._replace(state=board_of("XX./OO./..."))
    step = TimeLimited(TicTacToe(), 9).step(state, torch.tensor([2]), NONE)
    assert (step.reward.item(), step.discount.item()) == (1.0, 0.0)


def test_time_limit_is_checked():
    with pytest.raises(ValueError, match="max_steps"):
        TimeLimited(CartPole(), 0)
