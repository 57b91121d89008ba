"""Comparisons of speed: each times two ways of doing the same, side by side, and measures that it is the same."""
