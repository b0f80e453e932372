"""A made-up search, and targets that it reanalyses."""

import torch
from muzero_histories import NUM_ACTIONS
from muzero_parts import PlainModel

from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.mcts_algorithm import SearchInfo
from alfish.algorithms.muzero_reanalysis import Reanalysis
from alfish.algorithms.muzero_target_maker import TargetMaker
from alfish.data_structures import AlgStep
from alfish.ops.sampled_policies import make_sampled_policy
from alfish.specs import BoundedTensorSpec, TensorSpec

MARK = TensorSpec((1,))
ACTION = BoundedTensorSpec((), torch.int64, 0, NUM_ACTIONS - 1)
GAMMA = 0.75


def search_value(mark):
    return -10.0 * mark


def search_policy(mark):
    return torch.stack([mark, mark + 0.5, -mark], dim=-1)


class MadeUpSearch(Algorithm):
    """Finds numbers that follow from a row's mark, and notes which rows it saw, in calls of how many."""

    def __init__(self, observation_spec, action_spec, model=None, discount=None):
        super().__init__(observation_spec, action_spec)
        self.given = (model, discount)
        self.marks, self.sizes, self.rows, self.modes = [], [], [], []
        self.progress = None

    def rollout_step(self, time_step, state):
        mark = time_step.observation[:, 0]
        self.marks += mark.tolist()
        self.sizes.append(len(mark))
        self.rows.append(time_step)
        self.modes.append((self.training, torch.is_inference_mode_enabled()))
        return AlgStep((), state, SearchInfo(search_policy(mark), search_value(mark)))

    def after_train_iter(self, progress):
        self.progress = progress


def make(reanalysis, num_unroll_steps=2, td_steps=2, **options):
    """A TargetMaker, the search that reanalyses, and the target network, whose value of a row is its mark."""
    searches = []

    def algorithm(*arguments, **named):
        searches.append(MadeUpSearch(*arguments, **named))
        return searches[-1]

    model = PlainModel(logits=(0.0,) * NUM_ACTIONS)
    settings = Reanalysis(**({"algorithm": algorithm} | reanalysis))
    actions = make_sampled_policy(ACTION)
    maker = TargetMaker(
        MARK,
        ACTION,
        actions,
        num_unroll_steps,
        td_steps,
        GAMMA,
        target_model=model,
        reanalysis=settings,
        needs_observations=True,
        **options,
    )
    return maker, searches[0] if searches else None, model
