"""Running an algorithm: trainer, updater, batch source, checkpoints, evaluator, progress and seeding.

This is the top of the library: it may import every other folder but `bin/`, and none of them imports it; algorithms,
rollout and summaries in particular do not know that a trainer exists. What they need from it (progress, devices,
random generators) they are given as arguments.
"""
