"""What is reported of an update, by hand, and what reporting costs and changes."""

import math

import pytest
import torch
from muzero_parts import PlainModel, random_block, small_model, small_muzero

from alfish.algorithms.muzero_losses import UnrollInfo, loss_masks
from alfish.algorithms.muzero_report import effective_rank, muzero_report, priority_report
from alfish.algorithms.muzero_targets import MuzeroTargets
from alfish.data_structures import Progress
from alfish.models.mcts_model import Prediction
from alfish.models.unroll import Unrolled
from alfish.ops.sampled_policies import make_sampled_policy
from alfish.specs import BoundedTensorSpec
from alfish.trainers.batch_source import TrainBatch
from alfish.trainers.updater import Updater

ACTIONS = make_sampled_policy(BoundedTensorSpec((), torch.int64, 0, 1))


def two_rows(partial=(False, False)):
    """B = 2, T = 1, R = 1; the second row's episode ends at k = 0, for good unless it is `partial`."""
    logits = torch.tensor([[[math.log(3.0), 0.0]] * 2, [[0.0, 0.0]] * 2])
    return UnrollInfo(
        Unrolled(
            reward_logits=torch.tensor([1.0, 0.5]).view(2, 1, 1, 1),
            prediction=Prediction(logits.unsqueeze(1), torch.tensor([[3.0, 1.0], [5.0, 0.5]]).view(2, 1, 2, 1), ()),
            latent=torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[0.0, 1.0], [9.0, 9.0]]]).unsqueeze(1),
        ),
        MuzeroTargets(
            action=torch.zeros(2, 1, 1, dtype=torch.int64),
            reward=torch.tensor([[7.0, 4.0], [7.0, 0.0]]).unsqueeze(1),
            value=torch.tensor([[4.0, 2.0], [8.0, 0.0]]).unsqueeze(1),
            policy=torch.tensor([[0.5, 0.5], [1.0, 0.0]]).expand(2, 1, 2, 2),
            beyond_episode_end=torch.tensor([[False, False], [False, True]]).unsqueeze(1),
            game_over=torch.tensor([[False, False], [False, True]]).unsqueeze(1),
            is_partial=torch.tensor(partial).unsqueeze(1),
        ),
        gradient_norm=torch.tensor([5.0, 6.0]).expand(2, 1, 2),
    )


def report_of(info, model=None, train_policy=True):
    report = muzero_report(model or PlainModel(), ACTIONS, info, loss_masks(info.targets), train_policy)
    return {name: value.item() for name, value in report.items()}


def test_a_report_by_hand():
    certain_three = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert report_of(two_rows()) == pytest.approx(
        {
            "value/mean": 4.0,
            "value/target_mean": 6.0,
            # At k = 0 the targets 4, 8 vary by 2² each, what is left of them, 1, 3, by 1²; at k = 1 by 1², 0.75².
            "value/explained_variance_0": 0.75,
            "value/explained_variance_1": 1.0 - 0.75**2,
            # Three places have an action: both k of the first row, and k = 0 of the second.
            "policy/entropy": (2 * certain_three + math.log(2.0)) / 3,
            "policy/target_entropy": 2 / 3 * math.log(2.0),
            # Targets 4, 0, predictions 1, 0.5: what is left is 3, -0.5.
            "reward/explained_variance_1": 1.0 - 1.75**2 / 2.0**2,
            "reward/error_where_zero": 0.5,
            "reward/error_elsewhere": 3.0,
            "reward/share_not_zero": 0.5,
            "latent/norm": (5.0 + 1.0) / 2,
            "latent/rank": 1.0,
            "latent/gradient_norm_0": 5.0,
            "latent/gradient_norm_1": 6.0,
        }
    )


def test_what_is_not_known_is_not_reported():
    report = report_of(two_rows(partial=(False, True)))
    # Beyond the second row's cut nothing is known: one target does not vary.
    assert report["value/explained_variance_0"] == pytest.approx(0.75)
    assert report["value/explained_variance_1"] == report["reward/explained_variance_1"] == 0.0
    assert (report["reward/share_not_zero"], report["reward/error_where_zero"]) == (1.0, 0.0)


def test_what_there_is_not_is_not_reported():
    info = two_rows()
    info = info._replace(unrolled=info.unrolled._replace(reward_logits=()), gradient_norm=())
    info = info._replace(targets=info.targets._replace(policy=()))
    report = report_of(info, PlainModel(predicts_reward=False), train_policy=False)
    assert {name.split("/")[0] for name in report} == {"value", "latent"}
    assert not [name for name in report if "gradient" in name]


def test_the_spread_of_priorities():
    report = priority_report(torch.tensor([1.0, 3.0, 1.0, 3.0]))
    assert (report["priority/mean"].item(), report["priority/spread"].item()) == (2.0, 0.5)
    assert priority_report(torch.zeros(3))["priority/spread"].item() == 0.0


@pytest.mark.parametrize("size", [(40, 6), (6, 40)])
def test_the_rank_against_eigenvalues(size):
    rows = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 5
    eigenvalues = torch.linalg.eigvalsh((rows - rows.mean(0)).T @ (rows - rows.mean(0)))
    expected = eigenvalues.sum() ** 2 / eigenvalues.square().sum()
    torch.testing.assert_close(effective_rank(rows), expected)


def test_ranks_by_hand():
    corners = torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]])
    assert effective_rank(corners + 3.0).item() == pytest.approx(2.0)
    assert effective_rank(corners * torch.tensor([1.0, 0.0, 0.0])).item() == pytest.approx(1.0)
    assert effective_rank(torch.ones(4, 3)).item() == 0.0


def test_reports_come_at_their_interval():
    algorithm = small_muzero(report_interval=3)
    algorithm.train()
    inputs, targets = algorithm.preprocess_experience(*random_block(algorithm))
    batch = TrainBatch(inputs, targets, ())
    updater = Updater(algorithm, optimizer=torch.optim.SGD, learning_rate=0.01)
    algorithm.after_train_iter(Progress(updates=7))
    reported, norms = [], []
    for updates in range(8, 15):
        metrics = updater.update(batch, Progress(updates=updates)).metrics
        algorithm.after_update(Progress(updates=updates))
        algorithm.after_train_iter(Progress(updates=updates))
        assert metrics["loss/value"].isfinite()
        reported.append("value/mean" in metrics)
        if reported[-1]:
            norms.append([metrics[f"latent/gradient_norm_{k}"].item() for k in range(4)])
    # With 7 updates done the next report is due after the 9th, and then every 3.
    assert reported == [False, False, True, False, False, True, False]
    # The backward pass has filled them; the heads of a new model hold the gradient back at first.
    assert all(norm > 0 for each in norms for norm in each)
    assert norms[0] != norms[1]


def test_reporting_changes_no_update():
    parameters = []
    for interval in (1, 1000):
        torch.manual_seed(0)
        algorithm = small_muzero(model=small_model, report_interval=interval)
        algorithm.train()
        inputs, targets = algorithm.preprocess_experience(*random_block(algorithm))
        updater = Updater(algorithm, optimizer=torch.optim.Adam, learning_rate=0.01)
        for updates in range(1, 5):
            updater.update(TrainBatch(inputs, targets, ()), Progress(updates=updates))
            algorithm.after_update(Progress(updates=updates))
        parameters.append(torch.cat([parameter.detach().flatten() for parameter in algorithm.parameters()]))
    assert torch.equal(*parameters)
