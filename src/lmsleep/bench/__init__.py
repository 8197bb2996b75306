"""Benchmarks of training and reading."""
