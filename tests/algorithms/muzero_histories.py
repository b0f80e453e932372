"""Stored rows as plain lists, blocks of them as a replay buffer hands them out, and what MuZero's targets are of them.

The definitions are those of docs/algorithms/muzero.md, in loops over lists, with positions from the start of a run.
"""

import random
from typing import NamedTuple

import torch

from alfish.algorithms.mcts_algorithm import SearchInfo
from alfish.data_structures import BatchInfo, StepType, Tail, TimeStep

NUM_ACTIONS = 3


class History:
    """The rows of one environment, row i at position `oldest + i`.

    Row i's observation is its `mark`, a number that no other row has; the search stored with it has the value
    `value[i]` and the policy `policy[i]`.
    """

    def __init__(self, step_type, reward, discount, action=None, value=None, oldest=0, mark=0.0):
        length = len(step_type)
        self.step_type, self.reward, self.discount = list(step_type), list(reward), list(discount)
        self.action = [0] * length if action is None else list(action)
        self.value = [0.0] * length if value is None else list(value)
        self.mark = [mark + row for row in range(length)]
        self.policy = [[float(choice == row % NUM_ACTIONS) for choice in range(NUM_ACTIONS)] for row in range(length)]
        self.oldest = oldest

    def __len__(self):
        return len(self.step_type)

    def end(self, row):
        """E(row): the LAST row at or after it, or the newest."""
        while self.step_type[row] != StepType.LAST and row < len(self) - 1:
            row += 1
        return row

    def is_over(self, row):
        return self.end(row) == row and self.discount[row] == 0.0


def random_history(generator: random.Random, length=30, mark=0.0):
    """Episodes of one to eight rows that end, are cut or cost a life on the way; the last one is open, or not."""
    step_type, discount = [], []
    cut = generator.randint(0, 3)  # the oldest row may be inside an episode
    while len(step_type) < length + cut:
        rows = generator.randint(1, 8)
        step_type += [StepType.FIRST, *[StepType.MID] * (rows - 2), StepType.LAST][-rows:]
        lives = [0.0 if generator.random() < 0.1 else 1.0 for _ in range(rows - 1)]
        discount += [*lives, generator.choice([0.0, 1.0])]
    history = History(
        step_type[cut : length + cut],
        [generator.gauss(0.0, 1.0) for _ in range(length)],
        discount[cut : length + cut],
        [generator.randrange(NUM_ACTIONS) for _ in range(length)],
        [generator.gauss(0.0, 1.0) for _ in range(length)],
        oldest=generator.choice([0, 1000]),
        mark=mark,
    )
    history.policy = [[generator.random() for _ in range(NUM_ACTIONS)] for _ in range(length)]
    return history


class Blocks(NamedTuple):
    """What a buffer hands out.

    Attributes:
        rows: `[B, T + future]`; observations `[B, T + future, 1]`.
        search: `[B, T + future]`.
        info: with the tail.
        starts: B pairs of a history and its first row.
    """

    rows: TimeStep
    search: SearchInfo
    info: BatchInfo
    starts: list[tuple[History, int]]


def make_blocks(histories, num_starts, future, gamma, transform=lambda reward: reward):
    """The blocks of all segments of some histories."""
    starts = [(history, row) for history in histories for row in range(len(history) - num_starts + 1)]
    taken = []
    for history, row in starts:
        end = history.end(row + num_starts - 1)
        taken.append([min(row + step, end) for step in range(num_starts + future)])

    def column(name, dtype=torch.float32):
        pairs = zip(starts, taken, strict=True)
        return torch.tensor(
            [[getattr(history, name)[row] for row in rows] for (history, _), rows in pairs], dtype=dtype
        )

    rows = TimeStep(
        step_type=column("step_type", torch.uint8),
        reward=column("reward"),
        discount=column("discount"),
        observation=column("mark").unsqueeze(-1),
        prev_action=column("action", torch.int64),
        env_id=torch.zeros(len(starts), num_starts + future, dtype=torch.int32),
    )
    position = torch.tensor(
        [[history.oldest + row for row in rows] for (history, _), rows in zip(starts, taken, strict=True)]
    )
    newest = torch.tensor([[history.oldest + len(history) - 1] for history, _ in starts])
    tails = [tail_of(history, rows[-1], gamma, transform) for (history, _), rows in zip(starts, taken, strict=True)]
    reward, discount, value = (torch.tensor(numbers) for numbers in zip(*tails, strict=True))
    tail = Tail(reward, discount, SearchInfo((), value))
    info = BatchInfo(rows.prev_action, position, age=newest - position, tail=tail)
    return Blocks(rows, SearchInfo(column("policy"), column("value")), info, starts)


def tail_of(history, row, gamma, transform):
    """The discounted rewards behind a row, the weight of what is behind them, and the value stored at the end."""
    end, total, weight = history.end(row), 0.0, 1.0
    for later in range(row + 1, end + 1):
        total += weight * transform(history.reward[later])
        weight *= gamma * history.discount[later]
        # The discount of row `later` weighs what comes behind it, its reward is weighed by those before.
    return float(total), weight, history.value[end]


def return_of(history, row, num_steps, gamma, value_of, predicts_reward=True):
    """z(c): the rewards of m = min(num_steps, E(c) - c) steps, then `value_of(c + m)`."""
    if history.is_over(row):
        return 0.0 if predicts_reward else history.reward[row]
    steps = min(num_steps, history.end(row) - row)
    total = 0.0
    for step in range(1, steps + 1):
        total += gamma ** (step - 1) * product(history.discount[row : row + step]) * history.reward[row + step]
    return total + gamma**steps * product(history.discount[row : row + steps + 1]) * value_of(row + steps)


def product(numbers):
    result = 1.0
    for number in numbers:
        result *= number
    return result


def random_histories(seed, num=3):
    """Some of them, with marks of their own."""
    generator = random.Random(seed)
    return [random_history(generator, mark=100.0 * number) for number in range(num)]


def blocks_of(maker, rows, num_starts, gamma, transform=lambda reward: reward):
    """Blocks with as many rows, observations and tails as the maker asks for, and no more."""
    needed = maker.rows_needed()
    blocks = make_blocks(rows, num_starts, needed.future, gamma, transform)
    seen = blocks.rows.observation[:, : num_starts + needed.future_observations]
    info = blocks.info if needed.tail is not None else blocks.info._replace(tail=())
    return blocks._replace(rows=blocks.rows._replace(observation=seen), info=info)


def expected_targets(history, start, num_unroll_steps, value_at):
    """One entry for each of k = 0 … R, by the definition; `value_at(c)` is the value target."""
    end = history.end(start)
    entries = []
    for k in range(num_unroll_steps + 1):
        row, following = min(start + k, end), min(start + k + 1, end)
        entries.append(
            {
                "beyond": start + k > end,
                "over": row == end and history.discount[row] == 0.0,
                "reward": 0.0 if start + k > end else history.reward[row],
                "action": history.action[following],
                "policy": history.policy[row],
                "value": value_at(row),
                "mark": history.mark[row],
            }
        )
    partial = history.discount[min(start + num_unroll_steps, end)] != 0.0
    return entries, partial


def check_against_definition(blocks, targets, num_unroll_steps, value_at):
    """`value_at(history, row, block's first row)` is the value target."""
    num_starts = targets.value.shape[1]
    for number, (history, first) in enumerate(blocks.starts):
        for start in range(num_starts):
            entries, partial = expected_targets(
                history, first + start, num_unroll_steps, lambda row, h=history, f=first: value_at(h, row, f)
            )
            found = {
                "beyond": targets.beyond_episode_end[number, start],
                "over": targets.game_over[number, start],
                "reward": targets.reward[number, start],
                "action": targets.action[number, start],
                "policy": targets.policy[number, start],
                "value": targets.value[number, start],
                "mark": targets.observation[number, start, :, 0],
            }
            for name, tensor in found.items():
                wanted = [entry[name] for entry in entries]
                wanted = {"action": wanted[:-1], "mark": wanted[1:]}.get(name, wanted)
                torch.testing.assert_close(
                    tensor.double(),
                    torch.tensor(wanted).double(),
                    rtol=1e-4,
                    atol=1e-4,
                    msg=lambda m, n=name: f"{n}: {m}",
                )
            assert targets.is_partial[number, start].item() == partial
