"""DQN with a memory: stored states, targets, burn-in, and a task that cannot be done without."""

import functools

import pytest
import torch
from dqn_parts import ACTION, FIRST, LAST, MID, block, loss_of, make_dqn

from alfish import nest, specs
from alfish.data_structures import BatchInfo, Progress, TimeStep, time_step_spec
from alfish.networks.encoders import MLPEncoder
from alfish.networks.q_network import QNetwork
from alfish.networks.recurrent_encoder import RecurrentEncoder
from alfish.ops.target_updates import TargetUpdate
from alfish.specs import TensorSpec

LENGTH = 8
ENCODERS = {cell: functools.partial(RecurrentEncoder, cell=cell, state_size=6) for cell in ("gru", "lstm")}


def random_block(algorithm, step_type, seed=0):
    """A block of the algorithm's rows with a random state before it."""
    generator = torch.Generator().manual_seed(seed)
    state = nest.map_structure(lambda leaf: torch.randn(leaf.shape, generator=generator), algorithm.initial_state(1))
    observation = torch.randn(1, len(step_type), 2, generator=generator)
    reward = torch.randn(len(step_type), generator=generator).tolist()
    return block(step_type, observation, reward, action=[0, 1] * (len(step_type) // 2), state=state)


def act_through(function, rows, state):
    """Q of each row `[1, T, A]`, row by row as while collecting, with states zeroed where episodes begin."""
    found = []
    for t in range(rows.reward.shape[1]):
        row = nest.map_structure(lambda leaf, t=t: leaf[:, t], rows)
        if row.is_first():
            state = nest.map_structure(torch.zeros_like, state)
        features, state = function.encoder.step(row.observation, state)
        found.append(function.q_network(features))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("cell", ENCODERS)
@pytest.mark.parametrize("burn_in", [0, 1, 3, 4, 5])
def test_training_sees_what_acting_saw(cell, burn_in):
    algorithm = make_dqn(encoder=ENCODERS[cell], discount=0.5, burn_in=burn_in, num_steps=2)
    with torch.no_grad():
        for parameter in algorithm.target.parameters():
            parameter.add_(0.1)
    rows, batch_info = random_block(algorithm, [MID, MID, MID, LAST, FIRST, MID, MID, MID])
    num_rows = LENGTH - 2
    online, target = (act_through(each, rows, batch_info.state)[0] for each in (algorithm.online, algorithm.target))
    inputs, info = algorithm.preprocess_experience(rows, (), batch_info)
    step = algorithm.train_step(inputs, batch_info.state, info)
    # Gradients need not be followed back into the burn-in.
    assert all(not leaf.requires_grad for leaf in nest.leaves(info))
    chosen = online[torch.arange(num_rows), batch_info.action[0, :num_rows]]
    torch.testing.assert_close(step.info.q_value[0], chosen[burn_in:])
    assert inputs.step_type.tolist() == [rows.step_type[0, burn_in:num_rows].tolist()]
    # The ends of two-step returns; row 3 is the end of an episode that was cut.
    ends = torch.tensor([2, 3, 3, 3, 6, 7])
    value = target[ends, online[ends].argmax(dim=-1)]
    reward = rows.reward[0]
    two_steps = reward[1:7] + 0.5 * reward[2:8] + 0.25 * value
    two_steps[2] = reward[3] + 0.5 * value[2]
    trained = [row for row in range(burn_in, num_rows) if row != 3]
    torch.testing.assert_close(info.target[0, [row - burn_in for row in trained]], two_steps[trained])
    assert step.info.is_trained.tolist() == [[row != 3 for row in range(burn_in, num_rows)]]


def test_the_state_is_the_encoders_and_acting_hands_it_on():
    algorithm = make_dqn(encoder=ENCODERS["lstm"], epsilon=0.0)
    state = algorithm.initial_state(3)
    assert [tuple(leaf.shape) for leaf in nest.leaves(state)] == [(3, 6), (3, 6)]
    row = specs.zeros(time_step_spec(TensorSpec((2,)), ACTION), (3,))._replace(observation=torch.randn(3, 2))
    features, after = algorithm.online.encoder.step(row.observation, state)
    for hook in (algorithm.rollout_step, algorithm.predict_step):
        step = hook(row, state)
        assert all(map(torch.equal, nest.leaves(step.state), nest.leaves(after)))
        assert torch.equal(step.output, algorithm.online.q_network(features).argmax(dim=-1))


def recall_episodes(num_episodes):
    """Blocks of a task in which the first row shows which action is worth 1 two rows later; actions are random."""
    sign = torch.randint(0, 2, (num_episodes,)) * 2.0 - 1.0
    action = torch.randint(0, 2, (num_episodes, 4))
    observation = torch.zeros(num_episodes, 4, 2)
    observation[:, 0, 0] = sign
    observation[:, 2, 1] = 1.0  # now
    reward = torch.zeros(num_episodes, 4)
    reward[:, 3] = (action[:, 2] == (sign > 0)).float()
    discount = torch.ones(num_episodes, 4)
    discount[:, 3] = 0.0
    rows = TimeStep(
        step_type=torch.tensor([FIRST, MID, MID, LAST], dtype=torch.uint8).expand(num_episodes, 4),
        reward=reward,
        discount=discount,
        observation=observation,
        prev_action=torch.zeros_like(action),
        env_id=torch.zeros(num_episodes, 4, dtype=torch.int32),
    )
    return rows, BatchInfo(action, torch.arange(4).expand(num_episodes, 4))


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        (functools.partial(RecurrentEncoder, state_size=16), 1.0),
        (functools.partial(MLPEncoder, hidden_sizes=(16,)), 0.5),
    ],
)
def test_only_with_a_memory_what_was_seen_first_is_recalled(encoder, expected):
    torch.manual_seed(0)
    q_network = functools.partial(QNetwork, hidden_sizes=(16,))
    algorithm = make_dqn(encoder=encoder, q_network=q_network, discount=0.9, target_update=TargetUpdate(tau=0.1))
    optimizer = torch.optim.Adam(algorithm.online.parameters(), lr=0.01)
    for update in range(200):
        rows, batch_info = recall_episodes(32)
        batch_info = batch_info._replace(state=algorithm.initial_state(32))
        optimizer.zero_grad()
        loss_of(algorithm, rows, batch_info).loss.mean().backward()
        optimizer.step()
        algorithm.after_update(Progress(updates=update + 1))
    rows, _ = recall_episodes(64)
    state = algorithm.initial_state(64)
    for t in range(3):
        step = algorithm.predict_step(nest.map_structure(lambda leaf, t=t: leaf[:, t], rows), state)
        state = step.state
    right = (step.output == (rows.observation[:, 0, 0] > 0)).float().mean().item()
    assert right == expected if expected == 1.0 else abs(right - expected) < 0.2
