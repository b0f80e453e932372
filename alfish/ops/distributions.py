"""Distributions of actions: what the families have in common, and which of them fits an action spec.

`make_action_distribution(action_spec)` gives the family. A family is a function of one tensor of parameters, the output
of a network; it holds no parameters itself. Written out instead of taken from torch.distributions, whose objects cost
more than a small network does when they are built for every step of a rollout.

Random numbers come from torch's global generator.
"""

import math
from typing import Literal, Protocol

import torch

from alfish import nest
from alfish.ops.beta_distribution import BetaDistribution
from alfish.ops.box_distributions import DiagonalNormal, SquashedNormal, check_bounded
from alfish.ops.categorical_distributions import Categorical, MultiCategorical
from alfish.ops.nested_distribution import NestedDistribution
from alfish.specs import BoundedTensorSpec, is_choice

BoxDistribution = Literal["normal", "squashed_normal", "beta"]
"""The family of floating-point actions: DiagonalNormal, SquashedNormal or BetaDistribution."""

_BOX_FAMILIES = {"normal": DiagonalNormal, "squashed_normal": SquashedNormal, "beta": BetaDistribution}
_MAX_CHOICES = 1_000_000


class ActionDistribution(Protocol):
    """What the families have in common: they are modules without parameters, only buffers.

    A *sample* is what the log probability is taken of; an *action* is what the environment gets. `clip` makes the one
    of the other; they differ only where `clips` is True. What is stored for training is the sample; an environment and
    a critic get the action. For a nested action both are nests.

    Attributes:
        num_parameters: size P of the last axis of the parameters.
        clips: True if `clip` may change a sample, so that training needs the sample beside the action.
        has_rsample: True if there is `rsample`: discrete families have none.
        log_std_indices: which of the P parameters are logarithms of a standard deviation, in rising order: a network
            may make them independent of the observation. `()` if there are none.
    """

    num_parameters: int
    clips: bool
    has_rsample: bool
    log_std_indices: tuple[int, ...]

    def sample(self, parameters: torch.Tensor) -> tuple[nest.Nest, torch.Tensor]:
        """`[..., P]` -> a sample `[..., *action shape]` and its log probability `[...]`; call it without gradient."""

    def mode(self, parameters: torch.Tensor) -> nest.Nest:
        """`[..., P]` -> the most likely sample, or what the family says in its place."""

    def clip(self, sample: nest.Nest) -> nest.Nest:
        """The action for a sample."""

    def evaluate(self, parameters: torch.Tensor, sample: nest.Nest) -> tuple[torch.Tensor, torch.Tensor]:
        """The log probability `[...]` of given samples and the entropy `[...]` in nats; differentiable."""


class ReparameterizedDistribution(ActionDistribution, Protocol):
    """A family with `has_rsample`."""

    def rsample(self, parameters: torch.Tensor) -> tuple[nest.Nest, torch.Tensor]:
        """Like `sample`, with the gradient of both in the parameters (Kingma and Welling 2014, section 2.4).

        `clip(sample)` is the action for a critic; it passes the gradient on where the family says so.
        """


def make_action_distribution(
    action_spec: nest.Nest, box_distribution: BoxDistribution = "normal", setting: str = "box_distribution"
) -> Categorical | MultiCategorical | DiagonalNormal | SquashedNormal | BetaDistribution | NestedDistribution:
    """The family of distributions for the actions of a spec.

    Args:
        action_spec: a BoundedTensorSpec: a discrete scalar gives Categorical, a discrete array MultiCategorical, a
            floating-point one the family of `box_distribution`; or a nest of them, which gives NestedDistribution.
        box_distribution: "normal" for DiagonalNormal, "squashed_normal" for SquashedNormal, "beta" for
            BetaDistribution; without effect on discrete actions. The last two need finite bounds.
        setting: the user's name of `box_distribution`, for messages, e.g. `"PPOAlgorithm.box_distribution"`.

    Raises:
        ValueError: `check_action_spec`, for every part of a nest; a nest without parts; an unknown
            `box_distribution`, or one that the bounds do not allow.
    """
    if box_distribution not in _BOX_FAMILIES:
        raise ValueError(f"{setting} is {box_distribution!r}; expected one of {sorted(_BOX_FAMILIES)}")
    specs = nest.leaves_with_paths(action_spec)
    if not specs:
        raise ValueError(
            f"the action spec {action_spec!r} has no parts; expected at least one BoundedTensorSpec: give the "
            "environment an action space with a part, such as Discrete(1) if there is nothing to choose"
        )
    if len(specs) == 1 and specs[0][0] == "":
        return _make_one(action_spec, box_distribution, setting)
    for path, spec in specs:
        try:
            check_action_spec(spec)
        except ValueError as error:
            raise ValueError(f"action.{path}: {error}") from error
    return NestedDistribution(nest.map_structure(lambda spec: _make_one(spec, box_distribution, setting), action_spec))


def _make_one(
    action_spec: BoundedTensorSpec, box_distribution: BoxDistribution, setting: str
) -> Categorical | MultiCategorical | DiagonalNormal | SquashedNormal | BetaDistribution:
    check_action_spec(action_spec)
    if not action_spec.is_discrete:
        if box_distribution != "normal":
            check_bounded(action_spec, box_distribution.replace("_", " "), setting)
        return _BOX_FAMILIES[box_distribution](action_spec)
    return Categorical(action_spec) if is_choice(action_spec) else MultiCategorical(action_spec)


def check_action_spec(action_spec: nest.Nest) -> None:
    """Checks that there can be a distribution of the actions of a spec.

    Raises:
        ValueError: the spec is a nest, has no elements, has bounds in the wrong order, or allows too many values to
            have a logit for each.
    """
    if not isinstance(action_spec, BoundedTensorSpec):
        raise ValueError(
            f"there is no action distribution for {action_spec!r}; expected one BoundedTensorSpec, whose bounds say "
            "what an action may be"
        )
    if 0 in action_spec.shape:
        raise ValueError(
            f"the action spec {action_spec} has no elements; expected at least one: leave that space out of the "
            "environment's action space, or give it an element"
        )
    minimum, maximum = action_spec.bounds()
    if not action_spec.is_discrete:
        if not bool((minimum <= maximum).all()):
            raise ValueError(f"the action spec {action_spec} has a minimum above its maximum")
        return
    most = int((maximum.to(torch.float64) - minimum.to(torch.float64)).max()) + 1
    least = int((maximum.to(torch.float64) - minimum.to(torch.float64)).min()) + 1
    if least < 1 or most * math.prod(action_spec.shape) > _MAX_CHOICES:
        raise ValueError(
            f"the action spec {action_spec} has elements of {least} to {most} values; a logit for each value needs "
            f"between 1 and {_MAX_CHOICES} in all: check the bounds, or use a floating-point action"
        )
