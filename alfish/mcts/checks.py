"""Checks of what a search is given and of what the model answers. All raise a ValueError."""

import numpy as np
import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.mcts import rule
from alfish.mcts.records import RetainedTrees, RootNode, Step
from alfish.mcts.rule import LARGEST_Q
from alfish.mcts.settings import SearchSettings, SequentialHalving
from alfish.mcts.tree import Tree


def check_arguments(
    root: RootNode,
    num_simulations: int,
    settings: SearchSettings,
    legal_mask: torch.Tensor | None,
    gumbel: torch.Tensor | None,
    retained: RetainedTrees | None,
) -> None:
    """Checks what a search is given, as far as it can be checked without reading from the device."""
    check_root(root, num_simulations, legal_mask)
    check_rounds(num_simulations, settings.leaves_per_round)
    check_gumbel(gumbel, settings, root)
    if retained is not None:
        check_retained(retained, settings, root, num_simulations)


def check_root(root: RootNode, num_simulations: int, legal_mask: torch.Tensor | None) -> tuple[int, int]:
    """Checks the shapes of a search's inputs, and returns `(B, A)`."""
    logits = root.prior_logits
    if logits.dim() != 2 or 0 in logits.shape:
        raise ValueError(f"root.prior_logits has the shape {tuple(logits.shape)}; expected [B, A], both at least 1")
    num_trees, num_actions = logits.shape
    _check_shape("root.value", root.value, (num_trees,))
    if root.to_play is not None:
        _check_shape("root.to_play", root.to_play, (num_trees,))
    _check_latents(root)
    check_at_least("num_simulations", num_simulations, 0)
    if legal_mask is not None:
        _check_shape("legal_mask", legal_mask, (num_trees, num_actions))
        if legal_mask.dtype != torch.bool:
            raise ValueError(
                f"legal_mask has the dtype {legal_mask.dtype}; expected torch.bool, True for legal actions"
            )
    return num_trees, num_actions


def _check_latents(root: RootNode) -> None:
    num_trees, device = len(root.value), root.prior_logits.device
    if all(
        leaf.dim() > 0 and leaf.shape[0] == num_trees and leaf.device == device for leaf in nest.leaves(root.latent)
    ):
        return
    # Paths are for messages only: making them takes several times as long as the check.
    for path, leaf in nest.leaves_with_paths(root.latent):
        if leaf.dim() == 0 or leaf.shape[0] != num_trees:
            shape = tuple(leaf.shape)
            raise ValueError(f"root.latent {path} has the shape {shape}; expected [B, ...] with B = {num_trees}")
        # The kernels on the host read latents by their addresses.
        if leaf.device != device:
            raise ValueError(f"root.latent {path} is on {leaf.device}; expected {device}, as root.prior_logits")


def check_root_numbers(values: np.ndarray, logits: np.ndarray) -> None:
    """Checks the values `[B]` and masked logits `[B, A]` of the roots."""
    # All that the rest looks for at once: NaN and inf are not finite, nor is the largest of logits that are all -inf.
    if np.isfinite(logits.max(axis=1)).all() and (np.abs(values) <= LARGEST_Q).all():
        return
    if not (usable := np.abs(values) <= LARGEST_Q).all():
        row = int(np.argmin(usable))
        raise ValueError(f"root.value is {values[row]} in row {row}; expected finite values. Check the model's output")
    if not (usable := (logits < np.inf).all(axis=1)).all():
        row = int(np.argmin(usable))
        raise ValueError(
            f"root.prior_logits of row {row} are {logits[row].tolist()}; expected finite numbers, or -inf for an"
            " illegal action. Check the model's output"
        )
    if not (usable := (logits > -np.inf).any(axis=1)).all():
        raise ValueError(
            f"row {int(np.argmin(usable))} has no legal action: legal_mask and the root.prior_logits above -inf have"
            " none in common. Search only positions in which the game goes on"
        )


def _check_shape(what: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{what} is a {type(tensor).__name__}; expected a torch tensor of the shape {shape}")
    if tensor.is_neg() or tensor.is_conj():
        raise ValueError(f"{what} is a lazily negated or conjugated view; expected its resolve_neg() or resolve_conj()")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{what} has the shape {tuple(tensor.shape)}; expected {shape}")


def check_step(step: Step, root: RootNode, rows: int) -> None:
    """Checks the shapes of the model's first answer of `rows` rows."""
    if not isinstance(step, Step):
        raise ValueError(f"the model returned a {type(step).__name__}; expected a Step(latent, reward, discount, ...)")
    for name in ("reward", "discount", "value", "to_play", "is_chance"):
        if getattr(step, name) is not None:
            _check_shape(f"the model's {name}", getattr(step, name), (rows,))
    if (step.to_play is None) != (root.to_play is None):
        raise ValueError(
            f"to_play is {'missing in' if root.to_play is None else 'only in'} the root; expected it in the root and in"
            " the model's steps, or in neither"
        )
    _check_shape("the model's prior_logits", step.prior_logits, (rows, root.prior_logits.shape[1]))
    nest.check_same_structure(root.latent, step.latent, "the model's latent")
    for (path, expected), leaf in zip(nest.leaves_with_paths(root.latent), nest.leaves(step.latent), strict=True):
        _check_shape(f"the model's latent {path}", leaf, (rows, *expected.shape[1:]))
        if not torch.can_cast(leaf.dtype, expected.dtype):
            raise ValueError(
                f"the model's latent {path} has the dtype {leaf.dtype}; expected {expected.dtype}, as root.latent has,"
                " or one that fits into it"
            )


def check_rounds(num_simulations: int, leaves_per_round: int) -> None:
    """Checks that the simulations are whole rounds."""
    if num_simulations % leaves_per_round:
        raise ValueError(
            f"num_simulations is {num_simulations}; expected a multiple of leaves_per_round, {leaves_per_round}"
        )


def check_gumbel(gumbel: torch.Tensor | None, settings: SearchSettings, root: RootNode) -> None:
    """Checks the root's noise."""
    if gumbel is None:
        return
    if not isinstance(settings.root, SequentialHalving):
        raise ValueError(
            f"gumbel is given and SearchSettings.root is {settings.root!r}, which does not read it; expected"
            " SequentialHalving, or no gumbel"
        )
    _check_shape("gumbel", gumbel, tuple(root.prior_logits.shape))
    if gumbel.device.type == "cpu" and not torch.isfinite(gumbel).all():
        raise ValueError("gumbel has numbers that are not finite; expected draws from a Gumbel distribution")


def check_retained(retained: RetainedTrees, settings: SearchSettings, root: RootNode, num_simulations: int) -> None:
    """Checks that retained trees fit the search that goes on with them."""
    if isinstance(settings.root, SequentialHalving):
        raise ValueError(
            "retained trees do not go with SearchSettings.root = SequentialHalving, which plans the visits of a root"
            " without any; expected Puct, ImprovedPolicy or RegularisedPolicy"
        )
    shape = tuple(retained.tree.priors.shape)
    num_trees, num_actions = root.prior_logits.shape
    if shape != (num_trees, retained.num_nodes + num_simulations, num_actions):
        raise ValueError(
            f"the retained trees have the shape [B, N, A] {shape} and {retained.num_nodes} nodes in use; expected"
            f" {(num_trees, retained.num_nodes + num_simulations, num_actions)} for {num_simulations} simulations. Give"
            " the same num_simulations to reroot"
        )
    if settings.needs_logits and retained.tree.logits.shape[2] != num_actions:
        raise ValueError("the retained trees are of a search without logits; expected one of the same settings")


def raise_faults(tree: Tree) -> None:
    """Raises for the first row in which the model gave a number that cannot be used."""
    faulty = np.flatnonzero(tree.faults[:, 0].numpy())
    if not faulty.size:
        return
    kind, simulation, number = tree.faults[int(faulty[0])].tolist()
    what, expected = {
        rule.FAULT_REWARD: ("the model's reward", "a finite number"),
        rule.FAULT_DISCOUNT: ("the model's discount", "a number in [-1, 1]"),
        rule.FAULT_VALUE: ("the model's value", "a finite number"),
        rule.FAULT_LOGITS: ("one of the model's prior_logits", "a finite number, or -inf for an illegal action"),
        rule.FAULT_OVERFLOW: ("the value backed up", f"one within ±{LARGEST_Q:.2g}"),
    }[int(kind)]
    raise ValueError(
        f"{what} is {number} in simulation {int(simulation)} of row {faulty[0]}; expected {expected}."
        f" {faulty.size} of {len(tree.faults)} rows have such numbers. Check the model's output for this row"
    )
