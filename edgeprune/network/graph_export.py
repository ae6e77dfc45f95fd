"""A network as a graph of plain operations, made by torch.export, that takes any batch size."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgeprune.errors import ExportError
from edgeprune.network.coupling.ride import FAILURES, as_inputs, evaluating
from edgeprune.network.exported import network_from_exported_program

REFUSALS = (*FAILURES, torch._dynamo.exc.TorchDynamoException)
PRIMES = (97, 101, 103, 107, 109, 113, 127, 131, 137, 139)


def exported_networks(model: nn.Module, example_inputs: Any, sizes: Iterable[int]) -> Iterator[fx.GraphModule]:
    """The network as a graph, for any batch size and then for that of the example inputs: take the first that runs.

    `sizes` are all that occur in a run of the network. Raises ExportError where torch.export refuses it.
    """
    inputs = as_inputs(example_inputs)
    prime = next((prime for prime in PRIMES if all(size % prime for size in sizes if size)), None)
    batches = {value.shape[0] if isinstance(value, Tensor) and value.dim() else 0 for value in inputs}
    if len(batches) == 1 and 0 not in batches and prime is not None:
        with suppress(*REFUSALS):
            yield _for_any_batch(model, inputs, prime)
    try:
        yield _graph(model, inputs)
    except REFUSALS as error:
        raise ExportError(f"torch.export refuses the network: {type(error).__name__}: {error}") from error


def _graph(model: nn.Module, inputs: tuple[Any, ...]) -> fx.GraphModule:
    with evaluating(model), _without_stack_traces():
        graph = network_from_exported_program(torch.export.export(model, inputs, strict=False))
    if not isinstance(graph, fx.GraphModule):
        raise ExportError("The exported program gave no graph.")
    return graph


def _for_any_batch(model: nn.Module, inputs: tuple[Any, ...], prime: int) -> fx.GraphModule:
    """The graph with an open first axis of all inputs.

    The batch is shown to torch.export as a prime that no other size of the network is a multiple of, so every
    such number in the graph counts examples. A symbol in its place would make the export three times as slow.
    """
    graph = _graph(model, tuple(value[:1].expand(prime, *value.shape[1:]) for value in inputs))
    _open_batch(graph, prime)
    return graph


def _open_batch(graph: fx.GraphModule, prime: int) -> None:
    """Work every multiple of the prime among the arguments out of the size of the first input; recompile it later."""
    places = [node for node in graph.graph.nodes if node.op == "placeholder"]
    with graph.graph.inserting_after(places[-1]):
        batch = graph.graph.call_function(torch.ops.aten.sym_size.int, (places[0], 0))
    products = {1: batch}

    def opened(value: Any) -> Any:
        if not isinstance(value, int) or value == 0 or value % prime:
            return value
        if value // prime not in products:
            with graph.graph.inserting_after(batch):
                products[value // prime] = graph.graph.call_function(operator.mul, (batch, value // prime))
        return products[value // prime]

    for node in list(graph.graph.nodes):
        if node is not batch and node.op == "call_function":
            node.args, node.kwargs = pytree.tree_map(opened, (node.args, node.kwargs))
    graph.graph.eliminate_dead_code()


@contextmanager
def _without_stack_traces() -> Iterator[None]:
    """torch.export notes where each operation was called, which takes a quarter of its time and is not used here."""
    config: Any = fx.config
    before = getattr(config, "do_not_emit_stack_traces", None)
    if before is None:  # an older PyTorch always notes them
        yield
        return
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before
