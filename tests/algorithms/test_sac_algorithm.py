"""SAC of real numbers: targets by hand, the three losses and what each of them trains, acting, and what it refuses."""

import functools
import math

import pytest
import torch
from sac_parts import BOX, CHOICE, FIRST, LAST, MID, OBSERVATION, FixedActor, block, loss_of, make_sac, trained

from alfish import nest, specs
from alfish.algorithms.sac_algorithm import SACAlgorithm, SACLossInfo
from alfish.data_structures import BatchInfo, Progress, RowsNeeded, TimeStep, time_step_spec
from alfish.networks.actor import ActorNetwork
from alfish.networks.critics import CriticsNetwork
from alfish.networks.encoders import IdentityEncoder, MLPEncoder
from alfish.networks.q_network import QNetwork
from alfish.networks.recurrent_encoder import RecurrentEncoder
from alfish.ops.schedules import LinearSchedule
from alfish.ops.target_updates import TargetUpdate
from alfish.specs import BoundedTensorSpec, TensorSpec

# The policy's action is 1 = 2 tanh(atanh(1/2)) everywhere; the smaller Q of the rows is 2, 4, 3, 6, plus 1.
Q_OF_ROWS = torch.tensor([[[1.0, 2.0], [4.0, 3.0], [2.0, 5.0], [5.0, 9.0]]])
REWARDS = [0.0, 1.0, 2.0, 3.0]

# Step types, discounts, positions, targets with gamma = 1/2 and ten times the values above in the target network, and
# which of them are trained on.
BLOCKS = {
    # 1 + 40/2, 2 + 30/2, 3 + 60/2
    "inside": ([FIRST, MID, MID, MID], [1.0] * 4, None, [21.0, 17.0, 33.0], [True, True, True]),
    # 2 + 0: nothing follows; row 2 is LAST
    "terminated": ([FIRST, MID, LAST, FIRST], [1.0, 1.0, 0.0, 1.0], None, [21.0, 2.0, None], [True, True, False]),
    # 2 + 30/2: the last observation's value stands for what was lost
    "truncated": ([FIRST, MID, LAST, FIRST], [1.0] * 4, None, [21.0, 17.0, None], [True, True, False]),
    # what the newest row's action leads to is not stored yet
    "newest": ([FIRST, MID, MID, MID], [1.0] * 4, [7, 8, 9, 9], [21.0, 17.0, None], [True, True, False]),
    # a lost life halves the future: 2 + 30/4
    "discounted": ([FIRST, MID, MID, MID], [1.0, 1.0, 0.5, 1.0], None, [21.0, 9.5, 33.0], [True, True, True]),
}


def random_rows(algorithm, num_rows, length=2):
    """A block `[num_rows, length]` inside of episodes."""
    rows = specs.zeros(time_step_spec(algorithm.observation_spec, algorithm.action_spec), (num_rows, length))
    rows = rows._replace(
        step_type=torch.full((num_rows, length), MID, dtype=torch.uint8),
        observation=nest.map_structure(lambda leaf: torch.randn_like(leaf), rows.observation),
        reward=torch.randn(num_rows, length),
        discount=torch.ones(num_rows, length),
    )
    action = nest.map_structure(
        lambda leaf: torch.rand_like(leaf) - 0.5 if leaf.is_floating_point() else torch.randint_like(leaf, 1, 3),
        rows.prev_action,
    )
    return rows, BatchInfo(action, torch.arange(length).expand(num_rows, length))


def gradients(scalar, module):
    found = torch.autograd.grad(scalar, list(module.parameters()), retain_graph=True, allow_unused=True)
    return [None if each is None else each.clone() for each in found]


@pytest.mark.parametrize("name", BLOCKS)
def test_targets_by_hand(name):
    step_type, discount, position, target, is_trained = BLOCKS[name]
    algorithm = make_sac(target_factor=10.0, discount=0.5)
    rows, batch_info = block(step_type, Q_OF_ROWS, REWARDS, discount, position=position)
    inputs, info = algorithm.preprocess_experience(rows, (), batch_info)
    for found, expected in zip(info.target[0].tolist(), target, strict=True):
        assert expected is None or math.isclose(found, expected, rel_tol=1e-5)
    assert inputs.step_type.tolist() == [step_type[:3]] and info.action.shape == (1, 3, 1)
    assert not info.target.requires_grad
    assert trained(algorithm, rows, batch_info).is_trained.tolist() == [is_trained]
    loss = loss_of(algorithm, rows, batch_info).loss
    assert [each != 0.0 for each in loss[0].tolist()] == is_trained
    assert algorithm.rows_needed() == RowsNeeded(future=1, future_observations=1)


def test_the_entropy_of_the_next_row_is_a_part_of_the_target():
    algorithm = make_sac(by_hand=False, initial_temperature=0.3, discount=0.5)
    rows, batch_info = random_rows(algorithm, 5)
    torch.manual_seed(3)
    target = algorithm.preprocess_experience(rows, (), batch_info)[1].target
    torch.manual_seed(3)
    with torch.no_grad():
        following = rows.observation[:, 1:]
        distribution = algorithm._policy.distribution
        sample, log_prob = distribution.sample(algorithm.actor(following))
        q_value = algorithm.target_side.critics(following, distribution.clip(sample)).min(dim=-1).values
    torch.testing.assert_close(target, rows.reward[:, 1:] + 0.5 * (q_value - 0.3 * log_prob))


def test_losses_by_hand():
    algorithm = make_sac(by_hand=False, initial_temperature=0.5, target_entropy=-2.0)
    info = SACLossInfo(
        q_taken=torch.tensor([[[1.0, 4.0], [7.0, 7.0]]]),
        target=torch.tensor([[2.0, 7.0]]),
        q_value=torch.tensor([[3.0, 5.0]]),
        log_prob=torch.tensor([[1.0, 9.0]]),
        target_entropy=(),
        is_trained=torch.tensor([[True, False]]),
    )
    # (1 + 4)/2 of the critics, 1/2 - 3 of the policy, 1/2 (-1 + 2) of the temperature
    loss, extra, _ = algorithm.calc_loss(info)
    torch.testing.assert_close(loss, torch.tensor([[2.5 - 2.5 + 0.5, 0.0]]))
    found = {name: value.item() for name, value in extra.items()}
    expected = {"critic_loss": 2.5, "actor_loss": -2.5, "entropy": -1.0, "q_value": 3.0, "target": 2.0}
    assert found == pytest.approx(expected | {"temperature": 0.5})
    loss.sum().backward()
    assert algorithm.log_temperature.grad.item() == pytest.approx(0.5)


PARTS = [{}, {"encoder": functools.partial(MLPEncoder, hidden_sizes=(8,))}, {"box_distribution": "beta"}]


@pytest.mark.parametrize("arguments", PARTS)
def test_each_loss_trains_its_own_part_alone(arguments):
    algorithm = make_sac(by_hand=False, initial_temperature=0.2, **arguments)
    rows, batch_info = random_rows(algorithm, 16)
    torch.manual_seed(0)
    info = trained(algorithm, rows, batch_info)
    total = algorithm.calc_loss(info).loss.sum()
    critic = 0.5 * (info.q_taken - info.target.unsqueeze(-1)).square().sum()
    # Critics and encoder: of the critics' loss alone, although the policy's goes through the critics.
    for found, expected in zip(
        gradients(total, algorithm.critic_side), gradients(critic, algorithm.critic_side), strict=True
    ):
        torch.testing.assert_close(found, expected)
    # The policy: of the same loss with another copy of the critics.
    policy = (0.2 * info.log_prob - info.q_value).sum()
    found, expected = gradients(total, algorithm.actor), gradients(policy, algorithm.actor)
    for own, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(own, alone)
        assert own.abs().sum() > 0
    assert all(each is None for each in gradients(policy, algorithm.critic_side))
    assert all(each is None for each in gradients(critic, algorithm.actor))
    temperature = torch.autograd.grad(total, algorithm.log_temperature, retain_graph=True)[0]
    torch.testing.assert_close(temperature, (0.2 * (-info.log_prob.detach() + 1.0)).sum())
    assert all(parameter.requires_grad for parameter in algorithm.critic_side.parameters())
    assert not any(parameter.requires_grad for parameter in algorithm.target_side.parameters())


def test_a_temperature_that_does_not_learn_stays():
    algorithm = make_sac(by_hand=False, initial_temperature=0.2, learns_temperature=False)
    info = trained(algorithm, *random_rows(algorithm, 4))
    loss = algorithm.calc_loss(info).loss
    expected = 0.5 * (info.q_taken - info.target.unsqueeze(-1)).square().sum(-1) + 0.2 * info.log_prob - info.q_value
    torch.testing.assert_close(loss, expected)
    assert not algorithm.log_temperature.requires_grad


def test_acting():
    algorithm = make_sac()
    row = specs.zeros(time_step_spec(OBSERVATION, BOX), (3,))._replace(observation=Q_OF_ROWS[0, :3])
    torch.testing.assert_close(algorithm.predict_step(row, ()).output, torch.ones(3, 1))
    step = algorithm.rollout_step(row, ())
    torch.testing.assert_close(step.output, torch.ones(3, 1))
    torch.testing.assert_close(step.info.value, torch.tensor([2.0, 4.0, 3.0]))  # the smaller Q
    assert step.state == ()


def test_values_of_acting_hold_the_entropy():
    algorithm = make_sac(by_hand=False, initial_temperature=0.7)
    row = nest.map_structure(lambda leaf: leaf[:, 0], random_rows(algorithm, 4)[0])
    torch.manual_seed(5)
    step = algorithm.rollout_step(row, ())
    torch.manual_seed(5)
    distribution = algorithm._policy.distribution
    sample, log_prob = distribution.sample(algorithm.actor(row.observation))
    assert torch.equal(step.output, distribution.clip(sample))
    q_value = algorithm.critic_side.critics(row.observation, step.output).min(dim=-1).values
    torch.testing.assert_close(step.info.value, q_value - 0.7 * log_prob)


def test_the_first_actions_are_drawn_from_all_alike():
    algorithm = make_sac(random_env_steps=10)
    row = specs.zeros(time_step_spec(OBSERVATION, BOX), (4000,))
    for _ in range(2):  # before the first hook, and after it
        action = algorithm.rollout_step(row, ()).output
        assert action.min() >= -2.0 and action.max() <= 2.0 and action.dtype == torch.float32
        assert abs(action.mean()) < 0.1 and abs(action.std() - 4.0 / math.sqrt(12.0)) < 0.05
        algorithm.after_train_iter(Progress(env_steps=9))
    algorithm.after_train_iter(Progress(env_steps=10))
    torch.testing.assert_close(algorithm.rollout_step(row, ()).output, torch.ones(4000, 1))


def test_the_target_networks_follow():
    algorithm = make_sac(target_factor=3.0)
    algorithm.after_update(Progress(updates=1))
    assert algorithm.target_side.critics.factor.item() == 2.0


def test_nested_boxes_of_different_sizes():
    spec = {"arm": BoundedTensorSpec((2,), torch.float32, -1.0, 3.0), "gear": BoundedTensorSpec((), torch.float32)}
    algorithm = make_sac(spec, {"a": OBSERVATION, "b": TensorSpec((), torch.bool)}, by_hand=False)
    assert algorithm._policy.target_entropy(None) == -3.0
    rows, batch_info = specs.zeros(time_step_spec(algorithm.observation_spec, spec), (5, 2)), None
    batch_info = BatchInfo(rows.prev_action, torch.arange(2).expand(5, 2))
    assert loss_of(algorithm, rows, batch_info).loss.isfinite().all()
    action = algorithm.rollout_step(nest.map_structure(lambda leaf: leaf[:, 0], rows), ()).output
    assert action["arm"].shape == (5, 2) and action["gear"].shape == (5,)
    assert (action["arm"] >= -1.0).all() and (action["arm"] <= 3.0).all()


def test_it_learns_the_best_of_all_actions():
    """One row of an episode of one step: the reward is -(action - 1)^2, and the action in [-2, 2]."""
    torch.manual_seed(1)
    algorithm = SACAlgorithm(
        TensorSpec((1,)),
        BOX,
        functools.partial(ActorNetwork, hidden_sizes=(16,)),
        functools.partial(CriticsNetwork, hidden_sizes=(32,)),
        target_update=TargetUpdate(tau=0.05),
        initial_temperature=0.3,
        target_entropy=-1.5,
    )
    optimizer = torch.optim.Adam([each for each in algorithm.parameters() if each.requires_grad], lr=0.01)
    step_type = torch.tensor([FIRST, LAST], dtype=torch.uint8).expand(64, 2)
    rows = specs.zeros(time_step_spec(TensorSpec((1,)), BOX), (64, 2))._replace(step_type=step_type)
    for update in range(300):
        action = torch.rand(64, 2, 1) * 4.0 - 2.0
        reward = torch.stack((torch.zeros(64), -(action[:, 0, 0] - 1.0).square()), dim=1)
        optimizer.zero_grad()
        info = BatchInfo(action, torch.arange(2).expand(64, 2))
        loss_of(algorithm, rows._replace(reward=reward), info).loss.mean().backward()
        optimizer.step()
        algorithm.after_update(Progress(updates=update + 1))
    action = algorithm.predict_step(nest.map_structure(lambda leaf: leaf[:1, 0], rows), ()).output
    assert abs(action.item() - 1.0) < 0.15
    assert algorithm.log_temperature < math.log(0.1)  # the entropy asked for is lower than the one at the start


class OneCritic(torch.nn.Module):
    """A critic that was written for one value."""

    num_critics = 1

    def __init__(self, observation_spec, action_spec):
        super().__init__()

    def forward(self, observation, action):
        return observation[..., 0]


UNBOUNDED = BoundedTensorSpec((1,), torch.float32, -math.inf, math.inf)
MIXED = {"move": BOX, "gear": CHOICE}
REFUSED = [
    ({"discount": 1.5}, "SACAlgorithm.discount is 1.5"),
    ({"initial_temperature": 0.0}, "SACAlgorithm.initial_temperature is 0.0; expected a finite number above 0"),
    ({"target_entropy": math.nan}, "SACAlgorithm.target_entropy is nan"),
    ({"initial_temperature": 1.0e30}, r"SACAlgorithm.initial_temperature is 1e\+30; expected .* at most 1e\+09"),
    ({"initial_temperature": LinearSchedule(1.0)}, "SACAlgorithm.initial_temperature is .*; expected a finite number"),
    ({"target_entropy": 0.7}, "SACAlgorithm.target_entropy is 0.7; expected a finite number of at most 0.693147"),
    ({"action_spec": CHOICE, "target_entropy": 50}, r"target_entropy is 50; expected a number in \[0, 0.693147\]"),
    ({"action_spec": {}}, "SACAlgorithm.critics .CriticsNetwork.: the action spec {} has no parts; .*: give"),
    ({"encoder": ActorNetwork}, "SACAlgorithm.encoder is ActorNetwork, which cannot be called with observation_spec"),
    ({"actor": CriticsNetwork}, "SACAlgorithm.actor: CriticsNetwork cannot read rows of TensorSpec"),
    ({"actor": QNetwork}, r"SACAlgorithm.actor \(QNetwork\): .* one discrete choice: .*, @ActorNetwork as"),
    ({"action_spec": CHOICE, "actor": CriticsNetwork}, r"SACAlgorithm.actor: .*\(2, 2, 2\); expected parameters"),
    ({"critics": QNetwork}, r"SACAlgorithm.critics \(QNetwork\): .* one discrete choice: .* bind @CriticsNetwork as"),
    ({"target_entropy_share": 2.0}, "SACAlgorithm.target_entropy_share is 2.0"),
    ({"random_env_steps": -1}, "SACAlgorithm.random_env_steps is -1"),
    ({"target_update": TargetUpdate}, r"is the class TargetUpdate; .* @TargetUpdate\(\) with its parentheses"),
    ({"target_update": None}, r"SACAlgorithm.target_update is None; expected, in a gin file, @TargetUpdate\(\)"),
    ({"box_distribution": "gauss"}, "SACAlgorithm.box_distribution is 'gauss'"),
    ({"legal_mask_key": "legal"}, "SACAlgorithm.legal_mask_key is 'legal'"),
    ({"actor": FixedActor(OBSERVATION, BOX)}, "SACAlgorithm.actor is a FixedActor that is already built"),
    ({"critics": torch.nn.Identity}, "SACAlgorithm.critics makes a Identity whose num_critics is None"),
    ({"critics": OneCritic}, r"OneCritic returned .*\(2,\); expected Q of shape \(2, 1\)"),
    (
        {"action_spec": UNBOUNDED, "box_distribution": "normal", "random_env_steps": 9},
        "SACAlgorithm.random_env_steps is 9, but no action can be drawn",
    ),
    ({"action_spec": UNBOUNDED}, 'finite bounds, or use SACAlgorithm.box_distribution = "normal"'),
    ({"action_spec": MIXED}, "gear: critics cannot read"),
    ({"action_spec": BoundedTensorSpec((2,), torch.int64, 0, 2)}, "the action: critics cannot read .* encode a mixed"),
]


def test_a_box_without_bounds():
    algorithm = make_sac(UNBOUNDED, by_hand=False, box_distribution="normal")
    assert loss_of(algorithm, *random_rows(algorithm, 4)).loss.isfinite().all()


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_it_cannot_serve_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_sac(by_hand=False, **arguments)
    assert "\n" not in str(caught.value).split("\n  In call to configurable")[0]


class OnRowsOnly(CriticsNetwork):
    """Critics that were written for rows `[N, ...]`, as convolutions are."""

    def forward(self, observation, action=()):
        assert observation.ndim == 2
        return super().forward(observation, action)


class ActorOnRowsOnly(ActorNetwork):
    """Likewise."""

    def forward(self, observation):
        assert observation.ndim == 2
        return super().forward(observation)


@pytest.mark.parametrize("action_spec", [BOX, CHOICE])
@pytest.mark.parametrize("encoder", [IdentityEncoder, functools.partial(RecurrentEncoder, state_size=4)])
def test_networks_need_not_know_of_time(action_spec, encoder):
    found = []
    for actor, critics in ((ActorNetwork, CriticsNetwork), (ActorOnRowsOnly, OnRowsOnly)):
        torch.manual_seed(0)
        algorithm = make_sac(action_spec, by_hand=False, encoder=encoder, actor=actor, critics=critics)
        rows, batch_info = random_rows(algorithm, 5)
        batch_info = batch_info._replace(state=algorithm.initial_state(len(rows.reward)))
        found.append(loss_of(algorithm, rows, batch_info).loss)
    assert torch.equal(*found)


def test_an_actor_need_not_ask_for_the_family():
    class Linear(torch.nn.Linear):
        def __init__(self, observation_spec, action_spec):
            super().__init__(2, 2)

    algorithm = make_sac(by_hand=False, actor=Linear)
    assert loss_of(algorithm, *random_rows(algorithm, 4)).loss.isfinite().all()


def test_it_needs_a_replay():
    assert make_sac().needs_replay and not make_sac().on_policy


def test_rows_are_never_changed():
    algorithm = make_sac(by_hand=False)
    rows, batch_info = random_rows(algorithm, 3)
    before = nest.map_structure(torch.clone, (rows, batch_info))
    loss_of(algorithm, rows, batch_info)
    assert isinstance(rows, TimeStep)
    assert all(map(torch.equal, nest.leaves(before), nest.leaves((rows, batch_info))))
