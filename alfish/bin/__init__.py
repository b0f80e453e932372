"""Command lines: train, evaluate, play, and what they share; each file has at most 100 lines.

May import everything below. Nothing imports this: what a program of your own needs is in `trainers`.
"""
