"""A tree search from one root, slow and plain, written from the papers. It shares no code with the package.

Numbers are Python's, of 64 bits; the engine's have 32. Where the best scores differ by no more than the engine's
rounding, neither choice is wrong and nothing after it can be compared: the search then raises TooClose. Equal scores of
actions that are alike in everything are no such case: there the rule for ties decides.
"""

import math
from typing import NamedTuple

import oracle_rules as rules

CLOSE = 5e-6


class TooClose(Exception):
    """The engine's rounding decides what this search does."""


class Puct(NamedTuple):
    c1: float = 1.25
    c2: float = 19652.0
    unvisited: float | str = 0.0


class Improved(NamedTuple):
    visit_offset: float = 50.0
    value_scale: float = 0.1


class Halving(NamedTuple):
    max_considered: int = 16
    visit_offset: float = 50.0
    value_scale: float = 0.1


class Regularised(NamedTuple):
    c1: float = 1.25
    c2: float = 19652.0
    unvisited: float | str = "parent"
    sampled: bool = False


class Settings(NamedTuple):
    """As in the package; `ties` and `chance` are "lowest" or "random", "balanced" or "sampled"."""

    root: NamedTuple = Puct()
    interior: NamedTuple = Puct()
    value_range: str | tuple = "tree"
    minimum_range: float = 0.01
    max_depth: int | None = None
    ties: str = "lowest"
    chance: str = "balanced"
    leaves: int = 1


class Draw(NamedTuple):
    """A choice that was left to chance: where, the probabilities of the actions, and which one was taken."""

    node: "Node"
    probabilities: dict
    action: int


class Node:
    def __init__(self, answer, parent=None):
        self.state, self.reward, self.discount = answer.state, answer.reward, answer.discount
        if parent is not None and answer.to_play is not None and answer.to_play != parent.to_play:
            self.discount = -self.discount
        self.to_play, self.is_chance = answer.to_play, answer.is_chance
        self.raw_value = answer.value if answer.discount != 0 else 0.0
        legal = [action for action, logit in enumerate(answer.logits) if logit > -math.inf]
        self.logits = {a: answer.logits[a] for a in legal} or dict.fromkeys(range(len(answer.logits)), 0.0)
        self.priors = rules.softmax(self.logits)
        self.children = {}
        self.visits, self.value_sum = 0, 0.0
        self.assumed, self.assumed_edges = 0, dict.fromkeys(self.logits, 0)

    def q_value(self):
        """Q of the edge into this node."""
        return self.reward + self.discount * self.value_sum / self.visits

    def edge_visits(self, action):
        return self.children[action].visits if action in self.children else 0

    def view(self):
        return rules.View(
            legal=list(self.logits),
            logits=self.logits,
            priors=self.priors,
            visits={a: self.edge_visits(a) + self.assumed_edges[a] for a in self.logits},
            q_values={a: self.children[a].q_value() for a in self.logits if a in self.children},
            node_visits=self.visits + self.assumed,
            value=self.value_sum / self.visits,
            raw_value=self.raw_value,
        )


class Search:
    """A search; `model(state, action)` and `root` are answers with the fields of `random_game.Answer`.

    Args:
        kept: the node behind the action that was taken in an earlier search; its edges, as far as they are legal now,
            are the root's from the start, and the values below it begin the tree's range.
        gumbel: by action; for `Halving`.
        told: the paths of the engine's simulations, each a list of actions. Each choice on them is then checked
            instead of made, and those that were left to chance are collected in `draws`.
    """

    def __init__(self, model, root, settings, num_simulations, gumbel=None, told=None, kept=None):
        self.model, self.settings, self.gumbel = model, settings, gumbel
        self.num_simulations = num_simulations
        known = isinstance(settings.value_range, tuple)
        self.low, self.high = settings.value_range if known else (None, None)
        self.told, self.draws = told, []
        self.root = Node(root)
        self.root.visits, self.root.value_sum = 1, self.root.raw_value
        for action, child in kept.children.items() if kept else ():
            self.widen_below(child)
            if action in self.root.logits:
                self.root.children[action] = child
                self.root.visits += child.visits
                self.root.value_sum += child.visits * child.q_value()

    def widen_below(self, node):
        self.widen(node.q_value())
        for child in node.children.values():
            self.widen_below(child)

    def widen(self, q_value):
        self.low = q_value if self.low is None else min(self.low, q_value)
        self.high = q_value if self.high is None else max(self.high, q_value)

    def run(self):
        done = 0
        while done < self.num_simulations:
            leaves = min(self.settings.leaves, self.num_simulations - done)
            paths = [self.select(self.told[done + leaf] if self.told else None) for leaf in range(leaves)]
            for path in paths:
                self.assume(path, -1)
            for path in paths:
                self.evaluate_and_back_up(path)
            done += leaves
        return self

    def select(self, told):
        """The edges from the root to where the simulation ends: a new edge, a terminal one, or the depth limit."""
        node, path = self.root, []
        while True:
            action = self.choose(node, told[len(path)] if told else None)
            path.append((node, action))
            child = node.children.get(action)
            if child is None or child.discount == 0 or len(path) == self.settings.max_depth:
                self.assume(path, +1)
                return path
            node = child

    def assume(self, path, amount):
        self.root.assumed += amount
        for node, action in path:
            node.assumed_edges[action] += amount
            if action in node.children:
                node.children[action].assumed += amount

    def evaluate_and_back_up(self, path):
        parent, action = path[-1]
        if action not in parent.children:
            parent.children[action] = Node(self.model(parent.state, action), parent)
        value = parent.children[action].raw_value
        for node, action in reversed(path):
            child = node.children[action]
            child.visits += 1
            child.value_sum += value
            self.widen(child.q_value())
            value = child.reward + child.discount * value
        self.root.visits += 1
        self.root.value_sum += value

    def scaled(self, view, improved):
        """The function that scales the node's Q-values by what the tree has seen, or only the node.

        For improved policies what the node has seen is its completed Q-values, and they widen the tree's range.
        """
        values = list(rules.completed(view).values()) if improved else []
        if self.settings.value_range != "node":
            values += [] if self.low is None else [self.low, self.high]
        elif not improved:
            values = rules.node_range(view)
        low, high = (min(values), max(values)) if values else (None, None)
        return rules.scale_by(low, high, self.settings.minimum_range)

    def choose(self, node, told):
        view = node.view()
        if node.is_chance:
            if self.settings.chance == "sampled":
                return self.draw(node, view.priors, told)
            return self.best(node, view, rules.balanced(view), told, unit=0.0)
        rule = self.settings.root if node is self.root else self.settings.interior
        if isinstance(rule, Regularised):
            policy = rules.regularised(view, self.scaled(view, False), *rule[:3])
            return (
                self.draw(node, policy, told)
                if rule.sampled
                else self.best(node, view, rules.towards(view, policy), told)
            )
        if isinstance(rule, Puct):
            return self.best(node, view, rules.puct(view, self.scaled(view, False), *rule), told)
        sigmas = rules.sigma(view, self.scaled(view, True), rule.visit_offset, rule.value_scale)
        if isinstance(rule, Improved):
            return self.best(node, view, rules.towards(view, rules.improved_policy(view, sigmas)), told)
        schedule = rules.halving_schedule(min(rule.max_considered, len(view.legal)), self.num_simulations)
        wanted = schedule[sum(view.visits.values())]
        return self.best(node, view, rules.halving(view, sigmas, self.gumbel, wanted), told)

    def best(self, node, view, scores, told, unit=1.0):
        """The action with the largest score; scores of the size of `unit` are exact to CLOSE."""
        largest = max(scores.values())
        near = [a for a in scores if scores[a] >= largest - CLOSE * max(unit, abs(largest))]
        exactly = all(scores[a] == largest for a in near)
        alike = len({(view.priors[a], view.visits[a], view.q_values.get(a)) for a in near}) == 1
        if told is not None:
            assert told in near, f"{told} was taken, of {scores}"
            if self.settings.ties == "random" and exactly and alike:
                self.draw(node, dict.fromkeys(near, 1 / len(near)), told)
            return told
        if (
            self.settings.ties == "random"
            and len(near) > 1
            or not (exactly and (alike or not any(view.visits[a] for a in near)))
        ):
            raise TooClose
        # Of equal actions without a visit the most probable is first, and of those the lowest.
        return min(near, key=lambda a: (-view.priors[a], a))

    def draw(self, node, probabilities, told):
        """The action that the engine drew, which must have been possible."""
        assert told is not None, "a search that draws can only be checked, not repeated"
        assert probabilities.get(told, 0.0) > 0, f"{told} was drawn, of {probabilities}"
        if len(probabilities) > 1:
            self.draws.append(Draw(node, probabilities, told))
        return told
