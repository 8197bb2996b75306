"""The tables of README.md and of the pages in results/, as frames of texts, and the sets of runs that they are of."""
