"""Searches that must come out the same on every device: each rule of `search_cases.py`, with its games in turn."""

import itertools
from typing import NamedTuple

import torch
from oracle import Settings
from search_cases import DRAWN_RULES, GAMES, RULES, draw_gumbel, draw_mask, engine_settings, make_game

from alfish.mcts.records import RootNode, SearchResult, Step

SEED = 7


class DeviceGame:
    """A RandomGame whose tables are tensors on a device. The latent carries a plane that must arrive unharmed."""

    def __init__(self, game, device="cpu"):
        self.game, self.device = game, torch.device(device)
        names = ("next", "reward", "discount", "value", "logits", "is_chance", "to_play")
        self.tables = {name: torch.from_numpy(getattr(game, name)).to(device) for name in names}

    def latent(self, row, state):
        plane = (row * 100 + state)[:, None, None].float().expand(-1, 2, 3)
        return {"plane": plane, "row": row, "state": state}

    def root(self):
        root = self.game.root()
        row, state = (root.latent[name].to(self.device) for name in ("row", "state"))
        to_play = None if root.to_play is None else root.to_play.to(self.device)
        return RootNode(self.latent(row, state), root.prior_logits.to(self.device), root.value.to(self.device), to_play)

    def step(self, latent, action):
        row = latent["plane"][:, 1, 2].long() // 100
        edge = (row, latent["state"], action)
        state = self.tables["next"][edge]
        return Step(
            latent=self.latent(latent["row"], state),
            reward=self.tables["reward"][edge],
            discount=self.tables["discount"][edge],
            prior_logits=self.tables["logits"][row, state],
            value=self.tables["value"][row, state],
            to_play=self.tables["to_play"][row, state] if self.game.players else None,
            is_chance=self.tables["is_chance"][row, state] if self.game.chance else None,
        )


class Case(NamedTuple):
    rule: Settings = RULES["paper"]
    game: str = "illegal"
    masked: bool = False
    num_simulations: int = 24
    num_trees: int = 3


ALL_RULES = {**RULES, **DRAWN_RULES}
RICH_GAMES = ("illegal", "turns", "chance_turns_illegal", "two_players", "ends", "ties", "chance")
PAIRS = [
    (rule, "chance_turns_illegal" if rule.startswith("chance") else game)
    for rule, game in zip(ALL_RULES, itertools.cycle(RICH_GAMES))
]
PAIRS += [(rule, game) for rule in ("paper", "gumbel") for game in sorted(GAMES.keys() - RICH_GAMES)]

CASES = {
    f"{rule}, {game}": Case(ALL_RULES[rule], game, masked)
    for (rule, game), masked in zip(PAIRS, itertools.cycle((False, True, True)))
}
CASES |= {"no simulations": Case(num_simulations=0), "one row": Case(num_trees=1)}


def model_of(case: Case, device="cpu") -> DeviceGame:
    return DeviceGame(make_game(case.game, case.num_trees, SEED), device)


def arguments(case: Case, model: DeviceGame):
    """The positional arguments of a search."""
    return model.root(), model.step, case.num_simulations, engine_settings(case.rule)


def keywords(case: Case, model: DeviceGame):
    """The other arguments of a search."""
    mask = draw_mask(model.game, SEED).to(model.device) if case.masked else None
    gumbel = draw_gumbel(model.game, case.rule, SEED)
    return {"legal_mask": mask, "gumbel": None if gumbel is None else gumbel.to(model.device), "seed": SEED}


def run(case: Case, search, device="cpu") -> SearchResult:
    """The case on a device, by a function with the arguments of `alfish.mcts.search.search`."""
    model = model_of(case, device)
    return search(*arguments(case, model), **keywords(case, model))


def differences(found: SearchResult, expected: SearchResult, tolerance=1e-5) -> list[str]:
    """The names of the fields in which two results differ: numbers by more than the tolerance, all else at all."""
    if found.tree.priors.shape != expected.tree.priors.shape:
        return [f"[B, N, A] {tuple(found.tree.priors.shape)} {tuple(expected.tree.priors.shape)}"]
    pairs = [(name, getattr(found, name), getattr(expected, name)) for name in ("visits", "value", "q_values")]
    trees = zip(found.tree._fields, found.tree, expected.tree, strict=True)
    pairs += [(f"tree.{name}", left, right) for name, left, right in trees]
    pairs += [(f"latents.{name}", found.latents[name], expected.latents[name]) for name in ("plane", "state")]
    filled = expected.tree.visits.cpu() > 0
    wrong = []
    for name, left, right in pairs:
        left, right = left.cpu(), right.cpu()
        # Of an empty slot only what marks it is defined.
        if name.startswith("latents"):
            left, right = left.transpose(0, 1)[filled], right.transpose(0, 1)[filled]
        elif left.shape[:2] == filled.shape and name not in ("tree.visits", "tree.parents"):
            left, right = left[filled], right[filled]
        near = tolerance if left.is_floating_point() else 0.0
        if not torch.allclose(left.double(), right.double(), rtol=near, atol=near):
            wrong.append(name)
    return wrong
