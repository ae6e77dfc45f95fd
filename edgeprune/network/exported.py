"""Turns a torch.export archive back into a network that can be trained, cut and exported again."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

_BATCH_NORM = torch.ops.aten.batch_norm.default
_DROPOUTS = (torch.ops.aten.dropout.default, torch.ops.aten.dropout_.default)
_BATCH_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


def network_from_exported_program(program: torch.export.ExportedProgram) -> nn.Module:
    """Return the program as a module whose train() and eval() work, with the names it was exported with.

    A graph has the mode baked in that it was exported in: batch norms and dropouts are put back as the layers
    they were, where their tensors are. The checks of input shapes are left out, so that other batch sizes pass.
    """
    return with_own_layers(program.module())


def with_own_layers(exported: fx.GraphModule) -> fx.GraphModule:
    """Return a graph of plain operations with its batch norms and dropouts as layers again, in evaluation mode."""
    graph = exported.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
        elif node.target is _BATCH_NORM:
            _restore_batch_norm(exported, node)
        elif node.target in _DROPOUTS:
            _restore_dropout(exported, node)
        elif node.target is torch.ops.aten.add_.Tensor and _counts_batches(node):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    # NOTE: a fresh GraphModule leaves behind the train() and eval() that refuse, and the hooks that check shapes.
    return fx.GraphModule(exported, graph, "Exported").eval()


def _counts_batches(node: fx.Node) -> bool:
    """Say whether this adds one to `num_batches_tracked`, which the restored layer does itself."""
    counter = node.args[0]
    return isinstance(counter, fx.Node) and str(counter.target).endswith("num_batches_tracked") and not node.users


def _restore_batch_norm(network: fx.GraphModule, node: fx.Node) -> None:
    places = [str(part.target) if isinstance(part, fx.Node) else "" for part in node.args[1:5]]
    parent = places[2].rpartition(".")[0]
    if not parent or places != [f"{parent}.{part}" for part in _BATCH_NORM_PARTS]:
        return  # its tensors are not those of one layer: it stays as it was exported
    layer = _batch_norm(network.get_submodule(parent), node)
    network.set_submodule(parent, layer)
    _call_instead(node, parent)


def _batch_norm(tensors: nn.Module, node: fx.Node) -> nn.Module:
    """Build the layer around the tensors of the place that held them; the rank of the input chooses the class."""
    rank = node.args[0].meta["val"].dim() if isinstance(node.args[0], fx.Node) else 4
    kind: Any = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(rank, nn.BatchNorm1d)
    layer = kind(tensors.get_buffer("running_mean").numel(), eps=node.args[7], momentum=node.args[6])
    for name, value in (*tensors.named_parameters(recurse=False), *tensors.named_buffers(recurse=False)):
        setattr(layer, name, value)
    return layer  # type: ignore[no-any-return]


def _restore_dropout(network: fx.GraphModule, node: fx.Node) -> None:
    name = f"{node.name}_layer"
    network.add_submodule(name, nn.Dropout(float(str(node.args[1]))))
    _call_instead(node, name)


def _call_instead(node: fx.Node, module: str) -> None:
    graph = node.graph
    with graph.inserting_before(node):
        call = graph.call_module(module, (node.args[0],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.erase_node(node)
