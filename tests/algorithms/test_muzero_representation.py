"""The loss of an unrolled model by hand, and what stored rows become."""

import math

import pytest
import torch
from muzero_parts import ACTION, OBSERVATION, PlainModel, random_block, small_model

from alfish import nest
from alfish.algorithms.mcts_algorithm import SearchInfo
from alfish.algorithms.muzero_losses import UnrollInfo
from alfish.algorithms.muzero_representation import MuzeroRepresentationImpl
from alfish.algorithms.muzero_targets import MuzeroTargets
from alfish.data_structures import BatchInfo, Progress, RowsNeeded, StepType, TimeStep
from alfish.models.mcts_model import Prediction
from alfish.models.unroll import Unrolled
from alfish.ops.reward_transforms import SignReward
from alfish.ops.target_updates import TargetUpdate
from alfish.specs import BoundedTensorSpec, TensorSpec

F, M, L = StepType.FIRST, StepType.MID, StepType.LAST
LOG_2, LOG_3, LOG_4 = math.log(2.0), math.log(3.0), math.log(4.0)


def make(model=PlainModel, action_spec=ACTION, observation_spec=OBSERVATION, **options):
    settings = {"num_unroll_steps": 2, "td_steps": 1, "discount": 0.5, "value_loss_weight": 1.0} | options
    return MuzeroRepresentationImpl(observation_spec, action_spec, model, **settings)


def with_game_over(*specs):
    return PlainModel(predicts_game_over=True)


def info(beyond=(False, False, False), game_over=(False, False, False), is_partial=False, game_over_logit=None):
    """R = 2. The errors of the values are 1, 2, 2, of the rewards 1, 3; the policies' losses log 4/3, log 4, log 2."""
    logits = torch.tensor([[LOG_3, 0.0], [LOG_3, 0.0], [0.0, 0.0]]).view(1, 1, 3, 2)
    unrolled = Unrolled(
        reward_logits=torch.tensor([1.0, 7.0]).view(1, 1, 2, 1).requires_grad_(),
        prediction=Prediction(
            logits.requires_grad_(),
            torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 3, 1).requires_grad_(),
            () if game_over_logit is None else torch.tensor(game_over_logit).view(1, 1, 3),
        ),
        latent=torch.ones(1, 1, 3, 1),
    )
    targets = MuzeroTargets(
        action=torch.zeros(1, 1, 2, dtype=torch.int64),
        reward=torch.tensor([99.0, 0.0, 4.0]).view(1, 1, 3),  # the first was received before the unroll began
        value=torch.tensor([0.0, 0.0, 1.0]).view(1, 1, 3),
        policy=torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]).view(1, 1, 3, 2),
        beyond_episode_end=torch.tensor(beyond).view(1, 1, 3),
        game_over=torch.tensor(game_over).view(1, 1, 3),
        is_partial=torch.tensor([[is_partial]]),
    )
    return UnrollInfo(unrolled, targets)


def parts(loss_info):
    return {name.removeprefix("loss/"): value.item() for name, value in loss_info.extra.items() if "loss/" in name}


def test_the_loss_by_hand():
    loss = make().calc_loss(info())
    # Steps 1 and 2 count 1/R = 1/2.
    assert parts(loss) == pytest.approx(
        {"policy": LOG_4 - LOG_3 + (LOG_4 + LOG_2) / 2, "value": 1.0 + (4.0 + 4.0) / 2, "reward": (1.0 + 9.0) / 2}
    )
    assert loss.loss.shape == (1, 1)
    assert loss.loss.item() == pytest.approx(sum(parts(loss).values()))


def test_the_weights_of_the_parts():
    weights = {"value": 2.0, "reward": 3.0, "policy": 5.0, "game_over": 7.0}
    algorithm = make(with_game_over, **{f"{name}_loss_weight": weight for name, weight in weights.items()})
    loss = algorithm.calc_loss(info(game_over_logit=[0.0, 0.0, 0.0]))
    assert loss.loss.item() == pytest.approx(sum(weights[name] * part for name, part in parts(loss).items()))


def test_the_value_weighs_a_quarter_unless_told_otherwise():
    algorithm = MuzeroRepresentationImpl(OBSERVATION, ACTION, PlainModel, num_unroll_steps=2, td_steps=1, discount=1.0)
    loss = algorithm.calc_loss(info())
    expected = parts(loss)["policy"] + 0.25 * parts(loss)["value"] + parts(loss)["reward"]
    assert loss.loss.item() == pytest.approx(expected)


def test_beyond_a_games_end_value_and_reward_are_learned_and_the_policy_is_not():
    loss = make().calc_loss(info(beyond=(False, False, True), game_over=(False, True, True)))
    assert parts(loss) == pytest.approx({"policy": LOG_4 - LOG_3, "value": 5.0, "reward": 5.0})


def test_beyond_a_time_limit_or_a_cut_nothing_is_learned():
    given = info(beyond=(False, False, True), is_partial=True)
    loss = make().calc_loss(given)
    # Row 1 is the LAST one: it was searched, so its policy and its value are known.
    assert parts(loss) == pytest.approx({"policy": LOG_4 - LOG_3 + LOG_4 / 2, "value": 3.0, "reward": 0.5})
    loss.loss.sum().backward()
    unrolled = given.unrolled
    assert not unrolled.reward_logits.grad[0, 0, 1].any()
    assert not unrolled.prediction.value_logits.grad[0, 0, 2].any()
    assert not unrolled.prediction.policy_logits.grad[0, 0, 2].any()
    assert unrolled.prediction.value_logits.grad[0, 0, 1].any()


def test_the_game_over_loss():
    # The probabilities of an end are 1/2, 3/4, 3/4; it is there from step 1 on.
    loss = make(with_game_over).calc_loss(info(game_over=(False, True, True), game_over_logit=[0.0, LOG_3, LOG_3]))
    assert parts(loss)["game_over"] == pytest.approx(LOG_2 + 2 * (LOG_4 - LOG_3) / 2)


def test_without_rewards():
    given = info()
    given = given._replace(unrolled=given.unrolled._replace(reward_logits=()))
    loss = make(lambda *specs: PlainModel(predicts_reward=False)).calc_loss(given)
    assert set(parts(loss)) == {"policy", "value"}


def test_the_report():
    report = make().calc_loss(info(beyond=(False, False, True), game_over=(False, True, True))).extra
    # The policy counts at step 0 only: its target is certain, its prediction 3/4.
    assert report["policy/entropy"].item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert report["policy/target_entropy"].item() == 0.0
    assert (report["value/mean"].item(), report["value/target_mean"].item()) == (1.0, 0.0)
    assert not any(isinstance(value, torch.Tensor) and value.requires_grad for value in report.values())


def make_rows(step_types, rewards, discounts, actions):
    length = len(step_types)
    return TimeStep(
        step_type=torch.tensor([step_types], dtype=torch.uint8),
        reward=torch.tensor([rewards], dtype=torch.float32),
        discount=torch.tensor([discounts], dtype=torch.float32),
        observation=torch.ones(1, 1, 1),
        prev_action=torch.tensor([actions]),
        env_id=torch.zeros(1, length, dtype=torch.int32),
    )


def preprocess(algorithm, rows, values=(8.0, 8.0, 8.0, 8.0)):
    length = rows.reward.shape[1]
    num_actions = algorithm.model.num_actions
    search_info = SearchInfo(torch.full((1, length, num_actions), 1 / num_actions), torch.tensor([values]))
    batch_info = BatchInfo(rows.prev_action, torch.arange(length).unsqueeze(0))
    return algorithm.preprocess_experience(rows, search_info, batch_info)


@pytest.mark.parametrize(
    ("last_discount", "value_loss", "reward_loss"),
    [
        # The game ends at row 1. z = [2, 0, 0]; rewards 2 and, beyond, 0. The latent, the values and the rewards are 1.
        (0.0, (1 - 2) ** 2 + (1 + 1) / 2, ((1 - 2) ** 2 + 1) / 2),
        # A time limit at row 1, of value 8: z = [2 + 8/2, 8, unknown]; rewards 2 and unknown.
        (1.0, (1 - 6) ** 2 + (1 - 8) ** 2 / 2, (1 - 2) ** 2 / 2),
    ],
)
def test_from_rows_to_the_loss(last_discount, value_loss, reward_loss):
    algorithm = make(observation_spec=TensorSpec((1,)))
    rows = make_rows([F, L, F, M], [0, 2, 0, 5], [1, last_discount, 1, 1], [0, 1, 0, 1])
    inputs, targets = preprocess(algorithm, rows)
    assert inputs.reward.shape == (1, 1)
    assert targets.action.tolist() == [[[1, 1]]]
    flat = inputs._replace(observation=inputs.observation.flatten(0, 1))
    step = algorithm.train_step(flat, (), nest.map_structure(lambda leaf: leaf.flatten(0, 1), targets))
    found = parts(algorithm.calc_loss(step.info))
    assert found["value"] == pytest.approx(value_loss)
    assert found["reward"] == pytest.approx(reward_loss)


def test_rows_needed():
    assert make(num_unroll_steps=5, td_steps=10).rows_needed() == RowsNeeded(future=15)


def test_rewards_are_transformed_before_anything_else():
    algorithm = make(reward_transform=SignReward())
    _, targets = preprocess(algorithm, make_rows([F, M, M, M], [0, 7, -9, 5], [1] * 4, [0] * 4))
    assert targets.reward.tolist() == [[[0.0, 1.0, -1.0]]]
    assert targets.value.tolist() == [[[1.0 + 4.0, -1.0 + 4.0, 1.0 + 4.0]]]


@pytest.mark.parametrize("start", [1, -2])
def test_actions_that_do_not_start_at_0(start):
    spec = BoundedTensorSpec((), torch.int64, start, start + 1)
    algorithm = make(small_model, spec)
    rows = make_rows([F, M, M, M], [0] * 4, [1] * 4, [0, start, start + 1, start])
    assert preprocess(algorithm, rows)[1].action.tolist() == [[[0, 1]]]
    # The newest row of an open episode is FIRST: its 0 is not an action, and must still be one to the networks.
    rows = make_rows([F] * 4, [0] * 4, [1] * 4, [0] * 4)
    search_info = SearchInfo(torch.full((1, 4, 2), 0.5), torch.zeros(1, 4))
    _, targets = algorithm.preprocess_experience(rows, search_info, BatchInfo((), torch.full((1, 4), 7)))
    assert ((targets.action >= 0) & (targets.action <= 1)).all()
    assert (targets.beyond_episode_end[..., 1:] & targets.is_partial.unsqueeze(-1)).all()


def test_random_actions_beyond_the_end():
    rows = make_rows([F, L] + [F] * 58, [0] * 60, [1, 0] + [1] * 58, [0, 1] + [0] * 58)
    for drawn, expected in ((False, {1}), (True, {0, 1})):
        algorithm = make(num_unroll_steps=40, td_steps=19, random_action_after_episode_end=drawn)
        action = preprocess(algorithm, rows, (8.0,) * 60)[1].action[0, 0]
        assert action[0].item() == 1  # the one that was taken
        assert set(action[1:].tolist()) == expected


def test_values_are_bootstrapped_from_the_target_network():
    # K = 1, γ = 1/2, the game ends at row 3. The target network's value of a row is its observation.
    algorithm = make(observation_spec=TensorSpec((1,)), target_update=TargetUpdate(period=2))
    rows = make_rows([F, M, M, L], [0, 1, 2, 3], [1, 1, 1, 0], [0] * 4)
    rows = rows._replace(observation=torch.tensor([10.0, 20.0, 30.0, 40.0]).view(1, 4, 1))
    algorithm.model.scale.data.fill_(5.0)
    by_hand = {5.0: [1 + 100 / 2, 2 + 150 / 2, 3], 1.0: [1 + 20 / 2, 2 + 30 / 2, 3]}
    assert preprocess(algorithm, rows)[1].value.tolist() == [[by_hand[1.0]]]
    algorithm.after_update(Progress(updates=1))
    assert preprocess(algorithm, rows)[1].value.tolist() == [[by_hand[1.0]]]
    algorithm.after_update(Progress(updates=2))
    assert preprocess(algorithm, rows)[1].value.tolist() == [[by_hand[5.0]]]
    assert algorithm.rows_needed() == RowsNeeded(future=3, future_observations=3)


def test_the_target_network_is_stored_and_not_trained():
    algorithm = make(small_model, target_update=TargetUpdate())
    names = {name for name, parameter in algorithm.named_parameters() if parameter.requires_grad}
    assert names == {f"model.{name}" for name, _ in algorithm.model.named_parameters()}
    assert set(algorithm.state_dict()) == names | {name.replace("model.", "_target_model.", 1) for name in names}
    algorithm.train()
    assert algorithm.model.training
    assert not algorithm._target_model.training


def test_as_a_representation_its_output_is_the_latent():
    algorithm = make(small_model)
    rows, _, _ = random_block(algorithm)
    rows = rows._replace(observation=rows.observation.flatten(0, 1))
    expected = algorithm.model.encode(rows.observation)
    torch.testing.assert_close(algorithm.predict_step(rows, ()).output, expected)
    torch.testing.assert_close(algorithm.rollout_step(rows, ()).output, expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_unroll_steps", 0),
        ("td_steps", 0),
        ("discount", 0.0),
        ("discount", 1.01),
        ("discount", math.nan),
        ("recurrent_gradient_scale", -0.1),
        ("recurrent_gradient_scale", 1.1),
        ("value_loss_weight", -1.0),
        ("reward_loss_weight", math.nan),
        ("policy_loss_weight", -0.5),
        ("game_over_loss_weight", math.inf),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"MuzeroRepresentationImpl\.{name} is {value}"):
        make(**{name: value})
