"""A representation and an algorithm that sees it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm, TrainingTask
from alfish.algorithms.making import make_algorithm
from alfish.algorithms.muzero_representation_learner import MuzeroRepresentationLearner
from alfish.data_structures import AlgStep, BatchInfo, Experience, LossInfo, Progress, RowsNeeded, TimeStep

_LATENT = "latent"


class AgentState(NamedTuple):
    """The recurrent states of both."""

    representation: nest.Nest = ()
    algorithm: nest.Nest = ()


@gin.configurable
class Agent(Algorithm):
    """Joins a representation learner and the algorithm that acts on its latents.

    Stored are the rows as the environment gave them and the info of the algorithm; latents are computed anew from them,
    with the representation as it is then. It sends no gradient into the representation, which learns by its own
    training task from the same rows; so the algorithm may be any, recurrent too, and none of its hooks is different
    here. The representation itself has no memory.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: what the algorithm acts with.
        representation: makes the representation learner, given both specs.
        algorithm: makes the algorithm, given the spec of a latent as `observation_spec`, and `action_spec`.
        legal_mask_key: an entry of a dict observation that the algorithm sees beside the latent: its observation is
            then a dict of "latent" and this. Set the algorithm's own `legal_mask_key` to the same.

    Attributes:
        representation: the learner.
        algorithm: what acts.

    Raises:
        ValueError: `algorithm` makes another Agent, `representation` makes something else, or there is no such entry.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        representation: Callable[..., MuzeroRepresentationLearner] = MuzeroRepresentationLearner,
        algorithm: Callable[..., Algorithm] = gin.REQUIRED,
        legal_mask_key: str | None = None,
    ):
        super().__init__(observation_spec, action_spec)
        _check_legal_mask_key(legal_mask_key, observation_spec)
        self._legal_mask_key = legal_mask_key
        self.representation = representation(observation_spec=observation_spec, action_spec=action_spec)
        if not isinstance(self.representation, MuzeroRepresentationLearner):
            name = type(self.representation).__name__
            raise ValueError(
                f"Agent.representation makes a {name}; expected a MuzeroRepresentationLearner: set Agent.representation"
                f" = @MuzeroRepresentationLearner, and its representation if it learns by {name}"
            )
        if _is_agent(algorithm):
            raise _another_agent()  # before it makes itself without end
        seen_spec = self._shown(self.representation.latent_spec, observation_spec)
        self.algorithm = make_algorithm("Agent.algorithm", algorithm, seen_spec, action_spec)
        if isinstance(self.algorithm, Agent):
            raise _another_agent()
        self.representation.use_acting_algorithm(self.algorithm, self._shown)
        self.on_policy = self.algorithm.on_policy
        self.needs_replay = self.algorithm.needs_replay
        self.burn_in = self.algorithm.burn_in
        self.gives_priorities = self.algorithm.gives_priorities
        self.priority_settings = self.algorithm.priority_settings
        self.trains_on_last_rows = self.algorithm.trains_on_last_rows
        self.acting_phase = self.algorithm.acting_phase
        self.may_stop_early = self.algorithm.may_stop_early

    def training_tasks(self) -> list[TrainingTask]:
        return [*self.representation.training_tasks(), *self.algorithm.training_tasks()]

    def check_experience(self, row_specs: Experience) -> None:
        self.algorithm.check_experience(row_specs)

    def rows_needed(self) -> RowsNeeded:
        return self.algorithm.rows_needed()

    def initial_state(self, batch_size: int) -> nest.Nest:
        return AgentState(self.representation.initial_state(batch_size), self.algorithm.initial_state(batch_size))

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return self._step(self.representation.predict_step, self.algorithm.predict_step, time_step, state)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return self._step(self.representation.rollout_step, self.algorithm.rollout_step, time_step, state)

    def _shown(self, latent: nest.Nest, observation: nest.Nest) -> nest.Nest:
        """What the algorithm sees; of specs as of tensors."""
        if self._legal_mask_key is None:
            return latent
        return {_LATENT: latent, self._legal_mask_key: observation[self._legal_mask_key]}

    def _step(
        self,
        encode: Callable[[TimeStep, nest.Nest], AlgStep],
        act: Callable[[TimeStep, nest.Nest], AlgStep],
        time_step: TimeStep,
        state: nest.Nest,
    ) -> AlgStep:
        # Without any recurrent state, none is handed in.
        before = state if isinstance(state, AgentState) else AgentState()
        encoded = encode(time_step, before.representation)
        seen = self._shown(encoded.output, time_step.observation)
        acted = act(time_step._replace(observation=seen), before.algorithm)
        return acted._replace(state=AgentState(encoded.state, acted.state))

    @torch.no_grad()
    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: nest.Nest, batch_info: BatchInfo
    ) -> tuple[TimeStep, nest.Nest]:
        """What the algorithm makes of the rows, with latents in place of observations."""
        num_rows = nest.leaves(root_inputs.observation)[0].shape[1]
        seen = nest.map_structure(lambda leaf: leaf[:, :num_rows].flatten(0, 1), root_inputs)
        latent = self.representation.predict_step(seen, ()).output
        latent = nest.map_structure(lambda leaf: leaf.unflatten(0, (-1, num_rows)), latent)
        return self.algorithm.preprocess_experience(
            root_inputs._replace(observation=self._shown(latent, root_inputs.observation)),
            rollout_info,
            batch_info._replace(state=_of_algorithm(batch_info.state)),
        )

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: nest.Nest) -> AlgStep:
        """The algorithm's, of latents."""
        return self.algorithm.train_step(inputs, _of_algorithm(state), rollout_info)

    def calc_loss(self, info: nest.Nest) -> LossInfo:
        return self.algorithm.calc_loss(info)

    def stops_early(self, metrics: Mapping[str, torch.Tensor | float]) -> bool:
        return self.algorithm.stops_early(metrics)

    def after_update(self, progress: Progress) -> None:
        self.algorithm.after_update(progress)

    def after_train_iter(self, progress: Progress) -> None:
        self.algorithm.after_train_iter(progress)


def _of_algorithm(state: nest.Nest) -> nest.Nest:
    # Without any recurrent state, `()` stands for both.
    return state.algorithm if isinstance(state, AgentState) else ()


def _is_agent(factory: object) -> bool:
    return isinstance(factory, type) and issubclass(factory, Agent)


def _another_agent() -> ValueError:
    return ValueError(
        "Agent.algorithm makes another Agent; there is one representation only. Bind Agent.algorithm to what acts on "
        "its latents, such as @PPOAlgorithm"
    )


def _check_legal_mask_key(legal_mask_key: str | None, observation_spec: nest.Nest) -> None:
    if legal_mask_key is None:
        return
    if legal_mask_key == _LATENT or not (isinstance(observation_spec, dict) and legal_mask_key in observation_spec):
        raise ValueError(
            f"Agent.legal_mask_key is {legal_mask_key!r}; expected a key of the observation, {observation_spec}, other "
            f"than {_LATENT!r}, or None"
        )
