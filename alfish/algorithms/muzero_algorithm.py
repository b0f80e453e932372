"""MuZero: a learned model, and a tree search over it that acts."""

from collections.abc import Callable

import gin

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.mcts_algorithm import MCTSAlgorithm
from alfish.algorithms.muzero_representation import MuzeroRepresentationImpl
from alfish.data_structures import AlgStep, BatchInfo, Experience, LossInfo, Progress, RowsNeeded, TimeStep


@gin.configurable
class MuzeroAlgorithm(Algorithm):
    """Joins the learner of a model and the search that acts with it.

    Schrittwieser et al. 2020, "Mastering Atari, Go, chess and shogi by planning with a learned model". The search's
    policies and values are stored with the rows and become the learner's targets.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one discrete choice of A.
        representation: makes the learner, given both specs.
        policy: makes the acting policy, given both specs, the learner's model and its discount.
    """

    trains_on_last_rows = True
    acting_phase = MCTSAlgorithm.acting_phase

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        representation: Callable[..., MuzeroRepresentationImpl] = MuzeroRepresentationImpl,
        policy: Callable[..., MCTSAlgorithm] = MCTSAlgorithm,
    ):
        super().__init__(observation_spec, action_spec)
        self.representation = representation(observation_spec, action_spec)
        self.gives_priorities = self.representation.gives_priorities
        self.priority_settings = self.representation.priority_settings
        self._policy = policy(
            observation_spec, action_spec, model=self.representation.model, discount=self.representation.discount
        )

    def check_experience(self, row_specs: Experience) -> None:
        self.representation.check_experience(row_specs)

    def rows_needed(self) -> RowsNeeded:
        return self.representation.rows_needed()

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return self._policy.predict_step(time_step, state)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return self._policy.rollout_step(time_step, state)

    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: nest.Nest, batch_info: BatchInfo
    ) -> tuple[TimeStep, nest.Nest]:
        return self.representation.preprocess_experience(root_inputs, rollout_info, batch_info)

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: nest.Nest) -> AlgStep:
        return self.representation.train_step(inputs, state, rollout_info)

    def calc_loss(self, info: nest.Nest) -> LossInfo:
        return self.representation.calc_loss(info)

    def after_update(self, progress: Progress) -> None:
        self.representation.after_update(progress)

    def after_train_iter(self, progress: Progress) -> None:
        self.representation.after_train_iter(progress)
        self._policy.after_train_iter(progress)
