"""The report of a scale: one self-contained page with every figure, the paper's numbers beside ours and a verdict."""
