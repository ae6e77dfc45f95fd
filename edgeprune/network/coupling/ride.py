"""Runs a network once and lets labels ride along: one rule call for each operation."""

from __future__ import annotations

import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune.errors import ModelError
from edgeprune.network.attention import own_attention
from edgeprune.network.coupling import rules_contract, rules_index, rules_move, rules_pointwise, rules_reduce
from edgeprune.network.coupling.call import Call, tensors_in
from edgeprune.network.coupling.ledger import Ledger, Reason, flat
from edgeprune.network.coupling.rules import RULES
from edgeprune.network.coupling.stand_ins import (
    MOST_MACS,
    HeavyRunError,
    attributes_kept,
    refuse_lost_numbers,
    stand_ins,
)
from edgeprune.network.coupling.tags import CONSTANT, FIXED, Tag

RULE_FILES = (rules_contract, rules_index, rules_move, rules_pointwise, rules_reduce)
_OWN_FOLDERS = tuple(f"{path}{os.sep}" for path in (Path(torch.__file__).parent, Path(__file__).parents[1]))
# What the code of a network raises when sizes do not fit.
FAILURES = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError, ArithmeticError)
_SLOT = "_edgeprune_tag"


@dataclass(frozen=True, slots=True)
class Step:
    """One operation that was run: its name, the shape and labels of each of its results, numbers that follow."""

    name: str
    module: str
    shapes: tuple[tuple[int, ...], ...]
    parts: tuple[tuple[Tensor, ...] | None, ...]  # None: of any size
    literals: tuple[tuple[str, int, Tensor], ...] = ()


@dataclass
class Trace:
    """All that one run taught: the ledger, the atoms of each parameter axis, and every operation in order.

    `inputs` are what the network ran on: the example inputs, or stand-ins for them.
    """

    ledger: Ledger
    inputs: tuple[Any, ...] = ()
    axes: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: frozenset[str] = frozenset()
    steps: list[Step] = field(default_factory=list)


class Ride(TorchDispatchMode):
    """Beside each tensor keeps its labels; parameters and buffers get fresh atoms when first touched."""

    def __init__(self, model: nn.Module, modules: list[str], inputs: tuple[Any, ...], most_macs: float) -> None:
        """Know the names of the model's tensors; `modules` is the stack of running modules."""
        super().__init__()  # type: ignore[no-untyped-call]  # of PyTorch
        self.trace = Trace(Ledger(), inputs, parameters=frozenset(name for name, _ in model.named_parameters()))
        self._most_macs = most_macs
        self._modules = modules
        named = [*model.named_parameters(), *model.named_buffers()]
        self._names = {id(tensor): name for name, tensor in reversed(named)}
        self._alive = [tensor for _, tensor in named]
        kinds = (nn.RNNBase, nn.RNNCellBase)
        self._recurrent = {name for name, module in model.named_modules() if isinstance(module, kinds)}
        self._own: dict[int, Tag] = {}
        self._given: set[int] = set()  # the tensors that the running rule has labelled

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        space, _, name = func._schema.name.partition("::")
        if space == "prim":  # questions that only stand-ins pass on, such as for their device
            return out
        if name.endswith("_"):
            refuse_lost_numbers(args[0], out)
        module = self._modules[-1] if self._modules else ""
        call = Call(name, func, args, kwargs, out, self.trace.ledger, module, self.tag_of, self.set_tag, locate)
        rule = RULES.find("lstm" if module in self._recurrent else name, func)
        self._given.clear()
        if rule is None:
            call.give_up(f"the operation {func} is not known")
        else:
            rule(call)
        if self.trace.ledger.macs > self._most_macs:
            raise HeavyRunError
        results = tensors_in(out)
        shapes = tuple(tuple(tensor.shape) for tensor in results)
        tags = [self.tag_of(tensor) if id(tensor) in self._given else CONSTANT for tensor in results]
        parts = tuple(None if tag.kind == "constant" else tag.parts for tag in tags)
        self.trace.steps.append(Step(name, module, shapes, parts, tuple(call.literals)))
        return out

    def tag_of(self, tensor: Tensor) -> Tag:
        """The labels of a tensor; parameters and buffers are labelled at first sight."""
        key = id(tensor)
        if key in self._names:
            if key not in self._own:
                self._own[key] = self._labelled(tensor, self._names[key])
            return self._own[key]
        slot: tuple[Ledger, Tag] | None = getattr(tensor, _SLOT, None)
        return slot[1] if slot is not None and slot[0] is self.trace.ledger else FIXED

    def set_tag(self, tensor: Tensor, tag: Tag) -> None:
        """Label a tensor."""
        self._given.add(id(tensor))
        if id(tensor) in self._names:
            self._own[id(tensor)] = tag
        else:
            setattr(tensor, _SLOT, (self.trace.ledger, tag))

    def _labelled(self, tensor: Tensor, name: str) -> Tag:
        parts, axes, start = [], {}, self.trace.ledger.count
        for axis, size in enumerate(tensor.shape):
            if size > 1:
                axes[axis] = self.trace.ledger.fresh(size)
                shape = [1] * tensor.ndim
                shape[axis] = size
                parts.append(axes[axis].reshape(shape))
        if name not in self.trace.parameters:
            self.trace.ledger.tables += [start, self.trace.ledger.count]
        self.trace.axes[name], self.trace.shapes[name] = axes, tuple(tensor.shape)
        return Tag(tuple(parts), "weight", name if name in self.trace.parameters else "")


def locate() -> str:
    """The file and line of the network's own code that is running, "" where none is."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_OWN_FOLDERS) and not name.startswith("<frozen"):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]  # the loop ends where there is no caller
    return ""


@contextmanager
def running_modules(model: nn.Module) -> Iterator[list[str]]:
    """A stack of the names of the modules that are running, the innermost last."""
    names = {id(module): name for name, module in model.named_modules()}
    stack: list[str] = []

    def enter(module: nn.Module, _: Any) -> None:
        if id(module) in names:
            stack.append(names[id(module)])

    def leave(module: nn.Module, *_: Any) -> None:
        if id(module) in names:
            stack.pop()

    handles = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no fused attention path; all as it was afterwards, random numbers too."""
    training = [module for module in model.modules() if module.training]
    fast = torch.backends.mha.get_fastpath_enabled()
    state = torch.random.get_rng_state()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), own_attention(model):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.random.set_rng_state(state)
        for module in training:
            module.training = True


def as_inputs(example_inputs: Any) -> tuple[Any, ...]:
    """The positional arguments of a forward: a tensor alone, or a tuple or list of them."""
    return tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)


def forward(model: nn.Module, example_inputs: Any) -> Any:
    """Run the network; raises ModelError that repeats what the network itself complained about."""
    inputs = as_inputs(example_inputs)
    try:
        return model(*inputs)
    except HeavyRunError:
        raise
    except Exception as error:  # the code of a network may raise anything
        code = getattr(type(model).forward, "__code__", None)
        defined = f"{code.co_filename}:{code.co_firstlineno}" if code else ""
        raise ModelError(
            f"The network fails on the example inputs ({_shapes(inputs)}) before anything was cut: "
            f"{type(error).__name__}: {first_line(error)} (at {raised_at(error, defined)}). "
            f"Give example_inputs that its forward accepts."
        ) from error


def _shapes(inputs: tuple[Any, ...]) -> str:
    return ", ".join(str(tuple(v.shape)) if isinstance(v, Tensor) else type(v).__name__ for v in inputs)


def first_line(error: BaseException) -> str:
    """What an error says, without the lists of possible signatures that PyTorch adds."""
    return (str(error).splitlines() or [""])[0]


def raised_at(error: BaseException, otherwise: str = "") -> str:
    """The file and line of the network's own code where an error arose; `otherwise` where none of it ran."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_OWN_FOLDERS)]
    if not own and otherwise:
        return otherwise
    chosen = own[-1] if own else frames[-1]
    return f"{chosen.filename}:{chosen.lineno}"


Run = Callable[[nn.Module, tuple[Any, ...], Ride], Any]


def _plainly(model: nn.Module, inputs: tuple[Any, ...], _: Ride) -> Any:
    return forward(model, inputs)


def trace_network(model: nn.Module, example_inputs: Any, run: Run = _plainly) -> Trace:
    """Run the network once, labels riding along; the network is left as it was.

    A network that computes much runs on stand-ins for its inputs, unless it looks at numbers. Raises ModelError
    for what is no network, for inputs without a tensor, and where the network fails on them.
    """
    inputs = as_inputs(example_inputs)
    if not isinstance(model, nn.Module):
        raise ModelError(f"The network is a {type(model).__name__}. Give a torch.nn.Module.")
    if not tensors_in(inputs):
        raise ModelError(
            f"The example inputs ({_shapes(inputs)}) hold no tensor. Give a tensor, or a tuple of what forward takes."
        )
    with evaluating(model):
        try:
            return _ridden(model, inputs, run, MOST_MACS)
        except HeavyRunError:
            pass
        try:
            with attributes_kept(model):
                return _ridden(model, stand_ins(inputs), run)
        except (ModelError, *FAILURES):
            return _ridden(model, inputs, run)


def _ridden(model: nn.Module, inputs: tuple[Any, ...], run: Run, most_macs: float = math.inf) -> Trace:
    with running_modules(model) as stack:
        ride = Ride(model, stack, inputs, most_macs)
        with ride:
            out = run(model, inputs, ride)
        for tensor in outputs_in(out):
            for part in ride.tag_of(tensor).parts:
                ride.trace.ledger.pins.append((flat(part), OUTPUT))
    return ride.trace


OUTPUT = Reason("these channels are the network's output", "output", "", "", "")


def outputs_in(value: Any, depth: int = 4) -> list[Tensor]:
    """All tensors that a forward returned, those inside objects included."""
    if isinstance(value, (Tensor, list, tuple, dict)):
        if isinstance(value, Tensor):
            return [value]
        items: Sequence[Any] = list(value.values()) if isinstance(value, dict) else list(value)
    else:
        items = list(vars(value).values()) if hasattr(value, "__dict__") else []
    return [tensor for item in items for tensor in outputs_in(item, depth - 1)] if depth else []
