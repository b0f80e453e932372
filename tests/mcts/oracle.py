"""PUCT for one root, slow and plain, written from the paper. It shares no code with the package.

Schrittwieser et al. 2020, https://arxiv.org/abs/1911.08265: appendix B (search), equations 2 to 5. Numbers are float32,
as in the package, so that scores which tie in the one tie in the other.
"""

import math

import numpy as np

F = np.float32


def softmax(logits):
    """The probabilities of a list of logits; None in place of an illegal action. All -inf: all equal and legal."""
    if all(logit == -math.inf for logit in logits):
        return [F(1) / F(len(logits))] * len(logits)
    largest = max(float(logit) for logit in logits)
    with np.errstate(under="ignore", over="ignore"):
        weights = [F(np.exp(F(logit) - F(largest))) for logit in logits]
    total = F(0)
    for weight in weights:
        total = total + weight
    return [None if logit == -math.inf else weight / total for logit, weight in zip(logits, weights, strict=True)]


class Node:
    def __init__(self, state, reward, discount, logits, value):
        self.state, self.reward, self.discount = state, F(reward), F(discount)
        self.raw_value = F(value) if discount != 0 else F(0)
        self.priors = softmax(logits)
        self.children = {}
        self.visits, self.value = 0, F(0)

    def q_value(self):
        """Q of the edge into this node."""
        return self.reward + self.discount * self.value


class Search:
    """`model(state, action) -> (next state, reward, discount, logits, value)`."""

    def __init__(self, model, c1=1.25, c2=19652.0, known_range=None, minimum_range=0.01, unvisited=0.0, max_depth=None):
        self.model, self.c1, self.c2 = model, c1, c2
        self.low, self.high = (F(known_range[0]), F(known_range[1])) if known_range else (None, None)
        self.minimum_range, self.unvisited, self.max_depth = minimum_range, unvisited, max_depth

    def scaled(self, q):
        if self.low is None:
            return F(0)
        return (q - self.low) * (F(1) / max(self.high - self.low, F(self.minimum_range)))

    def unvisited_score(self, node):
        if self.unvisited == "parent":
            return min(max(self.scaled(node.value), F(0)), F(1))
        if self.unvisited == "siblings":
            scores = [self.scaled(node.children[action].q_value()) for action in sorted(node.children)]
            return sum(scores, F(0)) / F(max(len(scores), 1))
        return F(self.unvisited)

    def choose(self, node):
        exploration = F(math.sqrt(node.visits) * (self.c1 + math.log((node.visits + self.c2 + 1) / self.c2)))
        unvisited = self.unvisited_score(node)
        scores = {}
        untried = [action for action, prior in enumerate(node.priors) if prior is not None and action not in node.children]
        first = max(untried, key=lambda action: (node.priors[action], -action), default=None)
        for action, prior in enumerate(node.priors):
            if prior is None or (action in untried and action != first):
                continue
            child = node.children.get(action)
            value = self.scaled(child.q_value()) if child else unvisited
            scores[action] = value + exploration * prior / F((child.visits if child else 0) + 1)
        return max(scores, key=lambda action: (scores[action], -action))

    def run(self, state, logits, value, num_simulations):
        """Returns `(visits, root value, Q-values)`; Q is 0 for actions that were not visited."""
        root = Node(state, 0.0, 1.0, logits, value)
        root.visits, root.value = 1, root.raw_value
        for _ in range(num_simulations):
            node, path = root, [root]
            while True:
                action = self.choose(node)
                if action not in node.children:
                    node.children[action] = Node(*self.model(node.state, action))
                    path.append(node.children[action])
                    break
                node = node.children[action]
                path.append(node)
                if node.discount == 0 or len(path) - 1 == self.max_depth:
                    break
            self.back_up(path)
        children = [root.children.get(action) for action in range(len(logits))]
        visits = [child.visits if child else 0 for child in children]
        return visits, root.value, [child.q_value() if child else F(0) for child in children]

    def back_up(self, path):
        value = path[-1].raw_value
        for node in reversed(path):
            node.visits += 1
            node.value = node.value + (value - node.value) / F(node.visits)
            if node is not path[0]:
                q_value = node.q_value()
                self.low = q_value if self.low is None else min(self.low, q_value)
                self.high = q_value if self.high is None else max(self.high, q_value)
            value = node.reward + node.discount * value
