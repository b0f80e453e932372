"""Each way of choosing an action, for one node, written from its paper. Shares no code with the package.

A rule reads a `View` of a node and gives a number per legal action. Where the paper scales Q by what the tree has seen,
`scaled` does that.
"""

import math
from typing import NamedTuple


class View(NamedTuple):
    """One node as the rules see it.

    `legal` are the actions that may be taken; the dicts below are by action.
    """

    legal: list
    logits: dict
    priors: dict
    visits: dict  # N(s, a), of every legal action
    q_values: dict  # Q(s, a), of the visited ones only
    node_visits: int  # n(s) = 1 + ΣN: the evaluation of s counts, and every further simulation that ended in s
    value: float  # mean return of s
    raw_value: float  # what the model said of s


def softmax(logits):
    largest = max(logits.values())
    weights = {action: math.exp(logit - largest) for action, logit in logits.items()}
    total = sum(weights.values())
    return {action: weight / total for action, weight in weights.items()}


def scale_by(low, high, minimum_range):
    """The function that takes [low, high] to [0, 1]; takes everything to 0 while nothing was seen."""
    if low is None:
        return lambda q: 0.0
    return lambda q: (q - low) / max(high - low, minimum_range)


def node_range(view):
    """Smallest and largest of the node's value and its visited children's."""
    seen = [view.value, *view.q_values.values()]
    return min(seen), max(seen)


def exploration(view, c1, c2):
    """Schrittwieser et al. 2020, https://arxiv.org/abs/1911.08265, equation 2, without the square root."""
    return c1 + math.log((view.node_visits + c2 + 1) / c2)


def unvisited_value(view, scaled, choice):
    """The scaled value of an action without a visit: a number, the node's own value, or the visited ones' mean."""
    if choice == "parent":
        return min(max(scaled(view.value), 0.0), 1.0)
    if choice == "siblings":
        seen = [scaled(q) for q in view.q_values.values()]
        return sum(seen) / len(seen) if seen else 0.0
    return choice


def scaled_values(view, scaled, unvisited):
    missing = unvisited_value(view, scaled, unvisited)
    return {a: scaled(view.q_values[a]) if a in view.q_values else missing for a in view.legal}


def puct(view, scaled, c1, c2, unvisited):
    """Schrittwieser et al. 2020, appendix B, equation 2."""
    values = scaled_values(view, scaled, unvisited)
    weight = math.sqrt(view.node_visits) * exploration(view, c1, c2)
    return {a: values[a] + weight * view.priors[a] / (1 + view.visits[a]) for a in view.legal}


def mixed_value(view):
    """Danihelka et al. 2022, https://openreview.net/forum?id=bERaNdoegnO, appendix D, equation 33."""
    tiny = 2.0**-126  # a visited action may have a prior of 0
    visited = [a for a in view.legal if a in view.q_values]
    if not visited:
        return view.raw_value
    priors = {a: max(view.priors[a], tiny) for a in visited}
    mean = sum(priors[a] * view.q_values[a] for a in visited) / sum(priors.values())
    count = sum(view.visits[a] for a in visited)
    return (view.raw_value + count * mean) / (1 + count)


def completed(view):
    """The Q-values, with the mixed value in place of those that are missing (ibid., equation 10)."""
    missing = mixed_value(view)
    return {a: view.q_values.get(a, missing) for a in view.legal}


def sigma(view, scaled, visit_offset, value_scale):
    """The scaled completed Q-values, times `(c_visit + max N) c_scale` (ibid., equation 8)."""
    factor = (visit_offset + max(view.visits.values())) * value_scale
    return {a: factor * scaled(q) for a, q in completed(view).items()}


def improved_policy(view, sigmas):
    """softmax(logits + σ(completed Q)) (ibid., equation 11)."""
    return softmax({a: view.logits[a] + sigmas[a] for a in view.legal})


def towards(view, policy):
    """Scores whose largest brings the visits closer to the policy (ibid., equation 14)."""
    return {a: policy[a] - view.visits[a] / view.node_visits for a in view.legal}


def halving_schedule(considered, simulations):
    """For each simulation, how many visits the action has that is visited (ibid., algorithm 2).

    There are ⌈log2 m⌉ phases; in each, all actions that are left are visited equally often, together n / ⌈log2 m⌉
    times, but at least once; then the better half stays. Two actions are never halved. What is left over of n goes on
    in the same way.
    """
    if considered == 1:
        return list(range(simulations))
    phases = math.ceil(math.log2(considered))
    schedule, visits, left = [], 0, considered
    while len(schedule) < simulations:
        for _ in range(max(1, simulations // (phases * left))):
            schedule += [visits] * left
            visits += 1
        left = max(2, left // 2)
    return schedule[:simulations]


def halving(view, sigmas, gumbel, considered_visits):
    """gumbel + logits + σ(completed Q), of the actions with so many visits."""
    largest = max(view.logits.values())
    return {
        a: gumbel[a] + view.logits[a] - largest + sigmas[a] for a in view.legal if view.visits[a] == considered_visits
    }


def regularised(view, scaled, c1, c2, unvisited):
    """The policy π̄ of Grill et al. 2020, https://arxiv.org/abs/2007.12509, section 3.2 and appendix B.3.

    π̄ = λ π / (α - q), with λ = c √n / (|A| + n - 1) and α such that the sum is 1, found by bisection. The paper has
    the simulations ΣN in place of n = 1 + ΣN under the root.
    """
    n, possible = view.node_visits, [a for a in view.legal if view.priors[a] > 0]
    weight = exploration(view, c1, c2) * math.sqrt(n) / (len(view.legal) + n - 1)
    q = scaled_values(view, scaled, unvisited)
    low = max(q[a] + weight * view.priors[a] for a in possible)
    high = max(q[a] for a in possible) + weight
    for _ in range(60):
        middle = (low + high) / 2
        if sum(weight * view.priors[a] / (middle - q[a]) for a in possible) > 1:
            low = middle
        else:
            high = middle
    policy = {a: weight * view.priors[a] / (high - q[a]) for a in possible}
    return dict.fromkeys(view.legal, 0.0) | {a: p / sum(policy.values()) for a, p in policy.items()}


def balanced(view):
    """Antonoglou et al. 2022, https://openreview.net/forum?id=X6D9bAHhBQ1, as in mctx: the outcome most behind."""
    return {a: view.priors[a] / (view.visits[a] + 1) for a in view.legal}
