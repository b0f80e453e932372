"""DQN: targets by hand and by definition, the loss, acting, masks, priorities, and what it refuses."""

import functools
import math

import pytest
import torch
from dqn_parts import ACTION, FIRST, LAST, MID, OBSERVATION, ReadOffNetwork, block, loss_of, make_dqn
from muzero_histories import make_blocks, random_histories

from alfish import nest, specs
from alfish.algorithms.dqn_algorithm import DQNLossInfo
from alfish.data_structures import BatchInfo, Progress, RowsNeeded, time_step_spec
from alfish.networks.encoders import IdentityEncoder, MLPEncoder
from alfish.networks.image_encoder import ImageEncoder
from alfish.networks.q_network import DuellingQNetwork, QNetwork
from alfish.networks.recurrent_encoder import RecurrentEncoder
from alfish.ops.schedules import LinearSchedule
from alfish.ops.target_updates import TargetUpdate
from alfish.ops.value_transforms import SignedHyperbolicTransform
from alfish.specs import BoundedTensorSpec, TensorSpec

MASKED = {"q": TensorSpec((3,)), "legal": BoundedTensorSpec((3,), torch.int8, 0, 1)}
THREE = BoundedTensorSpec((), torch.int64, 0, 2)
Q_OF_ROWS = torch.tensor([[[1.0, 2.0], [3.0, 1.0], [5.0, 4.0], [0.0, 7.0]]])
REWARDS = [0.0, 1.0, 2.0, 3.0]

# Step types, discounts, positions, targets of rows 0 and 1 with n = 2, gamma = 1/2 and ten times the values above in
# the target network, and which targets are known.
BLOCKS = {
    # 1 + 2/2 + 50/4; 2 + 3/2 + 70/4
    "inside": ([FIRST, MID, MID, MID], [1.0] * 4, None, [14.5, 21.0], [True, True]),
    # 1 + 2/2 + 0; 2 + 0
    "terminated": ([FIRST, MID, LAST, LAST], [1.0, 1.0, 0.0, 0.0], [7, 8, 9, 9], [2.0, 2.0], [True, True]),
    # 1 + 2/2 + 50/4; 2 + 50/2: the last observation's value stands for what was lost
    "truncated": ([FIRST, MID, LAST, LAST], [1.0] * 4, [7, 8, 9, 9], [14.5, 27.0], [True, True]),
    # 1 + 30/2; row 1 is LAST; nothing comes across from the next episode
    "truncated within": ([MID, LAST, FIRST, MID], [1.0] * 4, None, [16.0, None], [True, True]),
    # 1 + 2/2 + 50/4; 2 + 50/2: as far as is stored
    "open": ([MID, MID, MID, MID], [1.0] * 4, [7, 8, 9, 9], [14.5, 27.0], [True, True]),
    # 1 + 30/2; what row 1's action leads to is not stored yet
    "newest": ([MID, MID, MID, MID], [1.0] * 4, [7, 8, 8, 8], [16.0, None], [True, False]),
    # the environment's discount goes into every step: 1 + 2/4 + 50/8, 2 + (3 + 70/2)/2
    "discounted": ([MID, MID, MID, MID], [1.0, 0.5, 1.0, 1.0], None, [7.75, 21.0], [True, True]),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_targets_by_hand(name):
    step_type, discount, position, target, is_known = BLOCKS[name]
    algorithm = make_dqn(target_factor=10.0, num_steps=2, discount=0.5)
    rows, batch_info = block(step_type, Q_OF_ROWS, REWARDS, discount, [1, 0, 1, 1], position)
    inputs, info = algorithm.preprocess_experience(rows, (), batch_info)
    found = [
        None if expected is None else value for expected, value in zip(target, info.target[0].tolist(), strict=True)
    ]
    assert found == target
    assert info.is_known.tolist() == [is_known]
    assert info.action.tolist() == [[1, 0]]
    assert inputs.step_type.tolist() == [step_type[:2]] and inputs.observation.shape == (1, 2, 2)
    assert not info.target.requires_grad


@pytest.mark.parametrize(("double", "expected"), [(True, 1.0 - 0.5 * 50.0), (False, 1.0 - 0.5 * 40.0)])
def test_the_learning_network_chooses_if_double(double, expected):
    # Q of row 1 is (5, 4), of the target network (-50, -40).
    algorithm = make_dqn(target_factor=-10.0, discount=0.5, double=double)
    rows, batch_info = block([FIRST, MID], Q_OF_ROWS[:, 1:3], [0.0, 1.0])
    assert algorithm.preprocess_experience(rows, (), batch_info)[1].target.tolist() == [[expected]]


def test_the_network_works_on_transformed_values():
    transform = SignedHyperbolicTransform(0.01)
    algorithm = make_dqn(target_factor=1.0, discount=0.5, value_transform=transform)
    rows, batch_info = block([FIRST, MID], Q_OF_ROWS[:, 1:3], [0.0, 100.0])
    expected = transform.forward(100.0 + 0.5 * transform.inverse(torch.tensor([[5.0]])))
    torch.testing.assert_close(algorithm.preprocess_experience(rows, (), batch_info)[1].target, expected)
    row = nest.map_structure(lambda leaf: leaf[:, 0], rows)
    torch.testing.assert_close(algorithm.rollout_step(row, ()).info.value, transform.inverse(torch.tensor([3.0])))


class MarkNetwork(ReadOffNetwork):
    """Q of three actions from the mark of a row, which no other row has."""

    def forward(self, observation):
        return torch.sin(observation * torch.tensor([1.0, 2.0, 3.0]) * self.factor)


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize("num_starts", [1, 4])
def test_targets_are_those_of_the_definition(num_starts, num_steps):
    gamma, target_factor = 0.9, 1.7
    algorithm = make_dqn(TensorSpec((1,)), THREE, q_network=MarkNetwork, num_steps=num_steps, discount=gamma)
    algorithm.target.q_network.factor.fill_(target_factor)
    blocks = make_blocks(random_histories(seed=3), num_starts, algorithm.rows_needed().future, gamma)
    _, info = algorithm.preprocess_experience(blocks.rows, (), blocks.info)

    def expected(history, row):
        total, weight = 0.0, 1.0
        for _ in range(num_steps):
            if row == history.end(row):
                break
            row += 1
            total += weight * history.reward[row]
            weight *= gamma * history.discount[row]
        online, target = (
            [math.sin(history.mark[row] * k * factor) for k in (1, 2, 3)] for factor in (1.0, target_factor)
        )
        return total + weight * target[online.index(max(online))]

    wanted = torch.tensor(
        [[expected(history, row + step) for step in range(num_starts)] for history, row in blocks.starts]
    )
    torch.testing.assert_close(info.target, wanted, atol=1e-4, rtol=1e-4)
    known = [
        [history.end(row + step) > row + step or history.step_type[row + step] == LAST for step in range(num_starts)]
        for history, row in blocks.starts
    ]
    assert info.is_known.tolist() == known
    assert not all(map(all, known))


def test_the_value_of_an_illegal_action_is_no_target():
    algorithm = make_dqn(MASKED, THREE, target_factor=10.0, discount=0.5, legal_mask_key="legal")

    def target(legal, step_type, discount):
        observation = {
            "q": torch.tensor([[[0.0, 0.0, 0.0], [1.0, 9.0, 2.0]]]),
            "legal": torch.tensor([[[1, 1, 1], legal]], dtype=torch.int8),
        }
        rows, batch_info = block([FIRST, step_type], observation, discount=[1.0, discount])
        return algorithm.preprocess_experience(rows, (), batch_info)[1].target.item()

    assert target([1, 0, 1], MID, 1.0) == 10.0
    # A time limit may leave the mask as it is; the end of a game leaves nothing.
    assert target([1, 0, 0], LAST, 1.0) == 5.0
    assert target([0, 0, 0], LAST, 1.0) == 45.0
    assert target([0, 0, 0], LAST, 0.0) == 0.0


@pytest.mark.parametrize(("threshold", "expected"), [(1.0, [2.5, 0.125]), (2.0, [4.0, 0.125]), (None, [4.5, 0.125])])
def test_the_loss_by_hand(threshold, expected):
    algorithm = make_dqn(target_factor=1.0, discount=0.5, huber_threshold=threshold)
    # Q 1 and its target 3 + 5/2 - 1.5 = 4, an error of 3; Q 1.5 and its target 2; a LAST row
    info = DQNLossInfo(
        q_value=torch.tensor([[1.0, 1.5, 8.0]], requires_grad=True),
        target=torch.tensor([[4.0, 2.0, math.inf]]),
        is_known=torch.tensor([[True, True, True]]),
        is_trained=torch.tensor([[True, True, False]]),
    )
    result = algorithm.calc_loss(info)
    assert result.loss.tolist() == [[*expected, 0.0]]
    assert result.priority == ()
    extra = {name: value.item() for name, value in result.extra.items()}
    assert extra == pytest.approx({"q_value": 1.25, "target": 3.0, "absolute_td_error": 1.75, "epsilon": 0.1})


@pytest.mark.parametrize("name", BLOCKS)
def test_rows_without_a_target_have_no_loss(name):
    step_type, discount, position, target, _ = BLOCKS[name]
    algorithm = make_dqn(target_factor=10.0, num_steps=2, discount=0.5)
    result = loss_of(algorithm, *block(step_type, Q_OF_ROWS, REWARDS, discount, [1, 0, 1, 1], position))
    # An error of e counts |e| - 1/2 here; Q is 2 in row 0 and 3 in row 1, without the factor of the target network.
    errors = [abs(value - q_value) for value, q_value in zip(target, (2.0, 3.0), strict=True) if value is not None]
    assert result.loss.sum().item() == pytest.approx(
        sum(error - 0.5 if error > 1.0 else error**2 / 2 for error in errors)
    )
    assert result.extra["absolute_td_error"].item() == pytest.approx(sum(errors) / len(errors))


@pytest.mark.parametrize("double", [True, False])
def test_only_the_value_of_the_action_gets_a_gradient(double):
    algorithm = make_dqn(double=double, discount=0.5)
    rows, batch_info = block([FIRST, MID], torch.randn(1, 2, 2), [0.0, 1.0], action=[1, 0])
    loss_of(algorithm, rows, batch_info).loss.sum().backward()
    output = algorithm.online.q_network.value.output
    assert output.bias.grad[0] == 0.0 and output.bias.grad[1] != 0.0
    assert all(parameter.grad is None for parameter in algorithm.target.parameters())
    assert not any(parameter.requires_grad for parameter in algorithm.target.parameters())


def test_priorities_leave_out_what_is_not_trained_on():
    algorithm = make_dqn(prioritized=True, max_priority_share=0.5)
    assert algorithm.gives_priorities and not make_dqn().gives_priorities
    info = DQNLossInfo(
        q_value=torch.zeros(4, 2),
        target=torch.tensor([[1.0, -3.0], [2.0, 50.0], [50.0, 50.0], [50.0, 50.0]]),
        is_known=torch.tensor([[True, True], [True, False], [True, True], [True, False]]),
        is_trained=torch.tensor([[True, True], [True, False], [False, False], [False, False]]),
    )
    # Mean 2 and largest 3; 2; nothing but LAST rows; a newest row, which keeps the largest until it is known.
    assert algorithm.calc_loss(info).priority.tolist() == [2.5, 2.0, 0.0, 2.5]


def row_of(q_values, legal=None, step_type=None):
    """Rows `[B]` whose Q are given."""
    q_values = torch.tensor(q_values)
    spec = OBSERVATION if legal is None else MASKED
    row = specs.zeros(time_step_spec(spec, ACTION), (len(q_values),))
    if legal is None:
        return row._replace(observation=q_values)
    if step_type is not None:
        row = row._replace(step_type=torch.tensor(step_type, dtype=torch.uint8))
    return row._replace(observation={"q": q_values, "legal": torch.tensor(legal, dtype=torch.int8)})


def test_the_greedy_action_and_its_value():
    spec = BoundedTensorSpec((), torch.int32, -1, 0)
    algorithm = make_dqn(action_spec=spec, target_factor=1.0, epsilon=0.0)
    row = row_of([[1.0, 2.0], [4.0, 3.0]])
    step = algorithm.rollout_step(row, ())
    assert step.output.tolist() == [0, -1] and step.output.dtype == torch.int32
    assert step.info.value.tolist() == [2.0, 4.0]
    before = torch.get_rng_state()
    assert torch.equal(algorithm.predict_step(row, ()).output, step.output)
    assert torch.equal(torch.get_rng_state(), before)
    # Its numbers begin at 0 again where a network is asked.
    rows, batch_info = block([FIRST, MID], Q_OF_ROWS[:, :2], action=[-1, 0])
    assert algorithm.preprocess_experience(rows, (), batch_info)[1].action.tolist() == [[0]]


def test_random_actions_are_legal_and_equally_likely():
    torch.manual_seed(0)
    algorithm = make_dqn(MASKED, THREE, target_factor=1.0, epsilon=1.0, legal_mask_key="legal")
    row = row_of([[0.0, 9.0, 1.0]] * 3000, [[1, 0, 1]] * 3000)
    counts = torch.bincount(algorithm.rollout_step(row, ()).output, minlength=3).tolist()
    assert counts[1] == 0 and abs(counts[0] - 1500) < 120
    assert algorithm.predict_step(row, ()).output.unique().tolist() == [2]
    algorithm.after_train_iter(Progress(fraction=1.0))
    free = make_dqn(target_factor=1.0, epsilon=0.5)
    share = free.rollout_step(row_of([[0.0, 1.0]] * 4000), ()).output.float().mean().item()
    assert share == pytest.approx(0.75, abs=0.03)


def test_a_row_without_a_legal_action_is_refused():
    algorithm = make_dqn(MASKED, THREE, target_factor=1.0, legal_mask_key="legal")
    q_values, legal = [[0.0] * 3] * 2, [[1, 0, 0], [0, 0, 0]]
    algorithm.rollout_step(row_of(q_values, legal, [MID, LAST]), ())
    for hook in (algorithm.rollout_step, algorithm.predict_step):
        with pytest.raises(ValueError, match=r"\['legal'\] allows no action; .* DQNAlgorithm.legal_mask_key = None"):
            hook(row_of(q_values, legal, [MID, MID]), ())


def test_epsilon_follows_its_schedule_and_is_reported():
    algorithm = make_dqn(target_factor=1.0, epsilon=LinearSchedule(1.0, 0.2, 0.5))
    rows, batch_info = block([FIRST, MID], Q_OF_ROWS[:, :2])
    for fraction, epsilon in ((0.0, 1.0), (0.25, 0.6), (1.0, 0.2)):
        algorithm.after_train_iter(Progress(fraction=fraction))
        assert loss_of(algorithm, rows, batch_info).extra["epsilon"].item() == pytest.approx(epsilon)


def test_the_target_network_follows_when_it_is_due():
    algorithm = make_dqn(encoder=MLPEncoder, target_update=TargetUpdate(period=3))
    with torch.no_grad():
        for parameter in algorithm.online.parameters():
            parameter.add_(1.0)
    for updates, follows in ((1, False), (2, False), (3, True)):
        algorithm.after_update(Progress(updates=updates))
        pairs = zip(algorithm.target.parameters(), algorithm.online.parameters(), strict=True)
        assert all(torch.equal(*pair) == follows for pair in pairs)


@pytest.mark.parametrize("network", [QNetwork, DuellingQNetwork])
def test_values_of_two_steps_are_learned(network):
    # State 0: action 0 ends with 0.1, action 1 leads to state 1. State 1: action 0 ends with 0, action 1 with 1.
    torch.manual_seed(0)
    q_network = functools.partial(network, hidden_sizes=(32,))
    algorithm = make_dqn(q_network=q_network, discount=0.9, target_update=TargetUpdate(period=5))
    states = torch.eye(2)
    rows, infos = zip(
        block([FIRST, LAST], states[[0, 0]].unsqueeze(0), [0.0, 0.1], [1.0, 0.0], [0, 0]),
        block([FIRST, MID], states[[0, 1]].unsqueeze(0), [0.0, 0.0], [1.0, 1.0], [1, 0]),
        block([MID, LAST], states[[1, 1]].unsqueeze(0), [0.0, 0.0], [1.0, 0.0], [0, 0]),
        block([MID, LAST], states[[1, 1]].unsqueeze(0), [0.0, 1.0], [1.0, 0.0], [1, 0]),
        strict=True,
    )
    rows, batch_info = nest.map_structure(lambda *leaves: torch.cat(leaves), *zip(rows, infos, strict=True))
    optimizer = torch.optim.Adam(algorithm.online.parameters(), lr=0.01)
    for update in range(250):
        optimizer.zero_grad()
        loss_of(algorithm, rows, batch_info).loss.mean().backward()
        optimizer.step()
        algorithm.after_update(Progress(updates=update + 1))
    found = algorithm.online.q_network(states)
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.9], [0.0, 1.0]]), atol=0.03, rtol=0.0)


SMALL_IMAGES = functools.partial(ImageEncoder, convolutions=((4, 3, 2),), num_features=8)


@pytest.mark.parametrize("encoder", [SMALL_IMAGES, functools.partial(RecurrentEncoder, encoder=SMALL_IMAGES)])
def test_nested_observations_of_images_and_masks(encoder):
    torch.manual_seed(0)
    observation_spec = {
        "image": BoundedTensorSpec((1, 8, 8), torch.uint8, 0, 255),
        "legal": BoundedTensorSpec((3,), torch.bool, 0, 1),
    }
    q_network = functools.partial(DuellingQNetwork, hidden_sizes=(), stream_hidden_sizes=())
    algorithm = make_dqn(
        observation_spec, THREE, q_network=q_network, encoder=encoder, legal_mask_key="legal", num_steps=2
    )
    image = torch.randint(0, 256, (1, 5, 1, 8, 8), dtype=torch.uint8)
    legal = torch.tensor([[[1, 1, 0], [1, 0, 1], [1, 0, 0], [1, 1, 1], [0, 1, 0]]], dtype=torch.bool)
    rows, batch_info = block([FIRST, MID, MID, MID, MID], {"image": image, "legal": legal}, action=[1, 0, 0, 0, 0])
    batch_info = batch_info._replace(state=algorithm.initial_state(1))
    state, q_values = algorithm.initial_state(1), []
    for t in range(3):
        row = nest.map_structure(lambda leaf, t=t: leaf[:, t], rows)
        step = algorithm.rollout_step(row, state)
        assert legal[0, t, step.output.item()]
        features, state = algorithm.online.encoder.step(row.observation, state)
        q_values.append(algorithm.online.q_network(features)[0, batch_info.action[0, t]])
        torch.testing.assert_close(step.info.value[0], algorithm.online.q_network(features)[0, legal[0, t]].max())
    inputs, info = algorithm.preprocess_experience(rows, (), batch_info)
    trained = algorithm.train_step(inputs, batch_info.state, info)
    torch.testing.assert_close(trained.info.q_value[0], torch.stack(q_values))
    loss_of(algorithm, rows, batch_info).loss.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in algorithm.online.parameters())


def test_what_it_declares():
    algorithm = make_dqn(num_steps=3)
    assert algorithm.needs_replay and not algorithm.on_policy and not algorithm.trains_on_last_rows
    assert algorithm.rows_needed() == RowsNeeded(future=3, future_observations=3)
    assert algorithm.initial_state(2) == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"discount": 1.5}, r"DQNAlgorithm.discount is 1.5; expected a number in \[0, 1\]"),
        ({"num_steps": 0}, "DQNAlgorithm.num_steps is 0; it must be at least 1"),
        ({"epsilon": 1.5}, "DQNAlgorithm.epsilon is 1.5 at 0 % of the run; it must be at most 1"),
        ({"epsilon": LinearSchedule}, r"epsilon is the class LinearSchedule; .* @LinearSchedule\(\) with its paren"),
        ({"epsilon": LinearSchedule(1.0, -0.1)}, "DQNAlgorithm.epsilon is -0.0"),
        ({"huber_threshold": 0.0}, "DQNAlgorithm.huber_threshold is 0.0; expected a finite number above 0"),
        ({"huber_threshold": "1"}, "DQNAlgorithm.huber_threshold is '1'; expected a finite number above 0"),
        ({"max_priority_share": -1.0}, "DQNAlgorithm.max_priority_share is -1.0"),
        (
            {"encoder": QNetwork},
            "DQNAlgorithm.encoder is QNetwork, which cannot be called with observation_spec: .*Encoder",
        ),
        ({"q_network": functools.partial(QNetwork, hidden_sizes=(0,))}, r"DQNAlgorithm.q_network \(partial\): .*, 0, "),
        ({"burn_in": 2}, "DQNAlgorithm.burn_in is 2, but IdentityEncoder has no memory"),
        ({"target_update": TargetUpdate}, r"DQNAlgorithm.target_update is the class TargetUpdate; .*@TargetUpdate\(\)"),
        ({"target_update": None}, r"DQNAlgorithm.target_update is None; expected, in a gin file, @TargetUpdate\(\)"),
        ({"value_transform": SignedHyperbolicTransform}, "value_transform is the class SignedHyperbolicTransform"),
        ({"value_transform": None}, r"value_transform is None; expected, .* @SignedHyperbolicTransform\(\)"),
        ({"legal_mask_key": "legal"}, "DQNAlgorithm.legal_mask_key is 'legal'; expected a key of the observation"),
        ({"q_network": QNetwork(OBSERVATION, ACTION)}, "DQNAlgorithm.q_network is a QNetwork that is already built"),
        ({"encoder": MLPEncoder(OBSERVATION)}, "DQNAlgorithm.encoder is a MLPEncoder that is already built"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_dqn(**arguments)


@pytest.mark.parametrize(
    "action_spec",
    [
        BoundedTensorSpec((2,), torch.float32, -1.0, 1.0),
        BoundedTensorSpec((2,), torch.int64, 0, 1),
        {"move": ACTION, "speak": ACTION},
    ],
)
def test_actions_that_are_not_one_choice_are_refused(action_spec):
    with pytest.raises(ValueError, match=r"DQNAlgorithm compares .* expected one discrete choice .* @PPOAlgorithm"):
        make_dqn(action_spec=action_spec)


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"ReadOffNetwork returned .*\(2, 2\); expected Q of shape \(2, 3\)"):
        make_dqn(action_spec=THREE, q_network=ReadOffNetwork)
    with pytest.raises(ValueError, match="expected a TensorSpec of real numbers"):
        make_dqn(TensorSpec((3,), torch.complex64))


class OnRowsOnly(QNetwork):
    """A network that was written for rows `[N, ...]`, as convolutions are."""

    def forward(self, observation):
        assert observation.ndim == 2
        return super().forward(observation)


@pytest.mark.parametrize("encoder", [IdentityEncoder, functools.partial(RecurrentEncoder, state_size=4)])
def test_a_network_need_not_know_of_time(encoder):
    found = []
    for q_network in (QNetwork, OnRowsOnly):
        torch.manual_seed(0)
        algorithm = make_dqn(q_network=q_network, encoder=encoder, num_steps=2)
        rows, batch_info = block([FIRST, MID, MID, MID, MID], torch.randn(1, 5, 2), action=[1, 0, 1, 0, 0])
        batch_info = batch_info._replace(state=algorithm.initial_state(1))
        found.append(loss_of(algorithm, rows, batch_info).loss)
    torch.testing.assert_close(*found)


def test_everything_moves_to_the_device_of_the_algorithm():
    # An operation that mixes the device "meta" with another one raises, as a GPU would, on machines without one.
    observation = {"legal": BoundedTensorSpec((3,), torch.bool, 0, 1), "position": OBSERVATION}
    algorithm = make_dqn(observation, THREE, prioritized=True, num_steps=2).to("meta")
    row_spec = time_step_spec(observation, THREE)
    step = algorithm.rollout_step(specs.zeros(row_spec, (2,), "meta"), ())
    assert step.output.device.type == "meta"
    rows = specs.zeros(row_spec, (2, 5), "meta")
    action = torch.zeros(2, 5, dtype=torch.int64, device="meta")
    result = loss_of(algorithm, rows, BatchInfo(action, action))
    result.loss.mean().backward()
    assert {value.device.type for value in (*result.extra.values(), result.priority)} == {"meta"}
