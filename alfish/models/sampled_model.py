"""A model as a search over candidate actions sees it: K of them in each node, drawn when the node is made."""

from typing import NamedTuple, Protocol

import torch

from alfish import nest
from alfish.mcts.proposals import ProposalSettings, propose, take_candidates
from alfish.mcts.records import RetainedTrees, RootNode, Step
from alfish.mcts.tree import ILLEGAL
from alfish.models.mcts_model import MCTSModel
from alfish.ops.masking import ILLEGAL_LOGIT
from alfish.ops.sampled_policies import SampledPolicy, make_sampled_policy


class ProposingModel(Protocol):
    """What SampledModel wraps: a search's model whose `prior_logits` are the `[B, P]` parameters of a policy."""

    def root(self, observation: nest.Nest) -> RootNode:
        """The root of each observation `[B, ...]`."""

    def step(self, latent: nest.Nest, action: torch.Tensor) -> Step:
        """What follows from actions `[B, ...]`, not their numbers, in latents `[B, ...]`."""


class SampledLatent(NamedTuple):
    """What a search stores of a node.

    Attributes:
        latent: the model's own, `[B, ...]`.
        candidates: `[B, K, ...]`, the actions behind the numbers 0 … K−1.
    """

    latent: nest.Nest
    candidates: torch.Tensor


class SampledModel:
    """The two functions of a search over K candidates (Hubert et al. 2021, https://arxiv.org/abs/2104.06303).

    To the search, A = K. What it chooses are numbers of candidates; the root's latent tells the actions:
    `take_candidates(root.latent.candidates, action)`. Every way of choosing works on the corrected priors: PUCT as in
    the paper; sequential halving and the improved policy as in EfficientZero V2
    (https://arxiv.org/abs/2403.00564). Noise on the root's prior is noise over the candidates.

    Args:
        model: the model whose policy proposes.
        policy: the family of its policy.
        settings: how candidates are drawn.
        generator: what the draws come from, on the device of the model; None takes torch's global generator.

    Raises:
        ValueError: such candidates cannot be drawn from this policy.
    """

    def __init__(
        self,
        model: ProposingModel,
        policy: SampledPolicy,
        settings: ProposalSettings,
        generator: torch.Generator | None = None,
    ):
        if not settings.replacement and policy.num_choices is None:
            raise ValueError(
                "ProposalSettings.replacement is False, which needs one discrete action; set it to True for boxes and"
                " for several choices"
            )
        if settings.root_uniform_fraction > 0.0 and not policy.has_uniform:
            raise ValueError(
                f"ProposalSettings.root_uniform_fraction is {settings.root_uniform_fraction}, but the actions have no"
                " bounds to draw within; set it to 0 and use root_noise_scale"
            )
        if getattr(model, "has_chance_nodes", False):
            raise ValueError(
                f"the model of a SampledModel is a {type(model).__name__}, which has chance nodes, whose outcomes are"
                " no candidates of a policy; expected a model without, such as a SearchModel"
            )
        self._model = model
        self._policy = policy
        self._settings = settings
        self._generator = generator

    def root(self, observation: nest.Nest, legal_mask: torch.Tensor | None = None, explore: bool = True) -> RootNode:
        """The root of each observation `[B, ...]`, with candidates: see `with_candidates`."""
        return self.with_candidates(self._model.root(observation), legal_mask, explore)

    def with_candidates(self, root: RootNode, legal_mask: torch.Tensor | None = None, explore: bool = True) -> RootNode:
        """Draws the candidates of the model's own roots.

        Args:
            root: from the model; `prior_logits` are the policy's parameters `[B, P]`.
            legal_mask: `[B, A]` bool of one discrete choice, True for legal actions; None for all. The search itself
                then needs no mask: illegal actions are no candidates.
            explore: whether the root's shares of wider draws are taken; False for play and evaluation.

        Raises:
            ValueError: the mask does not fit.
        """
        parameters = root.prior_logits
        if legal_mask is not None:
            if self._policy.num_choices is None or legal_mask.shape != parameters.shape:
                raise ValueError(
                    f"legal_mask has the shape {tuple(legal_mask.shape)}; expected [B, A] of one discrete action, with"
                    f" policy parameters of the shape {tuple(parameters.shape)}; give no mask for other actions"
                )
            parameters = parameters.masked_fill(~legal_mask, -torch.inf)
        candidates, logits = propose(self._policy, parameters, self._settings, explore, self._generator)
        return root._replace(latent=SampledLatent(root.latent, candidates), prior_logits=logits)

    def step(self, latent: SampledLatent, action: torch.Tensor) -> Step:
        """What follows from the candidates of the numbers `[B]` in latents `[B, ...]`."""
        step = self._model.step(latent.latent, take_candidates(latent.candidates, action))
        candidates, logits = propose(self._policy, step.prior_logits, self._settings, False, self._generator)
        return step._replace(latent=SampledLatent(step.latent, candidates), prior_logits=logits)


def sampled_policy_of(model: MCTSModel, action_spec: nest.Nest) -> SampledPolicy:
    """The family of a model's policy: its own, or choices if its policy head gives the logits of all actions."""
    return make_sampled_policy(action_spec) if model.action_policy is None else model.action_policy


def keep_candidates(root: RootNode, retained: RetainedTrees) -> RootNode:
    """A root for a search that goes on with the trees of another one.

    Args:
        root: of a SampledModel, `[B, ...]`.
        retained: the trees, from `subtree.reroot`.

    Returns:
        The root with the candidates and priors that its node has in the tree, because the edges there belong to them.
        Rows whose tree is new keep their own.
    """
    tree = retained.tree
    old = tree.priors[:, 0].log().clamp_min(ILLEGAL_LOGIT).masked_fill(tree.children[:, 0] == ILLEGAL, -torch.inf)
    kept = (tree.visits[:, 0] > 0).to(root.prior_logits.device)
    logits = torch.where(kept.unsqueeze(1), old.to(root.prior_logits), root.prior_logits)
    candidates = root.latent.candidates
    shape = (-1, *[1] * (candidates.dim() - 1))
    candidates = torch.where(kept.view(shape), retained.latents.candidates[0], candidates)
    return root._replace(latent=root.latent._replace(candidates=candidates), prior_logits=logits)
