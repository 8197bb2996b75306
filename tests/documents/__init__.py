"""The numbers of README.md and results/: every one follows from a committed CSV."""
