"""Nests of actions: the parts by themselves, and one part beside another."""

import copy

import pytest
import torch

from alfish import nest
from alfish.ops.distributions import make_action_distribution
from alfish.specs import BoundedTensorSpec

SPEC = {
    "turn": (BoundedTensorSpec((), torch.int64, -1, 1), BoundedTensorSpec((2,), torch.int64, 0, 3)),
    "drive": BoundedTensorSpec((2,), torch.float32, -2.0, 2.0),
}
# In the order of sorted keys: drive 4, turn.0 3, turn.1 8.
SIZES = [4, 3, 8]


@pytest.mark.parametrize("box_distribution", ["normal", "squashed_normal", "beta"])
def test_a_nest_is_its_parts_side_by_side(box_distribution):
    distribution = make_action_distribution(SPEC, box_distribution)
    assert distribution.num_parameters == sum(SIZES)
    torch.manual_seed(0)
    parameters = torch.randn(5, 3, sum(SIZES))
    sample, log_prob = distribution.sample(parameters)
    mode, action = distribution.mode(parameters), distribution.clip(sample)
    evaluated, entropy = distribution.evaluate(parameters, sample)
    parts = [make_action_distribution(part, box_distribution) for part in nest.leaves(SPEC)]
    expected_log_prob, expected_entropy = torch.zeros(5, 3), torch.zeros(5, 3)
    for i, (part, own) in enumerate(zip(parts, parameters.split(SIZES, dim=-1), strict=True)):
        leaf = nest.leaves(sample)[i]
        part_log_prob, part_entropy = part.evaluate(own, leaf)
        expected_log_prob += part_log_prob
        expected_entropy += part_entropy
        assert torch.equal(nest.leaves(mode)[i], part.mode(own))
        assert torch.equal(nest.leaves(action)[i], part.clip(leaf))
    torch.testing.assert_close(log_prob, expected_log_prob)
    torch.testing.assert_close(evaluated, expected_log_prob)
    torch.testing.assert_close(entropy, expected_entropy)
    assert nest.structure(sample) == nest.structure(mode) == nest.structure(action) == nest.structure(SPEC)


def test_the_probabilities_of_all_joint_choices_sum_to_one():
    distribution = make_action_distribution([SPEC["turn"][0], BoundedTensorSpec((), torch.int64, 0, 4)])
    parameters = torch.randn(1, 8).expand(15, 8)
    choices = [torch.arange(-1, 2).repeat_interleave(5), torch.arange(5).repeat(3)]
    log_prob, entropy = distribution.evaluate(parameters, choices)
    assert log_prob.exp().sum().item() == pytest.approx(1.0)
    assert -(log_prob.exp() * log_prob).sum().item() == pytest.approx(entropy[0].item(), rel=1e-5)


def test_it_clips_and_reparameterizes_if_its_parts_do():
    box, choice = SPEC["drive"], SPEC["turn"][0]
    free = BoundedTensorSpec((2,), torch.float32, -torch.inf, torch.inf)
    for spec, clips, has_rsample in (
        ({"a": choice, "b": choice}, False, False),
        ({"a": choice, "b": box}, True, False),
        ({"a": free, "b": box}, True, True),
        ({"a": free}, False, True),
    ):
        distribution = make_action_distribution(spec)
        assert (distribution.clips, distribution.has_rsample) == (clips, has_rsample)


def test_reparameterized_parts():
    distribution = make_action_distribution({"a": SPEC["drive"], "b": SPEC["drive"]}, "squashed_normal")
    torch.manual_seed(0)
    parameters = (0.3 * torch.randn(4, 8)).requires_grad_()
    sample, log_prob = distribution.rsample(parameters)
    action = distribution.clip(sample)
    (gradient,) = torch.autograd.grad(action["b"].sum(), parameters, retain_graph=True)
    assert (gradient[:, :4] == 0.0).all() and (gradient[:, 4:] != 0.0).all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
    assert (gradient != 0.0).all()


def test_a_copy_is_independent_and_moves_as_a_whole():
    distribution = make_action_distribution(SPEC, "squashed_normal")
    copied = copy.deepcopy(distribution).to("meta")
    assert all(buffer.device.type == "meta" for buffer in copied.buffers())
    assert all(buffer.device.type == "cpu" for buffer in distribution.buffers())
    assert list(distribution.parameters()) == [] and distribution.state_dict() == {}


# torch makes its own Dirichlet function in a way that it warns of, when it traces it.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("box_distribution", ["normal", "squashed_normal", "beta"])
def test_torch_compile_finds_no_break(box_distribution):
    distribution = make_action_distribution(SPEC, box_distribution)

    def act_and_evaluate(parameters):
        sample, log_prob = distribution.sample(parameters)
        return distribution.clip(sample), log_prob, *distribution.evaluate(parameters, sample)

    parameters = torch.randn(4, distribution.num_parameters)
    results = []
    for function in (act_and_evaluate, torch.compile(act_and_evaluate, backend="eager", fullgraph=True)):
        torch.manual_seed(0)
        results.append(nest.leaves(function(parameters)))
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain)
