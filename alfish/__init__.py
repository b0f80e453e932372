"""alfish: reinforcement learning in PyTorch, with MuZero's learned models at its heart.

Import from the defining modules (`from alfish.algorithms.algorithm import Algorithm`); nothing is re-exported here.
"""
