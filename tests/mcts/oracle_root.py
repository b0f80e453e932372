"""What is read off a finished search of the oracle: the policies of the root, and the winner of its halving."""

import oracle_rules as rules
from oracle import Improved


def root_policy(search, reading):
    """By action: the shares of the visits ("visits"; the prior if there are none), π' (Improved) or π̄ (Regularised)."""
    view = search.root.view()
    if reading == "visits":
        total = sum(view.visits.values())
        return {a: n / total for a, n in view.visits.items()} if total else dict(view.priors)
    if isinstance(reading, Improved):
        return rules.improved_policy(view, rules.sigma(view, search.scaled(view, True), *reading))
    return rules.regularised(view, search.scaled(view, False), *reading[:3])


def winner(search):
    """The most visited action; among those the largest gumbel + logit + σ(q) (Danihelka et al. 2022, algorithm 2)."""
    view, halving = search.root.view(), search.settings.root
    sigmas = rules.sigma(view, search.scaled(view, True), halving.visit_offset, halving.value_scale)
    return search.best(search.root, view, rules.halving(view, sigmas, search.gumbel, max(view.visits.values())), None)
