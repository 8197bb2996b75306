"""Plots of the figures, and their style."""
