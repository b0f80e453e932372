"""What REINFORCE and the actor-critic have in common: each test runs with both."""

import functools
import math

import pytest
import torch
from policy_gradient_parts import (
    ACTION_SPECS,
    BOX,
    DISCRETE,
    FIRST,
    LAST,
    NESTED_OBSERVATION,
    OBSERVATION,
    FirstElementCritic,
    UniformPolicy,
    collect,
    loss_of,
    random_rows,
)
from trainer_parts import closed_after_test

from alfish import gin_config, nest, specs
from alfish.algorithms.actor_critic_algorithm import ActorCriticAlgorithm
from alfish.algorithms.policy_gradient import LossWeights, PolicyLossInfo, PolicyTargets, weighted_policy_loss
from alfish.algorithms.reinforce_algorithm import ReinforceAlgorithm
from alfish.algorithms.stochastic_policy import Evaluation, PolicyInfo
from alfish.data_structures import BatchInfo, Progress, RowsNeeded, time_step_spec
from alfish.networks.actor_critic import ActorCriticNetwork
from alfish.networks.encoders import MLPEncoder
from alfish.networks.recurrent_encoder import RecurrentEncoder
from alfish.ops.schedules import LinearSchedule
from alfish.specs import BoundedTensorSpec, TensorSpec
from alfish.trainers.experiment import Experiment
from alfish.trainers.replay_batches import ReplayBatches
from alfish.trainers.trainer import Trainer

ALGORITHMS = {"ReinforceAlgorithm": ReinforceAlgorithm, "ActorCriticAlgorithm": ActorCriticAlgorithm}
CONFIGS = {"ReinforceAlgorithm": "reinforce_cartpole.gin", "ActorCriticAlgorithm": "actor_critic_cartpole.gin"}


@pytest.fixture(params=ALGORITHMS)
def name(request):
    return request.param


@pytest.fixture
def make(name):
    return functools.partial(ALGORITHMS[name], discount=0.9)


def test_the_loss_by_hand():
    info = PolicyLossInfo(
        Evaluation(
            log_prob=torch.tensor([math.log(0.5), math.log(0.25), -7.0]),
            entropy=torch.tensor([1.0, 0.5, 70.0]),
            value=torch.tensor([1.0, 2.0, 70.0]),
            is_valid=torch.tensor([True, True, False]),
        ),
        PolicyTargets(
            sample=torch.zeros(3),
            log_prob=torch.tensor([math.log(0.25), math.log(0.25), 7.0]),
            advantage=torch.tensor([2.0, -4.0, 70.0]),
            value=torch.tensor([1.0, 1.0, 70.0]),
            value_target=torch.tensor([3.0, 1.0, 0.0]),
        ),
    )
    result = weighted_policy_loss(info, torch.tensor([1.5, 1.0, 70.0]), LossWeights(0.5, 0.1, False))
    # -1.5 * 2 * log 1/2 + 0.5 * 4 - 0.1 * 1; 4 * log 1/4 + 0.5 * 1 - 0.1 * 0.5
    policy = [3.0 * math.log(2.0), -4.0 * math.log(4.0)]
    torch.testing.assert_close(result.loss[:2], torch.tensor([policy[0] + 2.0 - 0.1, policy[1] + 0.5 - 0.05]))
    extra = {name: value.item() for name, value in result.extra.items()}
    assert extra["policy_loss"] == pytest.approx(sum(policy) / 2)
    assert extra["value_loss"] == pytest.approx(2.5)
    assert extra["entropy"] == pytest.approx(0.75)
    assert extra["approximate_kl"] == pytest.approx((1.0 - math.log(2.0)) / 2)
    assert extra["explained_variance"] == pytest.approx(0.0)  # the value was the same everywhere
    # Without LAST rows the advantages have the mean -1 and the unbiased standard deviation sqrt(18).
    normalized = weighted_policy_loss(info, None, LossWeights(0.0, 0.0, True))
    torch.testing.assert_close(normalized.loss[0], torch.tensor(math.log(2.0) / math.sqrt(2.0)))


@pytest.mark.parametrize("kind", ACTION_SPECS)
def test_every_action_spec_end_to_end(make, kind):
    torch.manual_seed(0)
    spec = ACTION_SPECS[kind]
    algorithm = make(OBSERVATION, spec, entropy_weight=0.01)
    rows = random_rows(algorithm)
    info, batch_info = collect(algorithm, rows)
    for part, action in zip(nest.leaves(spec), nest.leaves(batch_info.action), strict=True):
        minimum, maximum = part.bounds()
        assert action.shape == (4, 8, *part.shape) and action.dtype == part.dtype
        assert (action >= minimum).all() and (action <= maximum).all()
    inputs, targets = algorithm.preprocess_experience(rows, info, batch_info)
    assert inputs.reward.shape == (4, 8)
    result = loss_of(algorithm, inputs, targets)
    # Nothing has been learned yet, so pi = mu: also where the action was clipped.
    assert result.extra["approximate_kl"].item() == pytest.approx(0.0, abs=1e-6)
    assert (targets.advantage[inputs.is_last()] == 0.0).all()
    torch.where(inputs.is_last(), 0.0, result.loss).mean().backward()
    assert all(each.grad.isfinite().all() and each.grad.any() for each in algorithm.parameters())
    if kind == "box":
        assert (targets.sample != batch_info.action).any()
    if kind == "discrete":
        assert info.sample == ()


def test_last_rows_have_no_influence(make):
    torch.manual_seed(0)
    algorithm = make(OBSERVATION, DISCRETE, entropy_weight=0.01, normalize_advantage=True)
    rows = random_rows(algorithm, 4, 16)
    inputs, targets = algorithm.preprocess_experience(rows, *collect(algorithm, rows))
    kept = ~inputs.is_last()
    assert 0 < kept.sum() < kept.numel()
    names = ("log_prob", "advantage", "value", "value_target")
    spoiled = targets._replace(**{each: torch.where(kept, getattr(targets, each), 1e3) for each in names})
    before, after = loss_of(algorithm, inputs, targets), loss_of(algorithm, inputs, spoiled)
    assert torch.equal(before.loss[kept], after.loss[kept])
    for each, value in before.extra.items():
        torch.testing.assert_close(after.extra[each], value)


def test_a_recurrent_policy_is_unrolled_from_the_stored_state(make):
    torch.manual_seed(0)
    algorithm = make(OBSERVATION, DISCRETE, encoder=functools.partial(RecurrentEncoder, state_size=5))
    rows = random_rows(algorithm)
    info, batch_info = collect(algorithm, rows)
    assert nest.leaves(batch_info.state)[0].shape == (4, 5)
    inputs, targets = algorithm.preprocess_experience(rows, info, batch_info)
    torch.testing.assert_close(targets.value, info.value)  # row by row, as collected, and the block at once
    result = loss_of(algorithm, inputs, targets, batch_info.state)
    assert result.loss.shape == (4, 8)
    assert result.extra["approximate_kl"].item() == pytest.approx(0.0, abs=1e-6)
    result.loss.mean().backward()
    assert all(each.grad.isfinite().all() and each.grad.any() for each in algorithm.policy.encoder.parameters())
    other = nest.map_structure(torch.zeros_like, batch_info.state)
    assert loss_of(algorithm, inputs, targets, other).extra["approximate_kl"].item() > 1e-9


def test_illegal_actions_are_not_taken_and_get_no_gradient(make):
    torch.manual_seed(0)
    algorithm = make(NESTED_OBSERVATION, DISCRETE, entropy_weight=0.1, legal_mask_key="legal")
    rows = random_rows(algorithm, 16, 8)
    info, batch_info = collect(algorithm, rows)
    inputs, targets = algorithm.preprocess_experience(rows, info, batch_info)
    legal = rows.observation["legal"][:, :-1] != 0
    played = ~inputs.is_last()
    assert legal.gather(-1, batch_info.action.unsqueeze(-1))[played].all()
    predicted = algorithm.predict_step(nest.map_structure(lambda leaf: leaf[:, 0], rows), ()).output
    assert legal[:, 0].gather(-1, predicted.unsqueeze(-1))[played[:, 0]].all()
    result = loss_of(algorithm, inputs, targets)
    assert result.extra["approximate_kl"].item() == pytest.approx(0.0, abs=1e-6)
    assert result.loss[played].isfinite().all()
    forced = played & (legal.sum(-1) == 1)
    assert forced.any()
    # Where one action alone is legal there is nothing to learn: the policy has the gradient 0.
    loss = loss_of(algorithm, inputs, targets).loss[forced].sum()
    gradient = torch.autograd.grad(loss, list(algorithm.policy.network.policy.parameters()))
    assert all((each.abs() < 1e-7).all() for each in gradient)


def test_a_row_without_a_legal_action_is_refused_while_acting(make, name):
    algorithm = make(NESTED_OBSERVATION, DISCRETE, legal_mask_key="legal")
    row = specs.zeros(time_step_spec(NESTED_OBSERVATION, DISCRETE), (2,))
    for hook in (algorithm.rollout_step, algorithm.predict_step):
        with pytest.raises(ValueError, match=f"^environment 0: .* allows no action.*{name}.legal_mask_key"):
            hook(row, ())
    ended = row._replace(step_type=torch.full((2,), LAST, dtype=torch.uint8))
    assert algorithm.rollout_step(ended, ()).output.shape == (2,)


def test_encoders_are_trained(make):
    torch.manual_seed(0)
    algorithm = make(NESTED_OBSERVATION, DISCRETE, encoder=MLPEncoder)
    rows = random_rows(algorithm)
    result = loss_of(algorithm, *algorithm.preprocess_experience(rows, *collect(algorithm, rows)))
    result.loss.mean().backward()
    assert all(each.grad.any() for each in algorithm.policy.encoder.parameters())


@pytest.mark.parametrize("stale", [False, True])
def test_a_bandit_is_learned_from_fresh_and_from_stale_actions(make, stale):
    torch.manual_seed(0)
    algorithm = make(OBSERVATION, DISCRETE)
    # Episodes of two rows in one state; the reward is the action, the more the likelier the old policy took the others.
    rows = specs.zeros(time_step_spec(OBSERVATION, DISCRETE), (16, 9))
    row_type = torch.tensor([FIRST, LAST] * 4 + [FIRST], dtype=torch.uint8).expand(16, 9)
    rows = rows._replace(step_type=row_type, discount=(row_type != LAST).float())
    old = torch.log_softmax(torch.tensor([1.0, 0.5, 0.0]), -1)
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=0.02)
    for _ in range(80):
        if stale:
            action = torch.distributions.Categorical(logits=old).sample((16, 8))
            info, batch_info = PolicyInfo(old[action]), BatchInfo(action, rows.step_type)
        else:
            info, batch_info = collect(algorithm, rows)
        reward = torch.where(row_type[:, 1:] == LAST, batch_info.action.float(), 0.0)
        block = rows._replace(reward=torch.cat((torch.zeros(16, 1), reward), dim=1))
        inputs, targets = algorithm.preprocess_experience(block, info, batch_info)
        optimizer.zero_grad()
        torch.where(inputs.is_last(), 0.0, loss_of(algorithm, inputs, targets).loss).mean().backward()
        optimizer.step()
    row = nest.map_structure(lambda leaf: leaf[:1, 0], rows)
    parameters, _ = algorithm.policy.unroll(row, ())
    assert algorithm.predict_step(row, ()).output.tolist() == [2]
    assert torch.softmax(parameters, -1)[0, 2] > 0.8


def test_the_entropy_weight_follows_its_schedule(make):
    torch.manual_seed(0)
    algorithm = make(OBSERVATION, DISCRETE, entropy_weight=LinearSchedule(0.4))
    rows = random_rows(algorithm)
    inputs, targets = algorithm.preprocess_experience(rows, *collect(algorithm, rows))
    losses = []
    for fraction in (0.0, 0.5, 1.0):
        algorithm.after_train_iter(Progress(fraction=fraction))
        losses.append(loss_of(algorithm, inputs, targets).loss)
    entropy = algorithm.policy.evaluate(inputs, (), targets.sample).entropy
    torch.testing.assert_close(losses[2] - losses[0], 0.4 * entropy)
    torch.testing.assert_close(losses[2] - losses[1], 0.2 * entropy)


def test_what_is_declared(make):
    algorithm = make(OBSERVATION, DISCRETE)
    assert algorithm.on_policy and not algorithm.trains_on_last_rows
    assert algorithm.rows_needed() == RowsNeeded(future=1, future_observations=1)
    assert algorithm.initial_state(3) == ()


@pytest.mark.parametrize("kind", ACTION_SPECS)
def test_everything_moves_to_the_device_of_the_algorithm(make, kind):
    # An operation that mixes the device "meta" with another one raises, as a GPU would, on machines without one.
    spec = ACTION_SPECS[kind]
    observation = {"position": OBSERVATION, "tile": BoundedTensorSpec((), torch.int64, 0, 3)}
    algorithm = make(observation, spec, entropy_weight=0.1, normalize_advantage=True).to("meta")
    rows = specs.zeros(time_step_spec(observation, spec), (2, 5), "meta")
    step = algorithm.rollout_step(nest.map_structure(lambda leaf: leaf[:, 0], rows), ())
    action, info = nest.map_structure(lambda leaf: torch.stack([leaf] * 4, dim=1), (step.output, step.info))
    result = loss_of(algorithm, *algorithm.preprocess_experience(rows, info, BatchInfo(action, rows.step_type)))
    result.loss.mean().backward()
    assert {value.device.type for value in result.extra.values()} == {"meta"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"discount": 1.5}, r"{name}.discount is 1.5; expected a number in \[0, 1\]"),
        ({"value_loss_weight": -1.0}, "{name}.value_loss_weight is -1.0; expected a finite number of at least 0"),
        ({"entropy_weight": -0.1}, "{name}.entropy_weight is -0.1"),
        ({"entropy_weight": "much"}, "{name}.entropy_weight is 'much'"),
        ({"box_distribution": "gamma"}, "box_distribution is 'gamma'; expected one of"),
        ({"legal_mask_key": "legal"}, "{name}.legal_mask_key is 'legal'; expected a key of the observation"),
        (
            {"encoder": MLPEncoder(OBSERVATION)},
            r"{name}.encoder is a MLPEncoder .*already built.*without the parenthes",
        ),
        ({"observation_spec": TensorSpec((3,), torch.int64)}, "the observation: an MLP reads integers as one-hot"),
        ({"action_spec": TensorSpec((3,))}, "there is no action distribution for TensorSpec"),
        ({"action_spec": BoundedTensorSpec((), torch.int64, 0, 10**7)}, "a logit for each value needs between 1 and"),
        ({"action_spec": BOX, "box_distribution": "beta", "legal_mask_key": "legal"}, "{name}.legal_mask_key"),
    ],
)
def test_what_cannot_be_used_is_refused(make, name, arguments, message):
    arguments = {"observation_spec": OBSERVATION, "action_spec": DISCRETE} | arguments
    with pytest.raises(ValueError, match=message.replace("{name}", name)):
        make(**arguments)


def test_networks_that_do_not_fit_are_refused(name):
    make = functools.partial(ALGORITHMS[name], OBSERVATION, discount=0.9)
    setting = {"ReinforceAlgorithm": "network", "ActorCriticAlgorithm": "actor_critic"}[name]
    with pytest.raises(ValueError, match=rf"{name}\.{setting} is a ActorCriticNetwork .*without the parentheses"):
        make(DISCRETE, **{setting: ActorCriticNetwork(OBSERVATION, DISCRETE)})

    class ColumnOfValues(FirstElementCritic):
        def forward(self, observation):
            parameters, value = super().forward(observation)
            return parameters, value.unsqueeze(-1)

    with pytest.raises(ValueError, match=r"ColumnOfValues returned .*\(2, 3\), \(2, 1\); .*values of shape \(2,\)"):
        make(DISCRETE, **{setting: ColumnOfValues})
    with pytest.raises(ValueError, match=r"parameters of shape \(2, 5\)"):
        make(BoundedTensorSpec((), torch.int64, 0, 4), **{setting: FirstElementCritic})
    wanted = BoundedTensorSpec((), torch.int64, 0, 4) if name == "ReinforceAlgorithm" else DISCRETE
    with pytest.raises(
        ValueError, match=r"UniformPolicy returned .*\(2, 3\); expected parameters of shape \(2, [35]\)"
    ):
        make(wanted, **{setting: UniformPolicy})


def test_the_family_of_actions_reaches_the_network(make):
    algorithm = make(OBSERVATION, BOX, box_distribution="beta")
    assert not hasattr(algorithm.policy.network, "log_std") or algorithm.policy.network.log_std is None


@pytest.mark.parametrize("sequence_length", [None, 8])
def test_a_recurrent_policy_is_trained_on_sequences(name, sequence_length):
    bindings = [
        f"{name}.encoder=@RecurrentEncoder",
        f"OnPolicyBatches.sequence_length={sequence_length}",
        "WINDOW_LENGTH=16",
        "TOTAL_ENV_STEPS=256",
        "Evaluator.episodes=1",
    ]
    assert RecurrentEncoder  # gin knows it by its import
    gin_config.parse([CONFIGS[name]], bindings)
    trainer = closed_after_test(Trainer(Experiment(), torch.device("cpu")))
    before = [each.detach().clone() for each in trainer.built.algorithm.parameters()]
    trainer.train()
    assert trainer.progress.updates == 4 * trainer.progress.iteration  # 8 * 16 rows, 32 at a time
    assert not any(map(torch.equal, before, trainer.built.algorithm.parameters()))


def test_a_replay_is_refused(name):
    bindings = [
        "Trainer.batch_source=@ReplayBatches",
        "ReplayBatches.batch_size=8",
        "ReplayBatches.updates_per_env_step=1.0",
        "ReplayBatches.initial_env_steps=0",
        "ReplayBuffer.capacity=100",
    ]
    assert ReplayBatches  # gin knows it by its import
    gin_config.parse([CONFIGS[name]], bindings)
    with pytest.raises(
        ValueError, match=f"{name} is on-policy: it cannot learn from a replay buffer; bind .*OnPolicyB"
    ):
        Trainer(Experiment(), torch.device("cpu"))
