"""What a search can ask: learned models, true simulators, tables; and how a learned model is unrolled for training.

A model turns observations into latents, steps latents by actions, and predicts policies, values and rewards. The
`…_search_model.py` and `sampled_model.py` make of it, or of a simulator, what `MCTSAlgorithm` searches. May import
networks, ops, mcts and the simulators' protocol; knows no algorithm, replay buffer or environment that is played in.
"""
