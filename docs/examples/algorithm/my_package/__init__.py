"""Algorithms of my own."""
