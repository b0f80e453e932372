import math

import pytest
import torch

from alfish import nest, specs
from alfish.algorithms.ppo_algorithm import PPOAlgorithm, PPOLossInfo, PPOTrainInfo
from alfish.algorithms.stochastic_policy import PolicyInfo
from alfish.data_structures import BatchInfo, Progress, RowsNeeded, StepType, TimeStep, time_step_spec
from alfish.networks.actor_critic import ActorCriticNetwork
from alfish.ops.schedules import LinearSchedule
from alfish.specs import BoundedTensorSpec, TensorSpec

FIRST, MID, LAST = StepType.FIRST, StepType.MID, StepType.LAST
OBSERVATION = TensorSpec((3,))
DISCRETE = BoundedTensorSpec((), torch.int64, 0, 2)
ACTION_SPECS = {
    "discrete": DISCRETE,
    "multi-discrete": BoundedTensorSpec((2,), torch.int32, (0, 1), (1, 3)),
    "box": BoundedTensorSpec((2,), torch.float32, -0.1, (0.1, 0.3)),
    "unbounded": BoundedTensorSpec((1,), torch.float32, -math.inf, math.inf),
}


class FirstElementCritic(torch.nn.Module):
    """A value that is read off the observation, so that tests can say what it is; uniform logits."""

    def __init__(self, observation_spec, action_spec):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(3))

    def forward(self, observation):
        return self.logits.expand(len(observation), 3), observation[:, 0]


def window(
    algorithm: PPOAlgorithm, num_envs: int, length: int, constant_observation: bool = False
) -> tuple[TimeStep, PolicyInfo, BatchInfo]:
    """A random window of `length` + 1 rows in which episodes of about four rows end either way."""
    time_step = specs.zeros(time_step_spec(algorithm.observation_spec, algorithm.action_spec), (num_envs, length + 1))
    is_last = torch.rand(num_envs, length + 1) < 0.25
    is_first = torch.cat((torch.ones(num_envs, 1, dtype=torch.bool), is_last[:, :-1]), dim=1)
    step_type = torch.where(is_last, LAST, torch.where(is_first, FIRST, MID)).to(torch.uint8)
    time_step = time_step._replace(
        step_type=step_type,
        reward=torch.where(is_first, 0.0, torch.randn(num_envs, length + 1)),
        discount=1.0 - (is_last & (torch.rand(num_envs, length + 1) < 0.5)).float(),
        observation=(torch.ones if constant_observation else torch.randn)(num_envs, length + 1, 3),
    )
    steps = []
    for t in range(length):
        with torch.inference_mode():
            steps.append(algorithm.rollout_step(nest.map_structure(lambda leaf, t=t: leaf[:, t], time_step), ()))
    action, info = nest.map_structure(
        lambda *leaves: torch.stack(leaves, dim=1).clone(), *((step.output, step.info) for step in steps)
    )
    return time_step, info, BatchInfo(action, torch.arange(length + 1).expand(num_envs, -1))


def loss_info(algorithm: PPOAlgorithm, inputs: TimeStep, info: PPOTrainInfo):
    """The loss as the updater computes it: one call for all rows."""
    outer = inputs.reward.shape
    flat_inputs, flat_info = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, info))
    step = algorithm.train_step(flat_inputs, (), flat_info)
    return algorithm.calc_loss(nest.map_structure(lambda leaf: leaf.unflatten(0, outer), step.info))


def loss_rows(**fields) -> PPOLossInfo:
    """A PPOLossInfo `[1, T]` from lists; what is not given is 0, and rows are valid."""
    length = len(next(iter(fields.values())))
    values = {name: torch.tensor([column]) for name, column in fields.items()}
    zeros = torch.zeros(1, length)
    return PPOLossInfo(
        log_prob=values.get("log_prob", zeros),
        entropy=values.get("entropy", zeros),
        value=values.get("value", zeros),
        collected=PPOTrainInfo(
            sample=zeros.long(),
            log_prob=zeros,
            value=values.get("old_value", zeros),
            advantage=values.get("advantage", zeros),
            returns=values.get("returns", zeros),
        ),
        is_valid=values.get("is_valid", torch.ones(1, length, dtype=torch.bool)),
    )


def preprocess_by_hand(step_type: list[int], discount: list[float]) -> tuple[TimeStep, PPOTrainInfo]:
    """gamma = lambda = 0.5, five rows with the rewards 0, 1, 2, 3, 4 and the values 8, 4, 2, 6 while collecting.

    The critic now says 10 for row 4 and 99 for the rows before it.
    """
    algorithm = PPOAlgorithm(OBSERVATION, DISCRETE, FirstElementCritic, discount=0.5, gae_lambda=0.5)
    time_step = specs.zeros(time_step_spec(OBSERVATION, DISCRETE), (1, 5))._replace(
        step_type=torch.tensor([step_type], dtype=torch.uint8),
        reward=torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]]),
        discount=torch.tensor([discount]),
        observation=torch.tensor([99.0, 99.0, 99.0, 99.0, 10.0]).view(1, 5, 1).expand(1, 5, 3),
    )
    info = PolicyInfo(torch.tensor([[-1.0, -2.0, -3.0, -4.0]]), torch.tensor([[8.0, 4.0, 2.0, 6.0]]))
    batch_info = BatchInfo(torch.tensor([[0, 1, 2, 0]]), torch.arange(5).view(1, 5))
    return algorithm.preprocess_experience(time_step, info, batch_info)


# Row types, discounts, and the advantages that follow.
WINDOWS = {
    # delta = 1 + 2 - 8, 2 + 1 - 4, 3 + 3 - 2, 4 + 5 - 6; A[t] = delta[t] + A[t+1] / 4
    "inside": ([FIRST, MID, MID, MID, MID], [1.0] * 5, [-5 + (-1 + 4.75 / 4) / 4, -1 + 4.75 / 4, 4 + 3 / 4, 3.0]),
    # V(LAST) = 2 stands for the lost future; nothing comes across from the next episode
    "truncated": ([FIRST, MID, LAST, FIRST, MID], [1.0] * 5, [-5 - 1 / 4, -1.0, 0.0, 3.0]),
    "terminated": ([FIRST, MID, LAST, FIRST, MID], [1.0, 1.0, 0.0, 1.0, 1.0], [-5 - 2 / 4, -2.0, 0.0, 3.0]),
    "terminated at the bootstrap row": ([FIRST, MID, MID, MID, LAST], [1.0, 1.0, 1.0, 1.0, 0.0], None),
    "first at the bootstrap row": ([FIRST, MID, MID, LAST, FIRST], [1.0] * 5, [-5 + 0 / 4, -1 + 4 / 4, 4.0, 0.0]),
}
WINDOWS["terminated at the bootstrap row"] = (
    *WINDOWS["terminated at the bootstrap row"][:2],
    [-5 + (-1 + 3.5 / 4) / 4, -1 + 3.5 / 4, 4 - 2 / 4, -2.0],
)


@pytest.mark.parametrize("name", WINDOWS)
def test_advantages_and_returns_by_hand(name):
    step_type, discount, expected = WINDOWS[name]
    inputs, info = preprocess_by_hand(step_type, discount)
    torch.testing.assert_close(info.advantage, torch.tensor([expected]))
    torch.testing.assert_close(info.returns, torch.tensor([expected]) + info.value)
    assert info.value.tolist() == [[8.0, 4.0, 2.0, 6.0]]
    assert info.log_prob.tolist() == [[-1.0, -2.0, -3.0, -4.0]]
    assert info.sample.tolist() == [[0, 1, 2, 0]]
    assert inputs.step_type.tolist() == [step_type[:4]]
    assert inputs.observation.shape == (1, 4, 3)


def test_actions_of_the_bootstrap_row_are_dropped():
    algorithm = PPOAlgorithm(OBSERVATION, DISCRETE)
    time_step, info, batch_info = window(algorithm, 2, 4)
    longer = nest.map_structure(lambda leaf: torch.cat((leaf, leaf[:, :1]), dim=1), (info, batch_info.action))
    expected = algorithm.preprocess_experience(time_step, info, batch_info)
    actual = algorithm.preprocess_experience(time_step, longer[0], batch_info._replace(action=longer[1]))
    for one, other in zip(nest.leaves(expected), nest.leaves(actual), strict=True):
        assert torch.equal(one, other)


def test_loss_by_hand():
    algorithm = PPOAlgorithm(
        OBSERVATION, DISCRETE, clip_ratio=0.2, value_loss_weight=0.5, entropy_weight=0.1, normalize_advantage=False
    )
    info = loss_rows(
        log_prob=[math.log(1.5), math.log(0.5), 0.0],
        advantage=[2.0, 2.0, -1.0],
        value=[1.0, 0.0, 2.0],
        returns=[3.0, 0.0, 1.0],
        entropy=[1.0, 0.5, 0.0],
    )
    result = algorithm.calc_loss(info)
    # -min(3, 1.2 * 2) + 0.5 * 4 - 0.1 * 1; -min(1, 0.8 * 2) - 0.1 * 0.5; 1 + 0.5 * 1
    torch.testing.assert_close(result.loss, torch.tensor([[-2.4 + 2.0 - 0.1, -1.0 - 0.05, 1.5]]))
    extra = {name: value.item() for name, value in result.extra.items()}
    assert extra["policy_loss"] == pytest.approx((-2.4 - 1.0 + 1.0) / 3)
    assert extra["value_loss"] == pytest.approx(5.0 / 3)
    assert extra["entropy"] == pytest.approx(0.5)
    assert extra["clip_fraction"] == pytest.approx(2 / 3)
    assert extra["approximate_kl"] == pytest.approx((0.5 - math.log(1.5) - 0.5 - math.log(0.5)) / 3)
    # The value while collecting was 0 everywhere, no better than a constant.
    assert extra["explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert not any(value.requires_grad for value in result.extra.values())


def test_clipped_value_loss_by_hand():
    algorithm = PPOAlgorithm(OBSERVATION, DISCRETE, value_loss_weight=1.0, value_clip=0.2)
    result = algorithm.calc_loss(loss_rows(value=[1.5, 1.1], old_value=[1.0, 1.0], returns=[2.0, 2.0]))
    torch.testing.assert_close(result.loss, torch.tensor([[0.64, 0.81]]))


def test_advantages_are_normalised_without_last_rows():
    algorithm = PPOAlgorithm(OBSERVATION, DISCRETE, normalize_advantage=True)
    result = algorithm.calc_loss(
        loss_rows(advantage=[1.0, 2.0, 3.0, 1000.0], is_valid=[True, True, True, False], value=[0.0, 0.0, 0.0, 50.0])
    )
    # mean 2, unbiased standard deviation 1
    torch.testing.assert_close(result.loss[:, :3], torch.tensor([[1.0, 0.0, -1.0]]))
    assert result.extra["value_loss"].item() == 0.0


def test_last_rows_have_no_influence_on_the_masked_loss():
    torch.manual_seed(0)
    algorithm = PPOAlgorithm(OBSERVATION, DISCRETE, entropy_weight=0.01)
    inputs, info = algorithm.preprocess_experience(*window(algorithm, 4, 16))
    kept = ~inputs.is_last()
    assert 0 < kept.sum() < kept.numel()
    spoiled = info._replace(
        **{name: torch.where(kept, getattr(info, name), 1e3) for name in ("log_prob", "advantage", "returns", "value")}
    )
    before, after = loss_info(algorithm, inputs, info), loss_info(algorithm, inputs, spoiled)
    assert torch.equal(before.loss[kept], after.loss[kept])
    for name, value in before.extra.items():
        torch.testing.assert_close(after.extra[name], value)


def test_the_gradient_outlives_a_ratio_that_overflows_on_a_last_row():
    torch.manual_seed(0)
    algorithm = PPOAlgorithm(OBSERVATION, DISCRETE)
    inputs, info = algorithm.preprocess_experience(*window(algorithm, 4, 16))
    kept = ~inputs.is_last()
    result = loss_info(algorithm, inputs, info._replace(log_prob=torch.where(kept, info.log_prob, -1e3)))
    torch.where(kept, result.loss, 0.0).mean().backward()  # as the updater leaves them out
    assert all(parameter.grad.isfinite().all() for parameter in algorithm.parameters())


def test_the_gradient_favours_actions_with_an_advantage():
    torch.manual_seed(0)
    algorithm = PPOAlgorithm(OBSERVATION, DISCRETE, FirstElementCritic, normalize_advantage=False)
    sample = torch.tensor([[0, 1, 2]])
    info = PPOTrainInfo(
        sample=sample,
        log_prob=torch.full((1, 3), -math.log(3.0)),
        value=torch.zeros(1, 3),
        advantage=torch.tensor([[1.0, 0.0, -1.0]]),
        returns=torch.zeros(1, 3),
    )
    inputs = specs.zeros(time_step_spec(OBSERVATION, DISCRETE), (1, 3))
    loss_info(algorithm, inputs, info).loss.sum().backward()
    # d(-A log p) = -A (onehot - p): -(1 - 1/3) + (0 - 1/3), ...
    torch.testing.assert_close(algorithm.policy.network.logits.grad, torch.tensor([-1.0, 0.0, 1.0]))


def test_a_bandit_is_learned_and_its_value_too():
    torch.manual_seed(0)
    algorithm = PPOAlgorithm(OBSERVATION, DISCRETE, discount=0.9)
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=0.01)
    for _ in range(20):
        # Episodes of two rows; the reward is the action.
        time_step, info, batch_info = window(algorithm, 16, 4, constant_observation=True)
        row_type = torch.tensor([FIRST, LAST, FIRST, LAST, FIRST], dtype=torch.uint8).expand(16, 5)
        reward = torch.where(row_type[:, 1:] == LAST, batch_info.action.float(), 0.0)
        time_step = time_step._replace(
            step_type=row_type,
            reward=torch.cat((torch.zeros(16, 1), reward), dim=1),
            discount=(row_type != LAST).float(),
        )
        inputs, train_info = algorithm.preprocess_experience(time_step, info, batch_info)
        for _ in range(10):
            loss = loss_info(algorithm, inputs, train_info).loss
            optimizer.zero_grad()
            torch.where(inputs.is_last(), 0.0, loss).mean().backward()
            optimizer.step()
    row = specs.zeros(time_step_spec(OBSERVATION, DISCRETE), (1,))._replace(observation=torch.ones(1, 3))
    assert algorithm.predict_step(row, ()).output.tolist() == [2]
    parameters, value = algorithm.policy.network(row.observation)
    assert torch.softmax(parameters, -1)[0, 2] > 0.8
    assert value.item() == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize("name", ACTION_SPECS)
def test_every_action_spec_end_to_end(name):
    torch.manual_seed(0)
    spec = ACTION_SPECS[name]
    algorithm = PPOAlgorithm(OBSERVATION, spec, entropy_weight=0.01)
    time_step, rollout_info, batch_info = window(algorithm, 4, 8)
    minimum, maximum = spec.bounds()
    assert batch_info.action.dtype == spec.dtype and batch_info.action.shape == (4, 8) + spec.shape
    assert (batch_info.action >= minimum).all() and (batch_info.action <= maximum).all()
    inputs, info = algorithm.preprocess_experience(time_step, rollout_info, batch_info)
    # Nothing has been updated, so the ratio is 1: also where the action was clipped.
    result = loss_info(algorithm, inputs, info)
    assert result.loss.shape == (4, 8)
    assert result.extra["approximate_kl"].item() == pytest.approx(0.0, abs=1e-6)
    assert result.extra["clip_fraction"].item() == 0.0
    torch.where(inputs.is_last(), 0.0, result.loss).mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in algorithm.parameters())
    assert algorithm.policy.network.policy.output.weight.grad.abs().sum() > 0
    if name == "box":
        assert (info.sample != batch_info.action).any()
        assert algorithm.policy.network.log_std.grad.abs().sum() > 0
    else:
        assert rollout_info.sample == ()
        assert torch.equal(info.sample, batch_info.action)


@pytest.mark.parametrize("name", ACTION_SPECS)
def test_the_seed_decides_everything(name):
    def run():
        torch.manual_seed(5)
        algorithm = PPOAlgorithm(OBSERVATION, ACTION_SPECS[name])
        inputs, info = algorithm.preprocess_experience(*window(algorithm, 3, 6))
        loss_info(algorithm, inputs, info).loss.mean().backward()
        return [info.sample, *(parameter.grad for parameter in algorithm.parameters())]

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


def test_evaluation_draws_nothing():
    algorithm = PPOAlgorithm(OBSERVATION, ACTION_SPECS["box"])
    row = specs.zeros(time_step_spec(OBSERVATION, ACTION_SPECS["box"]), (2,))
    before = torch.get_rng_state()
    action = algorithm.predict_step(row, ()).output
    assert torch.equal(torch.get_rng_state(), before)
    # At an observation of zeros the means are 0.
    assert action.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_the_clip_ratio_follows_its_schedule():
    algorithm = PPOAlgorithm(OBSERVATION, DISCRETE, clip_ratio=LinearSchedule(0.4), normalize_advantage=False)
    info = loss_rows(log_prob=[math.log(2.0)], advantage=[1.0])
    assert algorithm.calc_loss(info).loss.item() == pytest.approx(-1.4)
    algorithm.after_train_iter(Progress(fraction=0.5))
    assert algorithm.calc_loss(info).loss.item() == pytest.approx(-1.2)


def test_what_it_declares():
    algorithm = PPOAlgorithm(OBSERVATION, DISCRETE)
    assert algorithm.on_policy and not algorithm.trains_on_last_rows
    assert algorithm.rows_needed() == RowsNeeded(future=1, future_observations=1)
    assert algorithm.initial_state(3) == ()
    # The distribution holds no parameters of its own: only the network is trained and saved.
    assert all(name.startswith("policy.network.") for name in algorithm.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"discount": 1.5}, "PPOAlgorithm.discount is 1.5"),
        ({"gae_lambda": -0.1}, "PPOAlgorithm.gae_lambda is -0.1"),
        ({"value_loss_weight": math.inf}, "PPOAlgorithm.value_loss_weight is inf"),
        ({"entropy_weight": math.nan}, "PPOAlgorithm.entropy_weight is nan"),
        ({"clip_ratio": 0.0}, "PPOAlgorithm.clip_ratio, at the start of the run, is 0.0"),
        ({"clip_ratio": 2.0}, "PPOAlgorithm.clip_ratio is 2.0 at 0 % of the run; it must be at most 1"),
        ({"clip_ratio": "0.2"}, "PPOAlgorithm.clip_ratio is '0.2'"),
        ({"value_clip": 0.0}, "PPOAlgorithm.value_clip is 0.0"),
        ({"actor_critic": ActorCriticNetwork(OBSERVATION, DISCRETE)}, "without the parentheses"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PPOAlgorithm(OBSERVATION, DISCRETE, **arguments)


def test_a_network_of_the_wrong_shape_is_refused():
    class ColumnOfValues(FirstElementCritic):
        def forward(self, observation):
            parameters, value = super().forward(observation)
            return parameters, value.unsqueeze(-1)

    with pytest.raises(ValueError, match=r"ColumnOfValues returned .* \(2, 1\); expected .* values of shape \(2,\)"):
        PPOAlgorithm(OBSERVATION, DISCRETE, ColumnOfValues)
    with pytest.raises(ValueError, match=r"expected parameters of shape \(2, 5\)"):
        PPOAlgorithm(OBSERVATION, BoundedTensorSpec((), torch.int64, 0, 4), FirstElementCritic)


@pytest.mark.parametrize("name", ACTION_SPECS)
def test_everything_moves_to_the_device_of_the_algorithm(name):
    # An operation that mixes the device "meta" with another one raises, as a GPU would, on machines without one.
    spec = ACTION_SPECS[name]
    observation = {"position": OBSERVATION, "tile": BoundedTensorSpec((), torch.int64, 0, 3)}
    algorithm = PPOAlgorithm(observation, spec, entropy_weight=0.1, value_clip=0.1).to("meta")
    row_spec = time_step_spec(observation, spec)
    step = algorithm.rollout_step(specs.zeros(row_spec, (2,), "meta"), ())
    assert algorithm.predict_step(specs.zeros(row_spec, (2,), "meta"), ()).output.device.type == "meta"
    action, info = nest.map_structure(lambda leaf: torch.stack([leaf] * 4, dim=1), (step.output, step.info))
    rows = specs.zeros(row_spec, (2, 5), "meta")
    result = loss_info(algorithm, *algorithm.preprocess_experience(rows, info, BatchInfo(action, rows.step_type)))
    result.loss.mean().backward()
    assert {value.device.type for value in result.extra.values()} == {"meta"}
