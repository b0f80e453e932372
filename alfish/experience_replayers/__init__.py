"""Storage of collected rows and sampling of blocks from it, on the host.

Small pieces that are composed: `ring.py` (the rows, in memory or in the files of `storage.py`), `episode_index.py`
(where a row's episode begins and ends), `sum_tree.py`, the samplers (which rows to train on) and `replay_buffer.py`,
which joins them. No piece knows an algorithm. Must not import networks, mcts, models, algorithms, rollout or trainers.
"""
