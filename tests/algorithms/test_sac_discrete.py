"""SAC of one discrete choice: expectations over all actions, by hand; legal actions."""

import functools
import math

import pytest
import torch
from sac_parts import CHOICE, FIRST, LAST, MID, NO_ENTROPY, OBSERVATION, block, loss_of, make_sac, trained

from alfish import nest, specs
from alfish.algorithms.sac_algorithm import SACAlgorithm
from alfish.algorithms.soft_policies import SoftDiscretePolicy
from alfish.data_structures import BatchInfo, Progress, time_step_spec
from alfish.networks.actor import ActorNetwork
from alfish.networks.critics import CriticsNetwork
from alfish.ops.policy_losses import soft_actor_loss
from alfish.ops.target_updates import TargetUpdate
from alfish.specs import BoundedTensorSpec, TensorSpec

# The policy is (1/4, 3/4) of the actions 1 and 2; the smaller critic says the observation.
Q_OF_ROWS = torch.tensor([[[4.0, 8.0], [0.0, 4.0], [8.0, 0.0]]])
ACTION = torch.tensor([[1, 2, 1]])
MASKED = {"q": OBSERVATION, "legal": BoundedTensorSpec((2,), torch.int8, 0, 1)}
ENTROPY = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))


def test_targets_by_hand():
    algorithm = make_sac(CHOICE, target_factor=10.0, discount=0.5)
    rows, batch_info = block([FIRST, MID, MID], Q_OF_ROWS, [0.0, 1.0, 2.0], action=ACTION)
    # 1 + (0/4 + 3 * 40/4)/2, 2 + (80/4)/2
    target = algorithm.preprocess_experience(rows, (), batch_info)[1].target
    torch.testing.assert_close(target, torch.tensor([[16.0, 12.0]]))


def test_losses_by_hand():
    algorithm = make_sac(CHOICE, initial_temperature=2.0, target_entropy_share=0.5)
    rows, batch_info = block([FIRST, MID, MID], Q_OF_ROWS, action=ACTION)
    info = trained(algorithm, rows, batch_info)
    # Action 1 is the first one, action 2 the second; the other critic says 1 more.
    torch.testing.assert_close(info.q_taken, torch.tensor([[[4.0, 5.0], [4.0, 5.0]]]))
    torch.testing.assert_close(info.q_value, torch.tensor([[7.0, 3.0]]))
    torch.testing.assert_close(info.log_prob, torch.full((1, 2), -ENTROPY))
    loss = algorithm.calc_loss(info).loss
    critic = 0.5 * (info.q_taken - info.target.unsqueeze(-1)).square().sum(-1)
    temperature = 2.0 * (ENTROPY - 0.5 * math.log(2.0))
    torch.testing.assert_close(loss, critic - 2.0 * ENTROPY - info.q_value + temperature)
    # The policy's gradient: pi (2 log pi - Q - their mean), with Q as it is.
    loss.sum().backward()
    slope = torch.zeros(2)
    policy = torch.tensor([0.25, 0.75])
    for q_value in Q_OF_ROWS[0, :2]:
        worth = 2.0 * policy.log() - q_value
        slope += policy * (worth - (policy * worth).sum())
    torch.testing.assert_close(algorithm.actor.parameters_of_all.grad, slope)


def test_acting():
    algorithm = make_sac(CHOICE)
    row = specs.zeros(time_step_spec(OBSERVATION, CHOICE), (4000,))._replace(
        observation=torch.tensor([4.0, 8.0]).expand(4000, 2)
    )
    assert (algorithm.predict_step(row, ()).output == 2).all()
    step = algorithm.rollout_step(row, ())
    assert set(step.output.tolist()) == {1, 2} and step.output.dtype == torch.int64
    assert abs((step.output == 2).float().mean() - 0.75) < 0.05
    torch.testing.assert_close(step.info.value, torch.full((4000,), 7.0))
    algorithm = make_sac(CHOICE, random_env_steps=1)
    assert abs((algorithm.rollout_step(row, ()).output == 2).float().mean() - 0.5) < 0.05


def masked_rows(legal, num_rows=1):
    """Rows `[num_rows, len(legal)]` of the values above and a mask."""
    length = len(legal)
    rows, batch_info = block([MID] * length, Q_OF_ROWS[:, :length], action=ACTION[:, :length])
    legal = torch.tensor([legal], dtype=torch.int8)
    rows = rows._replace(observation={"q": rows.observation, "legal": legal})
    return nest.map_structure(lambda leaf: leaf.expand(num_rows, *leaf.shape[1:]), (rows, batch_info))


def test_illegal_actions_count_for_nothing():
    algorithm = make_sac(CHOICE, MASKED, discount=0.5, legal_mask_key="legal", target_entropy_share=0.5)
    rows, batch_info = masked_rows([[1, 1], [1, 0], [0, 1]])
    # Of row 1 the first action alone, worth 0; of row 2 the second, worth 0.
    info = algorithm.preprocess_experience(rows, (), batch_info)[1]
    torch.testing.assert_close(info.target, torch.zeros(1, 2))
    seen = trained(algorithm, rows, batch_info)
    torch.testing.assert_close(seen.q_value, torch.tensor([[7.0, 0.0]]))
    torch.testing.assert_close(seen.log_prob, torch.tensor([[-ENTROPY, 0.0]]))
    torch.testing.assert_close(seen.target_entropy, torch.tensor([[0.5 * math.log(2.0), 0.0]]))
    assert algorithm.calc_loss(seen).loss.isfinite().all()


class FixedCritics(torch.nn.Module):
    """Two critics of one row, and the smaller one is (1, 2, 9)."""

    def forward(self, features):
        return torch.tensor([[[1.0, 2.0, 9.0], [4.0, 2.0, 9.5]]])


@pytest.mark.parametrize("legal", [None, torch.tensor([[True, True, False]])])
def test_the_best_policy_is_the_softmax_of_what_is_legal(legal):
    policy = SoftDiscretePolicy(BoundedTensorSpec((), torch.int64, 0, 2), None, 0.5)
    q_value, count = torch.tensor([[1.0, 2.0, 9.0]]), 3 if legal is None else 2
    losses = []
    for logits in (q_value / 0.3, torch.zeros(1, 3)):
        logits.requires_grad_()
        expected = policy.learn(logits, FixedCritics(), (), torch.tensor([0]), legal).expected
        losses.append(soft_actor_loss(expected.log_prob, expected.q_value, 0.3))
        losses[-1].sum().backward()
        # Illegal actions get no gradient, and at the softmax of Q / alpha none does.
        moved = [True] * count + [False] * (3 - count) if len(losses) == 2 else [False] * 3
        assert (logits.grad[0].abs() > 1e-5).tolist() == moved
    # There the soft value is alpha log sum exp(Q / alpha): Haarnoja et al. 2017.
    torch.testing.assert_close(-losses[0], 0.3 * torch.logsumexp(q_value[:, :count] / 0.3, dim=-1))
    assert losses[1] > losses[0]


@pytest.mark.parametrize("random_env_steps", [0, 1])
def test_illegal_actions_are_never_taken(random_env_steps):
    algorithm = make_sac(CHOICE, MASKED, legal_mask_key="legal", random_env_steps=random_env_steps)
    rows, _ = masked_rows([[1, 0], [0, 1]], 200)
    for t, expected in enumerate((1, 2)):
        row = nest.map_structure(lambda leaf, t=t: leaf[:, t], rows)
        assert (algorithm.rollout_step(row, ()).output == expected).all()
        assert (algorithm.predict_step(row, ()).output == expected).all()


def test_a_row_without_a_legal_action_is_named():
    algorithm = make_sac(CHOICE, MASKED, legal_mask_key="legal")
    row = nest.map_structure(lambda leaf: leaf[:, 0], masked_rows([[0, 0]], 2)[0])
    for hook in (algorithm.rollout_step, algorithm.predict_step):
        with pytest.raises(ValueError, match="environment 0: .* allows no action"):
            hook(row, ())
    ended = row._replace(step_type=torch.full((2,), LAST, dtype=torch.uint8))
    assert algorithm.rollout_step(ended, ()).output.shape == (2,)


def test_the_entropy_that_is_asked_for():
    assert make_sac(CHOICE)._policy.target_entropy(None) == pytest.approx(0.98 * math.log(2.0))
    fixed = make_sac(CHOICE, target_entropy=0.1)._policy
    assert fixed.target_entropy(None) == 0.1
    assert fixed.target_entropy(torch.ones(3, 2, dtype=torch.bool)) == 0.1


def test_a_fixed_entropy_beside_a_mask():
    algorithm = make_sac(CHOICE, MASKED, legal_mask_key="legal", target_entropy=0.1, initial_temperature=2.0)
    rows, batch_info = masked_rows([[1, 1], [1, 0], [0, 1]])
    loss_of(algorithm, rows, batch_info).loss.sum().backward()
    torch.testing.assert_close(algorithm.log_temperature.grad.item(), 2.0 * (ENTROPY - 0.1 + 0.0 - 0.1))


def test_it_learns_the_best_of_all_actions():
    """Episodes of one step in which the third of three actions is worth 1."""
    torch.manual_seed(0)
    choice = BoundedTensorSpec((), torch.int64, 0, 2)
    algorithm = SACAlgorithm(
        TensorSpec((1,)),
        choice,
        functools.partial(ActorNetwork, hidden_sizes=(8,)),
        functools.partial(CriticsNetwork, hidden_sizes=(16,)),
        target_update=TargetUpdate(tau=0.05),
        target_entropy_share=0.3,
        initial_temperature=0.5,
    )
    optimizer = torch.optim.Adam([each for each in algorithm.parameters() if each.requires_grad], lr=0.02)
    step_type = torch.tensor([FIRST, LAST], dtype=torch.uint8).expand(32, 2)
    rows = specs.zeros(time_step_spec(TensorSpec((1,)), choice), (32, 2))._replace(step_type=step_type)
    for update in range(200):
        action = torch.randint(0, 3, (32, 2))
        reward = torch.stack((torch.zeros(32), (action[:, 0] == 2).float()), dim=1)
        optimizer.zero_grad()
        info = BatchInfo(action, torch.arange(2).expand(32, 2))
        result = loss_of(algorithm, rows._replace(reward=reward), info)
        result.loss.mean().backward()
        optimizer.step()
        algorithm.after_update(Progress(updates=update + 1))
    assert algorithm.predict_step(nest.map_structure(lambda leaf: leaf[:1, 0], rows), ()).output.item() == 2
    assert abs(result.extra["entropy"].item() - 0.3 * math.log(3.0)) < 0.15


def test_without_entropy_the_value_is_the_mean_of_the_critics():
    assert make_sac(CHOICE).log_temperature.exp().item() == pytest.approx(NO_ENTROPY)
