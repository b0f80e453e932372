"""Pure tensor functions: returns, policy and value losses, value transforms, distributions, masks, schedules.

Each estimator's docstring holds the recursion, the paper, the shapes and what happens at the end of an episode.
Target updates, the only functions here that write, write to the module that they are given. Nothing here knows an
environment, a network, an algorithm or a file: this folder imports `alfish.nest`, `alfish.checks`, `alfish.specs` and
`alfish.data_structures` only.
"""
