"""A policy that draws its actions from a distribution: what the policy-gradient algorithms share."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from alfish import nest
from alfish.algorithms.legal_masks import LegalMask, mask_if_any
from alfish.data_structures import AlgStep, BatchInfo, StepType, TimeStep
from alfish.networks.encoders import Encoder, on_rows, unroll_rows
from alfish.networks.network_checks import (
    build_encoder,
    build_network,
    check_outputs,
    takes_argument,
    try_network,
)
from alfish.ops.distributions import BoxDistribution, make_action_distribution


class PolicyInfo(NamedTuple):
    """What acting leaves in the rollout info of each row.

    Attributes:
        log_prob: `[B]`, of the action: log mu, where mu is the policy that collects.
        value: `[B]`, V of the row's observation while collecting; `()` of a network without a value.
        sample: `[B, ...]`, the action before it was clipped to its bounds; `()` for actions that are never clipped.
    """

    log_prob: torch.Tensor
    value: nest.Nest = ()
    sample: nest.Nest = ()


class Evaluation(NamedTuple):
    """What the policy says now of rows `[...]` and their samples.

    Attributes:
        log_prob: log pi of the samples.
        entropy: of pi, in nats.
        value: V of the rows; `()` of a network without a value.
        is_valid: bool, False on LAST rows.
    """

    log_prob: torch.Tensor
    entropy: torch.Tensor
    value: nest.Nest
    is_valid: torch.Tensor


class StochasticPolicy(torch.nn.Module):
    """An encoder, a network behind it, the distribution of the actions, and the mask of the legal ones.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: nest of BoundedTensorSpec.
        encoder: makes the encoder, given `observation_spec`.
        network: called with `observation_spec`, that of the encoder's features, and `action_spec`; makes a module that
            maps features `[N, ...]` to the parameters of the distribution `[N, P]` and values `[N]`.
        box_distribution: the family for floating-point actions, see `make_action_distribution`; handed on to a
            `network` that takes an argument of this name.
        legal_mask_key: see LegalMask.
        owner: the name of the algorithm, for messages.
        network_setting: the name of its argument that makes the network, for messages.
        needs_value: if False the network may return the parameters alone.

    Attributes:
        distribution: of the actions.
        has_value: whether the network returns values.

    Raises:
        ValueError: the network does not fit the specs, or there is no distribution or no such mask of the actions.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        encoder: Callable[..., Encoder],
        network: Callable[..., torch.nn.Module],
        box_distribution: BoxDistribution,
        legal_mask_key: str | None,
        owner: str,
        network_setting: str,
        needs_value: bool = True,
    ):
        super().__init__()
        self._legal = LegalMask(legal_mask_key, observation_spec, action_spec, owner)
        self.distribution = make_action_distribution(action_spec, box_distribution, f"{owner}.box_distribution")
        self.encoder = build_encoder(f"{owner}.encoder", encoder, observation_spec)
        features = self.encoder.output_spec
        arguments = {"observation_spec": features, "action_spec": action_spec}
        if takes_argument(network, "box_distribution"):
            arguments["box_distribution"] = box_distribution
        setting = f"{owner}.{network_setting}"
        self.network = build_network(setting, network, **arguments)
        returns_pair = not isinstance(try_network(setting, self.network, (features,)), torch.Tensor)
        self.has_value = needs_value or returns_pair
        outputs: dict[str, tuple[int, ...]] = {"parameters": (self.distribution.num_parameters,)}
        check_outputs(setting, self.network, (features,), outputs | ({"values": ()} if self.has_value else {}))

    def initial_state(self, batch_size: int) -> nest.Nest:
        """The encoder's."""
        return self.encoder.initial_state(batch_size)

    def predict(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """Answers rows `[B]` with the most likely actions."""
        parameters, _, state = self._answer(time_step, state)
        return AlgStep(self.distribution.clip(self.distribution.mode(parameters)), state)

    def rollout(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """Answers rows `[B]` with actions that are drawn; `info` is a PolicyInfo."""
        parameters, value, state = self._answer(time_step, state)
        sample, log_prob = self.distribution.sample(parameters)
        if not self.distribution.clips:
            return AlgStep(sample, state, PolicyInfo(log_prob, value))
        return AlgStep(self.distribution.clip(sample), state, PolicyInfo(log_prob, value, sample))

    def unroll(self, rows: TimeStep, state: nest.Nest) -> tuple[torch.Tensor, nest.Nest]:
        """The distribution's parameters and the values of stored rows.

        Args:
            rows: `[B, T]`; without memory, any leading axes.
            state: `[B, ...]`, before the first row; `()` without memory.

        Returns:
            Parameters `[..., P]`, where illegal actions have no probability, and values `[...]` or `()`.
        """
        parameters, value = on_rows(self._outputs, rows.step_type.ndim, unroll_rows(self.encoder, rows, state))
        return mask_if_any(parameters, self._legal.read(rows)), value

    def evaluate(self, rows: TimeStep, state: nest.Nest, sample: nest.Nest) -> Evaluation:
        """What it says now of stored rows, as in `unroll`, and of the samples that were drawn there, `[..., ...]`."""
        parameters, value = self.unroll(rows, state)
        log_prob, entropy = self.distribution.evaluate(parameters, sample)
        return Evaluation(log_prob, entropy, value, rows.step_type != StepType.LAST)

    def _answer(self, time_step: TimeStep, state: nest.Nest) -> tuple[torch.Tensor, nest.Nest, nest.Nest]:
        features, state = self.encoder.step(time_step.observation, state)
        parameters, value = self._outputs(features)
        return mask_if_any(parameters, self._legal.checked(time_step)), value, state

    def _outputs(self, features: nest.Nest) -> tuple[torch.Tensor, nest.Nest]:
        return self.network(features) if self.has_value else (self.network(features), ())


class Collected(NamedTuple):
    """A window as the policy-gradient algorithms read it, `[B, T]`.

    Attributes:
        inputs: the rows, without the one behind the window.
        sample: of the action, before it was clipped.
        log_prob: log mu of it.
    """

    inputs: TimeStep
    sample: nest.Nest
    log_prob: torch.Tensor


def split_window(
    policy: StochasticPolicy, root_inputs: TimeStep, rollout_info: PolicyInfo, batch_info: BatchInfo
) -> Collected:
    """Takes apart what `preprocess_experience` is given: the row behind the window answered no action."""
    num_rows = root_inputs.reward.shape[1] - 1
    inputs, info, action = nest.map_structure(
        lambda leaf: leaf[:, :num_rows], (root_inputs, rollout_info, batch_info.action)
    )
    return Collected(inputs, info.sample if policy.distribution.clips else action, info.log_prob)
