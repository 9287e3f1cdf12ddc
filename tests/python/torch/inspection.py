"""What is in the graphs that torch.compile makes: a backend that computes and takes note."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.fx import GraphModule

Names = list[str]


class Inspector:
    """A backend that divides forward and backward as inductor does, and runs what aot_eager runs.

    forward, backward: of each graph that was compiled, the calls that are syncnorm's or a
    collective.
    """

    def __init__(self) -> None:
        from torch._dynamo.backends.common import aot_autograd

        self.forward: list[Names] = []
        self.backward: list[Names] = []
        self._backend = aot_autograd(
            fw_compiler=self._into(self.forward),
            bw_compiler=self._into(self.backward),
            inference_compiler=self._into(self.forward),
            partition_fn=min_cut_rematerialization_partition,
        )

    def __call__(self, graph: GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = self._backend(graph, inputs)
        return compiled

    def _into(self, graphs: list[Names]) -> Callable[..., Any]:
        def compiler(graph: GraphModule, _: list[Any]) -> Callable[..., Any]:
            graphs.append([name for node in graph.graph.nodes for name in _names(node)])
            return make_boxed_func(graph.forward)

        return compiler


def _names(node: torch.fx.Node) -> Names:
    """The operator that a node calls, if it is one to look at; without its namespace."""
    # An operator that writes, or whose order is kept, is an argument of another.
    for called in (node.target, *node.args):
        if isinstance(called, torch._ops.OpOverload):
            if called.namespace in ("syncnorm", "_c10d_functional"):
                return [called._opname]
            if called is node.target:
                return []
    return []
