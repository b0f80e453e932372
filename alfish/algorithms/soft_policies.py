"""What soft actor-critic takes from a policy and its critics: once for boxes, once for one discrete choice."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import torch

from alfish import nest
from alfish.algorithms.legal_masks import mask_if_any
from alfish.checks import check_in_range
from alfish.networks.critics import ActionVector, frozen
from alfish.ops.categorical_distributions import categorical_entropy, categorical_log_prob, sample_categorical
from alfish.ops.distributions import BoxDistribution, ReparameterizedDistribution, make_action_distribution
from alfish.specs import BoundedTensorSpec

Critics = Callable[..., torch.Tensor]
"""From features, and the actions of boxes, to values of C critics: `[N, C]`; of a discrete choice `[N, C, A]`."""


class Expected(NamedTuple):
    """What the policy expects of rows `[...]` before the entropy is weighed.

    Attributes:
        q_value: the smallest of the critics' values, of an action drawn from the policy, or its mean over all actions.
        log_prob: of that action, or its mean over all actions, which is the entropy with the other sign.
    """

    q_value: torch.Tensor
    log_prob: torch.Tensor


class Trained(NamedTuple):
    """What a training step needs of rows `[...]`.

    Attributes:
        q_taken: `[..., C]`, values of the actions that were taken, with gradient in the critics.
        expected: with gradient in the policy.
    """

    q_taken: torch.Tensor
    expected: Expected


class SoftPolicy(Protocol):
    """The two kinds of policies. Legal actions are `[..., A]` bool, or None for all; boxes have none.

    Attributes:
        num_parameters: P, outputs of the actor.
    """

    num_parameters: int

    def act(
        self, parameters: torch.Tensor, critics: Critics, features: nest.Nest, legal: torch.Tensor | None
    ) -> tuple[nest.Nest, Expected]:
        """Draws actions from parameters `[..., P]`, and says what `expect` says; without gradient."""

    def best(self, parameters: torch.Tensor, legal: torch.Tensor | None) -> nest.Nest:
        """The most likely actions."""

    def any_action(self, parameters: torch.Tensor, legal: torch.Tensor | None) -> nest.Nest:
        """Actions drawn from all (legal) ones alike."""

    def expect(
        self, parameters: torch.Tensor, critics: Critics, features: nest.Nest, legal: torch.Tensor | None
    ) -> Expected:
        """What the policy expects by these critics; without gradient."""

    def learn(
        self,
        parameters: torch.Tensor,
        critics: torch.nn.Module,
        features: nest.Nest,
        action: nest.Nest,
        legal: torch.Tensor | None,
    ) -> Trained:
        """The values of stored actions, and what the policy expects.

        Args:
            parameters: `[..., P]` of the actor, which sends no gradient into the features.
            critics: the module that learns; the policy's gradient goes through it, and leaves none behind.
            features: `[...]`, with gradient.
            action: `[...]`, as the environment got them.
            legal: see above.
        """

    def target_entropy(self, legal: torch.Tensor | None) -> float | torch.Tensor:
        """The entropy, in nats, that the temperature holds the policy to: a number, or by what is legal `[...]`."""


class SoftBoxPolicy(torch.nn.Module):
    """A policy of real numbers, reparameterised (Haarnoja et al. 2018b, section 4.2 and appendix C).

    Args:
        action_spec: a box, or a nest of boxes.
        box_distribution: the family.
        target_entropy: in nats, of the action in units of half its width; None for -1 for each of its D numbers.

    Raises:
        ValueError: the action is something else, or has bounds that the family cannot do with; or no distribution of
            the family has so large an entropy.
    """

    def __init__(self, action_spec: nest.Nest, box_distribution: BoxDistribution, target_entropy: float | None):
        super().__init__()
        num_dims = ActionVector(action_spec).size
        distribution = make_action_distribution(action_spec, box_distribution, "SACAlgorithm.box_distribution")
        self.distribution = cast(ReparameterizedDistribution, distribution)  # all families of boxes are
        self.num_parameters = distribution.num_parameters
        self._action_spec = action_spec
        if target_entropy is not None:
            # The uniform distribution has the most, log 2 for each number in units of half its width.
            most = math.inf if box_distribution == "normal" else num_dims * math.log(2.0)
            check_in_range("SACAlgorithm.target_entropy", target_entropy, maximum=most)
        self._target_entropy = float(-num_dims) if target_entropy is None else target_entropy

    def act(
        self, parameters: torch.Tensor, critics: Critics, features: nest.Nest, legal: torch.Tensor | None
    ) -> tuple[nest.Nest, Expected]:
        """See SoftPolicy."""
        sample, log_prob = self.distribution.sample(parameters)
        action = self.distribution.clip(sample)
        return action, Expected(critics(features, action).amin(-1), log_prob)

    def best(self, parameters: torch.Tensor, legal: torch.Tensor | None) -> nest.Nest:
        """See SoftPolicy."""
        return self.distribution.clip(self.distribution.mode(parameters))

    def any_action(self, parameters: torch.Tensor, legal: torch.Tensor | None) -> nest.Nest:
        """See SoftPolicy."""

        def draw(spec: BoundedTensorSpec) -> torch.Tensor:
            low, high = spec.bounds(parameters.device)
            shape = parameters.shape[:-1] + spec.shape
            return torch.lerp(low, high, torch.rand(shape, dtype=spec.dtype, device=parameters.device))

        return nest.map_structure(draw, self._action_spec)

    def expect(
        self, parameters: torch.Tensor, critics: Critics, features: nest.Nest, legal: torch.Tensor | None
    ) -> Expected:
        """See SoftPolicy: of one action."""
        return self.act(parameters, critics, features, legal)[1]

    def learn(
        self,
        parameters: torch.Tensor,
        critics: torch.nn.Module,
        features: nest.Nest,
        action: nest.Nest,
        legal: torch.Tensor | None,
    ) -> Trained:
        """See SoftPolicy."""
        q_taken = critics(features, action)
        sample, log_prob = self.distribution.rsample(parameters)
        with frozen(critics):
            q_value = critics(detached(features), self.distribution.clip(sample)).amin(-1)
        return Trained(q_taken, Expected(q_value, log_prob))

    def target_entropy(self, legal: torch.Tensor | None) -> float | torch.Tensor:
        """See SoftPolicy."""
        return self._target_entropy


class SoftDiscretePolicy(torch.nn.Module):
    """A policy of one discrete choice, whose expectations are sums over all actions (Christodoulou 2019, section 4).

    Args:
        action_spec: one discrete choice of A.
        target_entropy: in nats; None for a share of the largest one.
        target_entropy_share: of log A, or of the logarithm of the number of legal actions.

    Raises:
        ValueError: no policy has this entropy.
    """

    def __init__(self, action_spec: BoundedTensorSpec, target_entropy: float | None, target_entropy_share: float):
        super().__init__()
        self.num_parameters = action_spec.num_values
        self._first = int(action_spec.bounds()[0])
        self._dtype = action_spec.dtype
        if target_entropy is not None:
            check_in_range("SACAlgorithm.target_entropy", target_entropy, 0.0, math.log(self.num_parameters))
        self._target_entropy = target_entropy
        self._share = target_entropy_share

    def act(
        self, parameters: torch.Tensor, critics: Critics, features: nest.Nest, legal: torch.Tensor | None
    ) -> tuple[torch.Tensor, Expected]:
        """See SoftPolicy."""
        action = self._to_environment(sample_categorical(mask_if_any(parameters, legal)))
        return action, self.expect(parameters, critics, features, legal)

    def best(self, parameters: torch.Tensor, legal: torch.Tensor | None) -> torch.Tensor:
        """See SoftPolicy."""
        return self._to_environment(mask_if_any(parameters, legal).argmax(dim=-1))

    def any_action(self, parameters: torch.Tensor, legal: torch.Tensor | None) -> torch.Tensor:
        """See SoftPolicy."""
        return self._to_environment(sample_categorical(mask_if_any(torch.zeros_like(parameters), legal)))

    def expect(
        self, parameters: torch.Tensor, critics: Critics, features: nest.Nest, legal: torch.Tensor | None
    ) -> Expected:
        """See SoftPolicy: of all actions."""
        return self._mean(parameters, critics(features), legal)

    def learn(
        self,
        parameters: torch.Tensor,
        critics: torch.nn.Module,
        features: nest.Nest,
        action: torch.Tensor,
        legal: torch.Tensor | None,
    ) -> Trained:
        """See SoftPolicy. One pass of the critics serves both: their values of all actions are known."""
        q_values = critics(features)
        index = (action.long() - self._first).unsqueeze(-1).expand(q_values.shape[:-1])
        return Trained(categorical_log_prob(q_values, index), self._mean(parameters, q_values.detach(), legal))

    def target_entropy(self, legal: torch.Tensor | None) -> float | torch.Tensor:
        """See SoftPolicy."""
        if self._target_entropy is not None:
            return self._target_entropy
        if legal is None:
            return self._share * math.log(self.num_parameters)
        return self._share * legal.sum(-1).clamp_min(1).log()

    def _mean(self, parameters: torch.Tensor, q_values: torch.Tensor, legal: torch.Tensor | None) -> Expected:
        log_probabilities = torch.log_softmax(mask_if_any(parameters, legal), dim=-1)
        q_value = (log_probabilities.exp() * q_values.amin(-2)).sum(-1)
        return Expected(q_value, categorical_entropy(log_probabilities).neg())

    def _to_environment(self, index: torch.Tensor) -> torch.Tensor:
        return (index + self._first).to(self._dtype)


def detached(features: nest.Nest) -> nest.Nest:
    """The same features, which gradients do not reach."""
    return nest.map_structure(torch.Tensor.detach, features)
