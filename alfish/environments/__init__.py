"""Environments: everything that hands out rows.

Here live the interface `VectorEnvironment`, the boundary checks around it, the adapter to Gymnasium, and Atari.
Optional packages go through `optional.py`. Nothing here imports from the package anything but `nest`, `gin_config`,
`specs` and `data_structures`: no algorithm, no network, no trainer.
"""
