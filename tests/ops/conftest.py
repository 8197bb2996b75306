"""What a compiler makes of an op."""

import pytest


@pytest.fixture
def compiled_calls():
    """compiled_calls(function, *arguments): its outputs, compiled as one graph, and the names of the calls in that."""
    import torch

    def compiled_calls(function, *arguments):
        calls = []

        def keep(graph, _):
            calls.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
            return graph

        return torch.compile(function, backend=keep, fullgraph=True)(*arguments), calls

    return compiled_calls
