"""Environments: everything that hands out rows.

Here live the interface `VectorEnvironment`, the boundary checks around it, the adapter to Gymnasium, and Atari; and
`simulator.py`, the protocol of true simulators for planning, with those in `simulators` and the adapter to Gymnasium's.
Optional packages go through `optional.py`. Nothing here imports from the package anything but `nest`, `gin_config`,
`specs` and `data_structures`: no algorithm, no network, no trainer.
"""
