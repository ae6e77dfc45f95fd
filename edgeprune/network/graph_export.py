"""A network as a graph of plain operations, recorded by the tracer of torch.export, that takes any batch size."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from edgeprune.errors import ExportError
from edgeprune.network.coupling.ride import FAILURES, as_inputs, evaluating
from edgeprune.network.coupling.stand_ins import attributes_kept
from edgeprune.network.exported import with_own_layers

REFUSALS = (*FAILURES, torch._dynamo.exc.TorchDynamoException)
PRIMES = (97, 101, 103, 107, 109, 113, 127, 131, 137, 139)


def exported_networks(model: nn.Module, example_inputs: Any, sizes: Iterable[int]) -> Iterator[fx.GraphModule]:
    """The network as a graph, for any batch size and then for that of the example inputs: take the first that runs.

    `sizes` are all that occur in a run of the network. Raises ExportError where PyTorch's tracer refuses it.
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
        said = str(error).partition("\n")[0]
        raise ExportError(f"PyTorch's tracer refuses the network: {type(error).__name__}: {said}") from error


def _graph(model: nn.Module, inputs: tuple[Any, ...]) -> fx.GraphModule:
    """The operations of one run on stand-ins without values.

    The tracer that torch.export is built on, called alone: the same operations in less than half the time.
    """
    tensors = dict(chain(model.named_parameters(), model.named_buffers()))

    def run(tensors: dict[str, Tensor], *inputs: Any) -> Any:
        return torch.func.functional_call(model, tensors, inputs)

    # A module that is a part of several others would keep the tracer's stand-ins for its tensors.
    with evaluating(model), attributes_kept(model), _without_stack_traces():
        traced = make_fx(run, tracing_mode="fake", pre_dispatch=True)(tensors, *inputs)
    _take_only(inputs, traced.graph)
    return with_own_layers(_holding(tensors, traced))


def _take_only(inputs: tuple[Any, ...], graph: fx.Graph) -> None:
    """Leave the tensors of the network, the first argument, out of what forward takes."""
    codegen: Any = graph._codegen
    info = codegen.pytree_info
    codegen.pytree_info = info._replace(orig_args=info.orig_args[1:], in_spec=pytree.tree_structure(inputs))


def _holding(tensors: dict[str, Tensor], traced: fx.GraphModule) -> fx.GraphModule:
    """A graph whose first inputs were these tensors holds them itself, under their names."""
    graph = traced.graph
    places = graph.find_nodes(op="placeholder")
    for place, name in zip(places, tensors, strict=False):
        with graph.inserting_after(places[-1]):
            place.replace_all_uses_with(graph.create_node("get_attr", name))
        graph.erase_node(place)
    holder = fx.GraphModule(nn.Module(), fx.Graph())
    for name, tensor in chain(tensors.items(), _constants(traced)):
        _hold(holder, name, tensor)
    holder.graph = graph
    return holder


def _constants(traced: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    """Tensors that the network's code makes without an operation, by the names that the tracer gave them."""
    return chain(traced.named_parameters(), traced.named_buffers())


def _hold(holder: nn.Module, name: str, tensor: Tensor) -> None:
    *path, leaf = name.split(".")
    for part in path:
        if not hasattr(holder, part):
            holder.add_module(part, nn.Module())
        holder = getattr(holder, part)
    if isinstance(tensor, nn.Parameter):
        holder.register_parameter(leaf, tensor)
    else:
        holder.register_buffer(leaf, tensor)


def _for_any_batch(model: nn.Module, inputs: tuple[Any, ...], prime: int) -> fx.GraphModule:
    """The graph with an open first axis of all inputs.

    The batch is shown to the tracer as a prime that no other size of the network is a multiple of, so every
    such number in the graph counts examples. A symbol in its place would make the tracing three times as slow.
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
    """The tracer notes where each operation was called, which takes a quarter of its time and is not used here."""
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
