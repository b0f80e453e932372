"""Reanalysis inside a learner, and behind a replay buffer with stacked frames."""

import functools

import gin
import numpy as np
import pytest
import torch
from engine_parts import collect, same_process_engine
from muzero_parts import OBSERVATION, PlainModel, random_block, small_muzero
from support import ScriptedEnvironment

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.mcts_algorithm import SearchInfo
from alfish.algorithms.muzero_reanalysis import Reanalysis
from alfish.algorithms.muzero_target_maker import TargetMaker
from alfish.data_structures import AlgStep, Progress, RowsNeeded, time_step_spec
from alfish.networks.preprocessing import FrameStack, ObservationTransform
from alfish.ops.sampled_policies import make_sampled_policy
from alfish.ops.target_updates import TargetUpdate
from alfish.rollout.acting import experience_specs
from alfish.specs import TensorSpec
from alfish.summary.timers import Timers
from alfish.trainers.batch_source import SourceContext
from alfish.trainers.replay_batches import ReplayBatches

CPU = torch.device("cpu")
SEGMENT_LENGTH = 3


@pytest.fixture
def block():
    gin.bind_parameter("MCTSAlgorithm.num_simulations", 4)
    return functools.partial(random_block, batch_size=8)


def full_observations(rows):
    return rows._replace(observation=torch.randn(*rows.reward.shape, *OBSERVATION.shape))


@pytest.mark.parametrize("full", [True, False])
def test_from_rows_to_the_gradient(block, full):
    torch.manual_seed(0)
    plain = small_muzero(target_update=TargetUpdate())
    algorithm = small_muzero(target_update=TargetUpdate(), reanalysis=Reanalysis(0.5, full=full))
    # What searches is neither trained nor saved, and the model it searches is saved once.
    assert algorithm.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in algorithm.named_parameters()] == [name for name, _ in plain.named_parameters()]
    rows, info, batch_info = block(algorithm, length=algorithm.rows_needed().future + 1)
    inputs, targets = algorithm.preprocess_experience(full_observations(rows), info, batch_info)
    flat_inputs, flat_targets = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, targets))
    flat_inputs = flat_inputs._replace(observation=inputs.observation[:, 0])
    loss = algorithm.calc_loss(algorithm.train_step(flat_inputs, (), flat_targets).info).loss
    assert loss.isfinite().all()
    loss.mean().backward()
    gradients = [parameter.grad for parameter in algorithm.representation.model.parameters()]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_from_a_gin_file():
    gin.parse_config("""
        MuzeroRepresentationImpl.target_update = @TargetUpdate()
        MuzeroRepresentationImpl.td_steps_function = @LinearTdStepFunc()
        MuzeroRepresentationImpl.value_target = @MixedValueTarget()
        MuzeroRepresentationImpl.reanalysis = @Reanalysis()
        LinearTdStepFunc.max_bootstrap_age = 1000
        MixedValueTarget.initial_updates = 100
        MixedValueTarget.fresh_env_steps = 500
        Reanalysis.ratio = 0.5
        Reanalysis.td_steps = 7
        Reanalysis.full = True
        Reanalysis.batch_size = 64
        Reanalysis.algorithm = @reanalysis/MCTSAlgorithm
        reanalysis/MCTSAlgorithm.num_simulations = 4
        reanalysis/MCTSAlgorithm.greedy_after_moves = None
        MCTSAlgorithm.greedy_after_moves = 30
        MCTSAlgorithm.num_simulations = 2
    """)
    assert small_muzero().rows_needed() == RowsNeeded(future=10, future_observations=10)
    gin.bind_parameter("MCTSAlgorithm.reuse_trees", True)
    with pytest.raises(ValueError, match=r"set Reanalysis.algorithm = @reanalysis/MCTSAlgorithm and reanalysis/MCTS"):
        small_muzero()
    gin.bind_parameter("reanalysis/MCTSAlgorithm.reuse_trees", False)
    small_muzero()


def test_a_seed_reproduces_the_targets(block):
    algorithm = small_muzero(target_update=TargetUpdate(), reanalysis=Reanalysis(0.5))
    rows, info, batch_info = block(algorithm, length=algorithm.rows_needed().future + 1)
    rows = full_observations(rows)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(algorithm.preprocess_experience(rows, info, batch_info)[1])
    nest.map_structure(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), found[0], found[1])
    assert not torch.equal(found[0].policy, found[2].policy)


class StackModel(PlainModel):
    """Values 0; sees stacks of frames."""

    def encode(self, observation):
        return 0.0 * observation[:, :1]


class Learner(Algorithm):
    """Acts at random and makes targets. Both its searches note the stacks they see, by episode and step."""

    def __init__(self, observation_spec, action_spec):
        super().__init__(observation_spec, action_spec)
        self.acted, self.trained, self.reanalyzed = {}, {}, {}
        settings = (make_sampled_policy(action_spec), 2, 2, 0.9)
        search = functools.partial(NotingSearch, seen=self.reanalyzed)
        self.maker = TargetMaker(
            observation_spec,
            action_spec,
            *settings,
            target_model=StackModel(),
            reanalysis=Reanalysis(1.0, search, full=True),
        )
        self.searching = NotingSearch(observation_spec, action_spec, seen=self.acted)

    def rows_needed(self):
        return self.maker.rows_needed()

    def rollout_step(self, time_step, state):
        return self.searching.rollout_step(time_step, state)

    def preprocess_experience(self, root_inputs, rollout_info, batch_info):
        note(self.trained, root_inputs.observation[:, :SEGMENT_LENGTH])
        return self.maker(root_inputs, rollout_info, batch_info)[:2]


def note(seen, observation):
    """Notes what is seen of rows, by episode and step, which come last."""
    for numbers in observation.flatten(0, -2).tolist():
        seen.setdefault(tuple(numbers[-2:]), set()).add(tuple(numbers))


class NotingSearch(Algorithm):
    def __init__(self, observation_spec, action_spec, model=None, discount=None, seen=None):
        super().__init__(observation_spec, action_spec)
        self.seen = seen

    def rollout_step(self, time_step, state):
        note(self.seen, time_step.observation)
        size = len(time_step.reward)
        return AlgStep(torch.randint(0, 2, (size,)), state, SearchInfo(torch.full((size, 2), 0.5), torch.zeros(size)))


class MeanOfRows(ObservationTransform):
    """The mean of the last rows of an episode, and the newest row."""

    def __init__(self, observation_spec, num_rows):
        super().__init__(observation_spec)
        self.past_rows = num_rows - 1
        self.output_spec = TensorSpec((2 * observation_spec.shape[0],))

    def initial_state(self, batch_size, device):
        rows = torch.zeros(batch_size, self.past_rows, self.output_spec.shape[0] // 2, device=device)
        return rows, torch.zeros(batch_size, 1, device=device)

    def step(self, observation, state, begins):
        rows = torch.cat((state[0], observation[:, None]), dim=1)
        count = torch.where(begins[:, None], 0.0, state[1])
        is_kept = torch.arange(self.past_rows + 1) >= self.past_rows - count
        mean = (rows * is_kept[..., None]).sum(1) / (count + 1)
        return torch.cat((mean, observation), dim=-1), (rows[:, 1:], (count + 1).clamp(max=self.past_rows))

    def unroll(self, observation, begins):
        means = []
        for row in range(self.past_rows, begins.shape[1]):
            rows, first = slice(row - self.past_rows, row + 1), begins[:, row - self.past_rows + 1 : row + 1]
            is_kept = torch.cat((~first.flip(1).cummax(1).values.flip(1), torch.ones(len(begins), 1).bool()), dim=1)
            means.append((observation[:, rows] * is_kept[..., None]).sum(1) / is_kept.sum(1, keepdim=True))
        return torch.cat((torch.stack(means, dim=1), observation[:, self.past_rows :]), dim=-1)


@pytest.mark.parametrize(
    "transform", [functools.partial(FrameStack, num_frames=3), functools.partial(MeanOfRows, num_rows=3)]
)
def test_training_and_reanalysis_see_what_was_acted_on(transform):
    environment = ScriptedEnvironment(1, length=4)
    stack = transform(environment.observation_spec)
    learner = Learner(stack.output_spec, environment.action_spec)
    row_specs = time_step_spec(environment.observation_spec, environment.action_spec)
    context = SourceContext(
        algorithm=learner,
        transform=stack,
        row_specs=experience_specs(learner, stack, row_specs, 1, CPU),
        num_envs=1,
        window_length=30,
        generator=np.random.default_rng(1),
        device=CPU,
        timers=Timers(),
    )
    learner.acted.clear()
    engine = same_process_engine(environment, learner, stack, 30)
    gin.bind_parameter("ReplayBuffer.capacity", 100)
    source = ReplayBatches(
        context, batch_size=64, updates_per_env_step=0.2, initial_env_steps=0, segment_length=SEGMENT_LENGTH
    )
    source.add(collect(engine))
    assert len(list(source.batches(Progress(env_steps=30)))) == 6
    # Each row was answered once, and what was seen then is all that training and reanalysis have seen of it; the last
    # rows of games are not searched.
    assert all(len(seen) == 1 for seen in learner.acted.values())
    for seen in (learner.trained, learner.reanalyzed):
        assert {place: learner.acted[place] for place in seen} == seen
        assert len(seen) > 15
