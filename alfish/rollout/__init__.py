"""Engines that collect windows of rows, and the act-step loop that all of them share.

An engine owns environments and windows; it hands out whole windows `[T, B]`. May import algorithms, environments and
everything below them; never trainers.
"""
