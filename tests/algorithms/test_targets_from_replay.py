"""Targets of blocks that a real replay buffer hands out, whose ring has wrapped, against their definition."""

import random

import numpy as np
import pytest
import torch
from muzero_histories import NUM_ACTIONS, Blocks, check_against_definition, random_history, return_of
from muzero_parts import PlainModel

from alfish.algorithms.mcts_algorithm import SearchInfo
from alfish.algorithms.muzero_target_maker import TargetMaker
from alfish.algorithms.td_horizons import LinearTdStepFunc
from alfish.data_structures import Experience, TimeStep, time_step_spec
from alfish.experience_replayers.replay_buffer import ReplayBuffer
from alfish.ops.sampled_policies import make_sampled_policy
from alfish.specs import BoundedTensorSpec, TensorSpec

OBSERVATION = TensorSpec((1,))
ACTION = BoundedTensorSpec((), torch.int64, 0, NUM_ACTIONS - 1)
GAMMA = 0.75
LENGTH, KEPT = 47, 24  # rows of each environment that were added, and that are stored


def filled_buffer(histories, rows_needed, num_starts):
    row = Experience(time_step_spec(OBSERVATION, ACTION), ACTION, SearchInfo(TensorSpec((NUM_ACTIONS,)), TensorSpec()))
    buffer = ReplayBuffer(row, len(histories), KEPT * len(histories), rows_needed, num_starts)
    begin = 0
    for size in (5, 1, 20, 8, 13):
        buffer.append(window_of(histories, begin, begin + size))
        begin += size
    assert begin == LENGTH
    return buffer


def window_of(histories, begin, end):
    def column(name, dtype=torch.float32):
        return torch.tensor(
            [[getattr(history, name)[row] for history in histories] for row in range(begin, end)], dtype=dtype
        )

    action = column("action", torch.int64)
    time_step = TimeStep(
        column("step_type", torch.uint8),
        column("reward"),
        column("discount"),
        column("mark").unsqueeze(-1),
        action,
        torch.arange(len(histories), dtype=torch.int32).expand(end - begin, -1),
    )
    return Experience(time_step, action, SearchInfo(column("policy"), column("value")))


@pytest.mark.parametrize("num_starts", [1, 3])
@pytest.mark.parametrize(
    ("td_steps", "network", "function"),
    [(3, False, None), (3, True, None), (-1, False, None), (6, False, LinearTdStepFunc(60))],
)
def test_against_the_definition(num_starts, td_steps, network, function):
    generator = random.Random(num_starts)
    histories = [random_history(generator, LENGTH, mark=100.0 * number) for number in range(2)]
    maker = TargetMaker(
        OBSERVATION,
        ACTION,
        make_sampled_policy(ACTION),
        2,
        td_steps,
        GAMMA,
        target_model=PlainModel(logits=(0.0,) * NUM_ACTIONS) if network else None,
        td_steps_function=function,
        needs_observations=True,
    )
    buffer = filled_buffer(histories, maker.rows_needed(), num_starts)
    batch = buffer.sample(300, np.random.default_rng(0))
    starts = [
        (histories[env_id], position) for position, env_id in zip(*map(np.ndarray.tolist, batch.rows), strict=True)
    ]
    assert {position for _, position in starts} == set(range(LENGTH - KEPT, LENGTH - num_starts + 1))
    experience = batch.experience
    _, targets, _ = maker(experience.time_step, experience.rollout_info, batch.batch_info)

    def value_at(history, row, first):
        steps = 1000 if td_steps == -1 else td_steps
        if function is not None:
            age = 2 * (LENGTH - 1 - row)  # two environments
            steps = 1 + -(-5 * max(0, 60 - age) // 60)
        return return_of(history, row, steps, GAMMA, (history.mark if network else history.value).__getitem__)

    blocks = Blocks(experience.time_step, experience.rollout_info, batch.batch_info, starts)
    check_against_definition(blocks, targets, 2, value_at)
