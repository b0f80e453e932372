"""What a search can ask: learned models, and how a learned model is unrolled for training.

A model turns observations into latents, steps latents by actions, and predicts policies, values and rewards. May import
networks, ops and the record types of mcts; knows no algorithm, replay buffer or environment.
"""
