"""What the options of the representation learner change: consistency, augmentation, precision, policies, chance."""

import functools
import math
from typing import NamedTuple

import pytest
import torch
from muzero_parts import ACTION, OBSERVATION, PlainModel, random_block, small_model, small_support
from stochastic_parts import small_stochastic_model

from alfish import gin_config, nest, specs
from alfish.algorithms.muzero_losses import UnrollInfo, loss_masks, muzero_losses
from alfish.algorithms.muzero_representation import MuzeroRepresentationImpl
from alfish.data_structures import Experience, Progress, time_step_spec
from alfish.models.stochastic_unroll import StochasticUnrolled
from alfish.models.value_prefix_mcts_model import ValuePrefixMCTSModel
from alfish.networks.augmentation import RandomIntensity, RandomShift
from alfish.networks.consistency_heads import SimSiamHeads
from alfish.networks.muzero_vector_networks import VectorEncoding
from alfish.ops.scalar_supports import OrderedSupport, QuantileSupport, SquaredSupport
from alfish.ops.target_updates import TargetUpdate
from alfish.ops.value_transforms import CategoricalSupport, SignedHyperbolicTransform
from alfish.specs import TensorSpec
from alfish.trainers.batch_source import TrainBatch
from alfish.trainers.updater import Updater

R = 3


def make(model=small_model, observation_spec=OBSERVATION, **options):
    settings = {"num_unroll_steps": R, "td_steps": 2, "discount": 0.9} | options
    return MuzeroRepresentationImpl(observation_spec, ACTION, model, **settings)


def make_batch(algorithm, batch_size=16, num_starts=1):
    """A batch of random rows; all rows of the block have observations."""
    algorithm.train()
    rows, info, batch_info = random_block(algorithm, batch_size, num_starts + algorithm.rows_needed().future)
    shape = (*rows.reward.shape, *algorithm.observation_spec.shape)
    generator = torch.Generator().manual_seed(7)
    observation = torch.randn(shape, generator=generator)
    rows = rows._replace(observation=observation.to(algorithm.observation_spec.dtype))
    with torch.no_grad():
        inputs, targets = algorithm.preprocess_experience(rows, info, batch_info)
    return TrainBatch(inputs, targets, ())


def step_of(algorithm, batch):
    flat = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (batch.inputs, batch.rollout_info))
    info = algorithm.train_step(flat[0], (), flat[1]).info
    return nest.map_structure(lambda leaf: leaf.unsqueeze(1), info)


def losses_in(loss_info):
    return {name.removeprefix("loss/") for name in loss_info.extra if name.startswith("loss/")}


class Difference(torch.nn.Module):
    """Heads whose loss a test can compute: the sum of squares of what was predicted less what was observed."""

    def __init__(self, input_size):
        super().__init__()
        self.input_size = input_size

    def forward(self, predicted, observed):
        assert not observed.requires_grad
        return (predicted - observed).square().sum(1)


def test_the_consistency_loss_by_hand():
    """The latents are 1, 1, 1, the observations 1, 2, 3 and the episode of the second row ends at k = 1."""
    algorithm = make(
        PlainModel,
        TensorSpec((1,)),
        num_unroll_steps=2,
        td_steps=1,
        consistency=Difference,
        consistency_loss_weight=3.0,
    )
    assert algorithm._consistency.input_size == 1
    assert algorithm.rows_needed().future_observations == 2
    rows, info, batch_info = random_block(algorithm, 2, 4)
    last = torch.tensor([[False] * 4, [False, True, False, False]])
    rows = rows._replace(
        step_type=(1 + last.int()).byte(),
        discount=(~last).float(),
        observation=torch.tensor([[1.0, 2.0, 3.0, 9.0]] * 2).unsqueeze(-1),
    )
    inputs, targets = algorithm.preprocess_experience(rows, info, batch_info)
    assert targets.observation.squeeze().tolist() == [[2.0, 3.0], [2.0, 2.0]]
    inputs = inputs._replace(observation=rows.observation[:, :1])
    step = step_of(algorithm, TrainBatch(inputs, targets, ()))
    assert step.consistency.squeeze(1).tolist() == [[1.0, 4.0], [1.0, 1.0]]
    loss = algorithm.calc_loss(step)
    # 1/R; nothing is learned beyond the end.
    assert loss.extra["loss/consistency"].squeeze(1).tolist() == [(1.0 + 4.0) / 2, 1.0 / 2]
    without = muzero_losses(
        algorithm.model, algorithm._actions, step._replace(consistency=()), loss_masks(targets), train_policy=True
    )
    weights = {"policy": 1.0, "value": 0.25, "reward": 1.0}
    rest = sum(weights[name] * part for name, part in without.items())
    torch.testing.assert_close(loss.loss - rest, 3.0 * torch.tensor([[2.5], [0.5]]))


@pytest.mark.parametrize("prefix", [False, True])
def test_consistency_trains_the_dynamics_and_not_the_targets(prefix):
    torch.manual_seed(0)
    model = small_model
    if prefix:
        model = functools.partial(
            ValuePrefixMCTSModel,
            model=functools.partial(small_model, reward_support=None),
            value_prefix_support=small_support(),
        )
    others = dict.fromkeys(("value_loss_weight", "reward_loss_weight", "policy_loss_weight"), 0.0)
    algorithm = make(model, consistency=SimSiamHeads, **others)
    updater = Updater(algorithm, optimizer=torch.optim.Adam, learning_rate=0.003)
    batch = make_batch(algorithm, 64)
    found = [updater.update(batch, Progress()).metrics["loss/consistency"].item() for _ in range(60)]
    assert found[-1] < 0.8 * found[0]
    assert found[0] <= 2.0
    latents = algorithm.predict_step(batch.inputs._replace(observation=torch.randn(50, 4)), ()).output
    assert latents.std(0).mean() > 0.02  # they have not all become the same


def test_augmentation_is_for_training_alone():
    seen = []

    class Seen:
        def __init__(self, observation_spec):
            self.spec = observation_spec

        def __call__(self, observation):
            seen.append(observation.shape)
            return observation + 100.0

    algorithm = make(augmentation=Seen, consistency=SimSiamHeads, target_update=TargetUpdate())
    batch = make_batch(algorithm)
    with torch.no_grad():
        algorithm.rollout_step(specs.zeros(time_step_spec(OBSERVATION, ACTION), (2,)), ())
    assert seen == []
    torch.manual_seed(0)
    augmented = step_of(algorithm, batch)
    # The first observations, and those of the consistency loss, each once.
    assert seen == [(16, 4), (16 * R, 4)]
    plain = make(consistency=SimSiamHeads, target_update=TargetUpdate())
    plain.load_state_dict(algorithm.state_dict())
    plain.train()
    moved = batch._replace(inputs=batch.inputs._replace(observation=batch.inputs.observation + 100.0))
    expected = step_of(plain, moved).unrolled.prediction
    nest.map_structure(torch.testing.assert_close, augmented.unrolled.prediction, expected)


def test_images_are_shifted_before_they_are_encoded():
    spec = TensorSpec((1, 4, 4))

    class Flat(PlainModel):
        def encode(self, observation):
            return self.scale * observation.flatten(1)[:, :1]

    algorithm = make(Flat, spec, augmentation=(RandomShift, RandomIntensity), report_interval=1)
    batch = make_batch(algorithm, 200)
    corner = batch.inputs.observation[:, 0, 0, 0, 0]
    latent = step_of(algorithm, batch).unrolled.latent[:, 0, 0, 0]
    assert 0 < (latent / corner - 1.0).abs().lt(0.11).sum() < 100  # few are drawn to stay where they were
    assert latent.abs().max() <= 1.1 * batch.inputs.observation.abs().max() + 1e-6


def test_mixed_precision_runs_the_model_in_bfloat16_and_the_losses_in_float32():
    seen = []
    torch.manual_seed(0)
    algorithm = make(mixed_precision=True, consistency=SimSiamHeads)
    algorithm.model._prediction.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0].dtype))
    batch = make_batch(algorithm)
    info = step_of(algorithm, batch)
    assert seen == [torch.bfloat16]
    assert {leaf.dtype for leaf in nest.leaves((info.unrolled, info.consistency))} == {torch.float32}
    exact = make(consistency=SimSiamHeads)
    exact.load_state_dict(algorithm.state_dict())
    exact.train()
    found, expected = algorithm.calc_loss(info).loss, exact.calc_loss(step_of(exact, batch)).loss
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    found.mean().backward()
    assert {parameter.grad.dtype for parameter in algorithm.parameters()} == {torch.float32}
    with torch.no_grad():
        assert algorithm.predict_step(batch.inputs._replace(observation=torch.randn(2, 4)), ()).output.dtype == (
            torch.float32
        )


def test_mixed_precision_learns():
    torch.manual_seed(0)
    algorithm = make(mixed_precision=True)
    updater, batch = Updater(algorithm, optimizer=torch.optim.Adam, learning_rate=0.01), make_batch(algorithm)
    found = [updater.update(batch, Progress()).metrics["loss"].item() for _ in range(60)]
    assert found[-1] < 0.75 * found[0]


def test_without_a_policy_only_what_is_left_is_learned():
    algorithm = make(train_policy=False)
    rows, info, batch_info = random_block(algorithm)

    class ValueOnly(info.__class__):
        @property
        def policy(self):
            raise AssertionError("a policy was read")

    _, targets = algorithm.preprocess_experience(rows, ValueOnly(*info), batch_info)
    assert (targets.policy, targets.candidates) == ((), ())
    loss = algorithm.calc_loss(step_of(algorithm, make_batch(algorithm)))
    assert losses_in(loss) == {"value", "reward"}
    assert not [name for name in loss.extra if name.startswith("policy/")]
    torch.testing.assert_close(loss.loss, 0.25 * loss.extra["loss/value"] + loss.extra["loss/reward"])


@pytest.mark.parametrize("heads", [{}, {"reward_support": None}, {"predict_game_over": True}])
def test_heads_are_trained_that_the_model_has(heads):
    loss = (algorithm := make(functools.partial(small_model, **heads))).calc_loss(
        step_of(algorithm, make_batch(algorithm))
    )
    expected = {"policy", "value"} | {"reward"} - set(() if heads.get("reward_support", 1) else ("reward",))
    assert losses_in(loss) == expected | ({"game_over"} if heads.get("predict_game_over") else set())


SUPPORTS = {
    "ordered": functools.partial(OrderedSupport, -3.0, 3.0, 13, SignedHyperbolicTransform()),
    "quantile": functools.partial(QuantileSupport, 8, transform=SignedHyperbolicTransform()),
    "squared": functools.partial(SquaredSupport, SignedHyperbolicTransform()),
    "categorical": functools.partial(CategoricalSupport, -3.0, 3.0, 13, SignedHyperbolicTransform()),
}


@pytest.mark.parametrize("support", SUPPORTS)
def test_values_and_rewards_are_learned_with_every_support(support):
    torch.manual_seed(0)
    parts = {"value_support": SUPPORTS[support], "reward_support": SUPPORTS[support]}
    algorithm = make(functools.partial(small_model, **parts), value_loss_weight=1.0, report_interval=1)
    updater = Updater(algorithm, optimizer=torch.optim.Adam, learning_rate=0.01)
    batch = make_batch(algorithm)
    metrics = [updater.update(batch, Progress()).metrics for _ in range(150)]
    before, after = (
        (each["value/explained_variance_0"], each["reward/explained_variance_1"]) for each in metrics[::149]
    )
    assert before == pytest.approx((0.0, 0.0), abs=1e-5)
    assert min(after) > 0.5, after


def test_a_stochastic_model_is_trained():
    torch.manual_seed(0)
    algorithm = make(small_stochastic_model, report_interval=1)
    assert algorithm.rows_needed().future_observations == R
    updater, batch = Updater(algorithm, optimizer=torch.optim.Adam, learning_rate=0.01), make_batch(algorithm, 32)
    metrics = [updater.update(batch, Progress()).metrics for _ in range(80)]
    assert {"loss/chance", "loss/commitment", "loss/value", "loss/reward", "loss/policy"} <= set(metrics[0])
    assert metrics[0]["loss/chance"].item() == pytest.approx(
        (math.log(3) + math.log(13)) * metrics[0]["loss/reward"].item() / math.log(13), rel=0.35
    )
    assert metrics[-1]["loss"] < 0.75 * metrics[0]["loss"]
    assert all(metrics[-1][f"latent/gradient_norm_{k}"] > 0 for k in range(R + 1))
    names = [name for name, parameter in algorithm.named_parameters() if parameter.grad is None]
    assert names == []


def test_the_chance_losses_by_hand():
    """R = 1 and C = 3: of two rows, the second ends at k = 0, so that no outcome follows."""
    algorithm = make(small_stochastic_model, num_unroll_steps=1)
    batch = make_batch(algorithm, 2)
    info = step_of(algorithm, batch)
    assert isinstance(info.unrolled, StochasticUnrolled)
    beyond = torch.tensor([[[False, False]], [[False, True]]])
    targets = info.targets._replace(beyond_episode_end=beyond, is_partial=torch.zeros(2, 1, dtype=torch.bool))
    targets = targets._replace(game_over=torch.zeros_like(beyond))
    embedding = torch.tensor([0.5, 2.0, 0.0]).expand(2, 1, 1, 3)
    code = torch.tensor([0.0, 1.0, 0.0]).expand(2, 1, 1, 3)
    unrolled = info.unrolled._replace(code=info.unrolled.code._replace(code=code, embedding=embedding))
    info = UnrollInfo(unrolled, targets)
    found = muzero_losses(algorithm.model, algorithm._actions, info, loss_masks(targets), train_policy=True)
    # New heads are uniform over 3 outcomes and over the 13 bins of the afterstate's value.
    assert found["chance"].squeeze(1).tolist() == pytest.approx([math.log(3) + math.log(13), 0.0])
    assert found["commitment"].squeeze(1).tolist() == [1.25, 0.0]


def test_the_value_of_an_afterstate_is_that_of_the_state_before():
    algorithm = make(small_stochastic_model, num_unroll_steps=2)
    info = step_of(algorithm, make_batch(algorithm, 4))
    nothing = torch.zeros(4, 1, 3, dtype=torch.bool)
    targets = info.targets._replace(beyond_episode_end=nothing, is_partial=nothing[..., 0])
    asked = []
    algorithm.model.value_loss = lambda logits, target: asked.append(target) or torch.zeros_like(target)
    muzero_losses(algorithm.model, algorithm._actions, info._replace(targets=targets), loss_masks(targets), True)
    assert torch.equal(asked[1], targets.value[..., :2])


def test_the_output_of_a_value_prefix_model_is_its_inner_latent():
    model = functools.partial(
        ValuePrefixMCTSModel,
        model=functools.partial(small_model, reward_support=None),
        value_prefix_support=small_support(),
    )
    output = make(model).predict_step(specs.zeros(time_step_spec(OBSERVATION, ACTION), (5,)), ()).output
    assert output.shape == (5, 8)


def test_from_a_gin_file():
    gin_config.parse_text(
        "import alfish.algorithms.muzero_representation\n"
        "import alfish.networks.augmentation\n"
        "import alfish.networks.consistency_heads\n"
        "MuzeroRepresentationImpl.consistency = @SimSiamHeads\n"
        "MuzeroRepresentationImpl.augmentation = (@RandomIntensity, @RandomIntensity)\n"
        "MuzeroRepresentationImpl.priority_function = 'loss'\n"
        "MuzeroRepresentationImpl.mixed_precision = True\n"
        "MuzeroRepresentationImpl.report_interval = 2\n"
        "SimSiamHeads.projection_size = 7\n"
    )
    algorithm = make()
    loss = algorithm.calc_loss(step_of(algorithm, make_batch(algorithm)))
    assert loss.priority.shape == (16,)
    assert losses_in(loss) == {"policy", "value", "reward", "consistency"}
    assert algorithm._consistency._prediction[-1].out_features == 7


def test_segments_of_several_rows():
    """T = 3 with everything on: what the updater hands on is `[B, T]` and `[B]`."""
    algorithm = make(
        consistency=SimSiamHeads,
        augmentation=RandomIntensity,
        priority_function="value_error",
        target_update=TargetUpdate(),
        report_interval=1,
    )
    batch = make_batch(algorithm, 8, num_starts=3)
    assert batch.inputs.reward.shape == (8, 3)
    updated = Updater(algorithm, optimizer=torch.optim.Adam, learning_rate=0.01).update(batch, Progress())
    assert updated.priority.shape == (8,)
    expected = (batch.rollout_info.value[:, :, 0]).abs().mean(1)  # a new model says 0
    torch.testing.assert_close(updated.priority, expected)
    assert updated.metrics["latent/gradient_norm_2"] > 0
    assert all(torch.as_tensor(value).isfinite() for value in updated.metrics.values())


def test_what_is_stored_is_checked_before_a_run():
    class Stored(NamedTuple):
        value: TensorSpec
        policy: nest.Nest = ()

    def rows(info):
        return Experience(time_step_spec(OBSERVATION, ACTION), ACTION, info)

    make().check_experience(rows(Stored(TensorSpec(()), TensorSpec((2,)))))
    make(train_policy=False).check_experience(rows(Stored(TensorSpec(()))))
    with pytest.raises(ValueError, match="without a policy, .* set MuzeroRepresentationImpl.train_policy = False"):
        make().check_experience(rows(Stored(TensorSpec(()))))
    with pytest.raises(ValueError, match="without a value"):
        make(train_policy=False).check_experience(rows(()))


@pytest.mark.parametrize("name", ["consistency", "chance", "commitment"])
def test_weights_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=rf"MuzeroRepresentationImpl\.{name}_loss_weight is -1"):
        make(**{f"{name}_loss_weight": -1.0})


def test_an_interval_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"MuzeroRepresentationImpl\.report_interval is 0"):
        make(report_interval=0)


def test_an_augmentation_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="RandomShift changes images"):
        make(augmentation=RandomShift)


@pytest.mark.parametrize("name", ["policy", "consistency", "chance", "commitment"])
def test_a_weight_without_its_loss_is_refused(name):
    message = f"MuzeroRepresentationImpl.{name}_loss_weight is 2.0, but there is no {name} loss; set Muz.* or leave the"
    with pytest.raises(ValueError, match=message):
        make(train_policy=False, **{f"{name}_loss_weight": 2.0})


def test_weights_that_are_left_out():
    weights = make(small_stochastic_model, consistency=SimSiamHeads)._weights
    assert [weights[name] for name in ("policy", "consistency", "chance", "commitment")] == [1.0, 2.0, 1.0, 0.25]
    assert make(consistency=SimSiamHeads, consistency_loss_weight=0.5)._weights["consistency"] == 0.5


def test_what_makes_no_heads_is_refused():
    message = r"MuzeroRepresentationImpl\.consistency is VectorEncoding, which cannot be made for latents of 8 elements"
    with pytest.raises(ValueError, match=rf"^{message} \(.*\); expected what takes their number, such as @SimSia"):
        make(consistency=VectorEncoding)
