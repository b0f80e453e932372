"""Search over sequences of actions in a simulator that draws what is random anew in every simulation.

    root state --- a1 ---> drawn state --- a2 ---> drawn state --- ...      down to a new edge, in steps of all B rows

    kernels:  choose a1 |          | choose a2 |          | ... ends | backed up
    model:              | a step   |           | a step   | ...      |

Bubeck and Munos 2010, "Open loop optimistic planning"; with the choice of a tree search Lecarpentier et al. 2018, "Open
loop execution of tree-search algorithms", https://arxiv.org/abs/1805.01367.

A node is a sequence of actions, not a state, and Q of an edge is the mean of the returns that were drawn through it. So
an action is judged by the best plan that looks at nothing on its way: too low where it pays to look. Who acts by it and
plans anew in the state that was really reached does look.

At each arrival the legal actions, the prior and the player of a node are those of the state that was drawn; an action
that is illegal there is not taken. Where the game had ended, the rest is worth 0.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from alfish import nest
from alfish.mcts.checks import check_gumbel, check_root, check_root_numbers, check_step, raise_faults
from alfish.mcts.exchange import as_floats, root_answers
from alfish.mcts.host import address_table
from alfish.mcts.open_loop_kernels import ARRIVE, BACK_UP, BEGIN, FINISH, WRITE_ROOT, Walk, compiled_advance
from alfish.mcts.records import Model, RootNode, SearchResult, Step
from alfish.mcts.rule import Answers
from alfish.mcts.settings import SearchSettings, kernel_rule
from alfish.mcts.tree import new_tree, tree_seeds

Resample = Callable[[nest.Nest, int], nest.Nest]
"""`(latent [B, ...] of the roots, simulation) -> latent [B, ...]`: the same states with other random numbers.

They are in the latent, so that the model is a function of what it is given. Simulations count from 1.
"""

LeafValue = Callable[[nest.Nest], torch.Tensor]
"""`latent [B, ...] -> value [B]` in the view of who moves there. Asked once in each simulation."""


def open_loop_search(
    root: RootNode,
    model: Model,
    num_simulations: int,
    resample: Resample,
    settings: SearchSettings,
    legal_mask: torch.Tensor | None = None,
    leaf_value: LeafValue | None = None,
    gumbel: torch.Tensor | None = None,
    seed: int = 0,
) -> SearchResult:
    """Runs `num_simulations` simulations from each of B roots, whose nodes are sequences of actions. No gradient.

    A simulation begins in the root's state, takes the action that the tree chooses, lets the model draw what follows,
    and so on, until an edge that no simulation has taken, the end of the game, or the depth limit.

    Args:
        root: the roots, B at least 1, A at least 1.
        model: draws a step for all B rows, as often in each simulation as its longest row has steps. What it answers
            for rows whose simulation has ended is not used.
        num_simulations: at least 0.
        resample: gives each simulation its random numbers.
        settings: how actions are chosen; one leaf per round.
        legal_mask: `[B, A]` bool, True for the actions that the root may choose, or None; joined with logits of -inf.
        leaf_value: gives the value of the states at the simulations' ends, for instance by playing on from them, so
            that this is not done at each step on the way; None takes the value of the model's last step.
        gumbel: `[B, A]`, noise that `SequentialHalving` adds to the root's logits; None for none.
        seed: of the search's own random choices (`SearchSettings.is_random`).

    Returns:
        A SearchResult whose `latents` are `()`, because nodes have no state. In its tree, `values` are means over what
        was drawn, as are the Q-values, `discounts` are those of the last time that the game went on, and `rewards` what
        is left of Q: their mean where γ is constant. `raw_values`, `priors`, `players` are of one drawn state.

    Raises:
        ValueError: as `search.search`, or the settings ask for what an open-loop search does not have.
    """
    check_root(root, num_simulations, legal_mask)
    check_gumbel(gumbel, settings, root)
    if settings.leaves_per_round != 1:
        raise ValueError(
            f"SearchSettings.leaves_per_round is {settings.leaves_per_round}; expected 1, since an open-loop search"
            " ends one simulation before it begins the next"
        )
    with torch.no_grad():
        trees = _Trees(root, num_simulations, settings, legal_mask, gumbel, seed)
        for simulation in range(1, num_simulations + 1):
            latent = trees.walk_down(resample(root.latent, simulation), model, simulation, leaf_value is not None)
            trees.back_up(simulation, None if leaf_value is None else leaf_value(latent))
        return trees.result()


class _Trees:
    """The trees, and the rows of the simulations that run in them.

    In host memory: tensors for the model's side, arrays over the same memory for the kernels.
    """

    def __init__(
        self,
        root: RootNode,
        num_simulations: int,
        settings: SearchSettings,
        legal_mask: torch.Tensor | None,
        gumbel: torch.Tensor | None,
        seed: int,
    ):
        num_trees, num_actions = root.prior_logits.shape
        num_nodes = num_simulations + 1
        max_steps = max(1, num_simulations if settings.max_depth is None else min(num_simulations, settings.max_depth))
        self._root, self._settings = root, settings
        self._device = root.prior_logits.device
        self._rule = kernel_rule(settings, num_simulations, num_nodes, torch.device("cpu"))
        self._tree = new_tree(num_trees, num_nodes, num_actions, settings.known_range, settings.needs_logits)
        if gumbel is not None:
            self._tree.gumbels.copy_(gumbel)
        self._tree.seeds.copy_(tree_seeds(num_trees, seed, "cpu"))
        values, logits, players = root_answers(root, legal_mask)
        zeros = torch.zeros_like(values)
        self._received = Answers(zeros.clone(), zeros.clone(), values, logits, players, zeros)
        self._actions = torch.zeros_like(values, dtype=torch.int64)
        self._active = torch.zeros_like(values, dtype=torch.bool)
        self._leaf_values = torch.zeros_like(values)
        walk = Walk(
            node=np.zeros(num_trees, np.int32),
            depth=np.zeros(num_trees, np.int32),
            active=self._active.numpy(),
            action=self._actions.numpy(),
            value=self._leaf_values.numpy(),
            rewards=np.zeros((num_trees, max_steps), np.float32),
            discounts=np.zeros((num_trees, max_steps), np.float32),
            children=np.zeros((num_trees, num_nodes, num_actions), np.int32),
        )
        check_root_numbers(values.numpy(), logits.numpy())
        table = address_table(self._tree, self._rule, num_trees, 0)
        self._advance = compiled_advance(table, walk, Answers(*map(_shared_array, self._received)))
        self._advance(0, WRITE_ROOT)

    def walk_down(self, latent: nest.Nest, model: Model, simulation: int, keep_ends: bool) -> nest.Nest:
        """Runs a simulation from the root's latents to the end of its longest row.

        Returns:
            Where the rows have ended, if `keep_ends`; else anything.
        """
        any_active = self._advance(simulation, BEGIN)
        while any_active:
            active = self._active.to(self._device, copy=True) if keep_ends else None
            step = model(latent, self._actions.to(self._device, copy=True))  # a copy, which it may change
            if simulation == 1:
                _check_first_step(step, self._root)
            self._receive(step)
            any_active = self._advance(simulation, ARRIVE)
            latent = step.latent if active is None else _where(active, step.latent, latent)
        return latent

    def back_up(self, simulation: int, leaf_value: torch.Tensor | None) -> None:
        """Ends a simulation; without `leaf_value` `[B]` with the values of the model's last steps."""
        if leaf_value is not None:
            self._leaf_values.copy_(as_floats("leaf_value", leaf_value, self._leaf_values.shape))
        self._advance(simulation, BACK_UP)

    def result(self) -> SearchResult:
        """What the search has found."""
        self._advance(0, FINISH)
        tree, device = self._tree, self._device
        raise_faults(tree)
        return SearchResult(
            visits=tree.edge_visits[:, 0].to(device, copy=True),
            value=tree.values[:, 0].to(device, copy=True),
            q_values=tree.q_values[:, 0].to(device, copy=True),
            tree=tree,
            latents=(),
            settings=self._settings,
            rule=self._rule,
        )

    def _receive(self, step: Step) -> None:
        """Copies what the kernels read of a step."""
        rows, received = self._leaf_values.shape, self._received
        received.reward.copy_(as_floats("reward", step.reward, rows))
        received.discount.copy_(as_floats("discount", step.discount, rows))
        received.value.copy_(as_floats("value", step.value, rows))
        received.logits.copy_(as_floats("prior_logits", step.prior_logits, received.logits.shape))
        if step.to_play is not None:
            received.player.copy_(as_floats("to_play", step.to_play, rows))


def _shared_array(tensor: torch.Tensor) -> Any:
    return tensor.numpy()


def _check_first_step(step: Step, root: RootNode) -> None:
    check_step(step, root, root.prior_logits.shape[0])
    if step.is_chance is not None:
        raise ValueError(
            "the model's is_chance is set; expected None: in an open-loop search the model itself draws what is random"
        )


def _where(condition: torch.Tensor, new: nest.Nest, old: nest.Nest) -> nest.Nest:
    def choose(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.where(condition.view(-1, *[1] * (left.dim() - 1)), left, right)

    return nest.map_structure(choose, new, old)
