import pytest
import torch
from muzero_parts import PlainModel, random_block, small_muzero

from alfish import gin_config, nest
from alfish.algorithms.muzero_losses import UnrollInfo
from alfish.algorithms.muzero_priorities import make_priority_function, segment_priority
from alfish.algorithms.muzero_targets import MuzeroTargets
from alfish.models.mcts_model import Prediction
from alfish.models.unroll import Unrolled


def info():
    """B = 2, T = 2, R = 1; values 1, 2, 3, 4 at k = 0 against 0, 4, 3, 9."""
    value = torch.stack((torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.full((4,), 50.0)), dim=1).view(2, 2, 2, 1)
    target = torch.stack((torch.tensor([0.0, 4.0, 3.0, 9.0]), torch.zeros(4)), dim=1).view(2, 2, 2)
    nothing = torch.zeros(2, 2, 2, dtype=torch.bool)
    targets = MuzeroTargets(torch.zeros(2, 2, 1), target, target, (), nothing, nothing, nothing[..., 0])
    return UnrollInfo(Unrolled((), Prediction(torch.zeros(2, 2, 2, 2), value.requires_grad_(), ()), ()), targets)


def test_priorities_by_hand():
    loss = torch.tensor([[1.0, -2.0], [3.0, 5.0]], requires_grad=True)
    by_value = segment_priority(make_priority_function("value_error"), PlainModel(), info(), loss)
    by_loss = segment_priority(make_priority_function("loss"), PlainModel(), info(), loss)
    assert by_value.tolist() == [(1.0 + 2.0) / 2, (0.0 + 5.0) / 2]
    assert by_loss.tolist() == [0.5, 4.0]
    assert not by_value.requires_grad
    assert not by_loss.requires_grad


def test_names_and_functions():
    def mine(model, info, loss):
        return loss * 2

    assert make_priority_function(mine) is mine
    with pytest.raises(ValueError, match="priority_function is 'valu'; expected one of .*'value_error', 'loss'"):
        make_priority_function("valu")
    with pytest.raises(ValueError, match="priority_function is 3"):
        make_priority_function(3)


def test_a_reference_in_a_gin_file():
    gin_config.parse_text(
        "import alfish.algorithms.muzero_priorities\n"
        "import alfish.algorithms.muzero_representation\n"
        "MuzeroRepresentationImpl.priority_function = @value_error_priority\n"
    )
    assert loss_of(small_muzero()).priority.shape == (16,)


def loss_of(algorithm):
    inputs, targets = algorithm.preprocess_experience(*random_block(algorithm))
    flat = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, targets))
    step = algorithm.train_step(flat[0], (), flat[1])
    return algorithm.calc_loss(nest.map_structure(lambda leaf: leaf.unflatten(0, (16, 1)), step.info))


def test_the_learner_hands_them_down():
    assert loss_of(small_muzero()).priority == ()
    torch.manual_seed(0)
    algorithm = small_muzero(priority_function="loss")
    loss = loss_of(algorithm)
    torch.testing.assert_close(loss.priority, loss.loss.detach().squeeze(1))
    assert loss.extra["priority/mean"].item() == pytest.approx(loss.priority.mean().item())
    assert loss.extra["priority/spread"].item() > 0.0


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (lambda loss: loss.mean(dim=1), r"a tensor of the shape \(2,\) and torch.float32"),
        (lambda loss: loss.unsqueeze(-1), r"a tensor of the shape \(2, 2, 1\)"),
        (lambda loss: loss.long(), r"a tensor of the shape \(2, 2\) and torch.int64"),
        (lambda loss: loss.tolist(), "a list"),
        (lambda loss: None, "a NoneType"),
    ],
)
def test_results_of_another_kind_are_refused(result, problem):
    def mine(model, info, loss):
        return result(loss)

    with pytest.raises(ValueError, match=rf"^priority_function mine returns {problem}.*; expected a floating-point .*"):
        segment_priority(mine, PlainModel(), info(), torch.ones(2, 2))


@pytest.mark.parametrize("change", [lambda info, loss: loss.zero_(), lambda info, loss: info.targets.value.add_(1.0)])
def test_a_function_that_writes_to_the_loss_is_refused(change):
    def mine(model, info, loss):
        change(info, loss)
        return loss.clone()

    with pytest.raises(ValueError, match="^priority_function mine writes to the tensors that it is given.*copies"):
        segment_priority(mine, PlainModel(), info(), torch.ones(2, 2, requires_grad=True))


def test_a_function_may_write_to_copies():
    def mine(model, info, loss):
        return loss.clone().mul_(2.0)

    assert segment_priority(mine, PlainModel(), info(), torch.ones(2, 2, requires_grad=True)).tolist() == [2.0, 2.0]


class WithCall:
    def __call__(self, reward):
        return reward


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (
            lambda info, loss: loss,
            r"is <lambda>, which does not take three arguments \(too many positional arguments\)",
        ),
        (WithCall(), "is WithCall, which does not take three arguments"),
        (WithCall, "is WithCall, which is a class"),
    ],
)
def test_what_cannot_be_called_with_three_arguments_is_refused(function, problem):
    message = rf"^MuzeroRepresentationImpl\.priority_function {problem}.*; expected one of .*, such as @loss_priority$"
    with pytest.raises(ValueError, match=message):
        make_priority_function(function)


def test_further_arguments_may_be_bound_in_gin():
    def mine(model, info, loss, scale):
        return scale * loss

    assert make_priority_function(mine) is mine
