"""Algorithms: the hooks of `algorithm.py`, one paper in one file, written in the order in which data meets the hooks.

A new algorithm is one file here, one gin file, one test file and one page in docs/algorithms/; from another package it
needs no change here. May import models, mcts, networks, ops and the replay's types; never trainers, rollout or summary:
an algorithm returns its metrics, and one place writes them.
"""
