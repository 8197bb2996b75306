"""Our kernels beside those of libraries that do the same."""
