"""Modules that algorithms and models are built from: preprocessing, encoders, towers, recurrent layers, heads.

They are built from specs and refuse at construction what they cannot read. Imports: `alfish.ops` and what lies below.
No module here knows an algorithm, a search, a replay buffer or an environment.
"""
