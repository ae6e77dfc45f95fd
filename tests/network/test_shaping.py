"""A method in a training loop of one's own: what the caller is promised, and what a method may not do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import Residual, randomise
from torch import nn
from torch.nn import functional as F

import edgeprune as ep
from edgeprune import registry
from edgeprune.contracts import Context, Method
from edgeprune.errors import StepError, UsageError
from edgeprune.network.groups import Structure
from edgeprune.network.shaping import Shaping

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
INPUTS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_loop_of_ones_own_empties_the_units_before_they_are_cut():
    """The README's lines, on a network that learns two classes of noise."""
    ((example,),) = [re.findall(r"<!-- example: loops/own_loop.py -->\n```python\n(.*?)^```", README, re.S | re.M)]
    network = randomise(Residual())
    allocation = {"stem": 5, "blocks.0.conv1": 6}
    batches = [(INPUTS, torch.tensor([0, 1, 0, 1]))] * 400
    given = {"network": network, "example_inputs": INPUTS, "allocation": allocation, "batches": batches}
    variables = {"ep": ep, "torch": torch, "criterion": F.cross_entropy, **given}
    exec(example, variables)
    smaller = variables["smaller"]
    assert {name: smaller.get_submodule(name).out_channels for name in allocation} == allocation
    assert not network.training
    assert torch.allclose(smaller(INPUTS), network(INPUTS), atol=0.05)  # of outputs up to 7


class _Untidy(Method):
    """Adds a layer and forgets it."""

    trains = True

    def score(self, context: Context) -> Any:
        return {}

    def prepare(self, context: Context, allocation: Any) -> None:
        context.network.extra = nn.Linear(2, 2)


def test_a_method_that_leaves_something_behind_is_refused():
    shaping = Shaping(_Untidy(), Context(Residual(), (INPUTS,), Structure((), (), ()), None, 0), {}, 1)
    with pytest.raises(StepError, match=r"_Untidy changed 'extra\.bias' of the network"):
        shaping.finish()


def test_a_method_with_options_of_its_own_shapes_as_its_name_does():
    method = registry.load("methods", "growing-reg")(ceiling=3.0)
    assert ep.shape(Residual(), INPUTS, method=method, allocation={"stem": 5}, steps=4).method is method


def test_what_shapes_nothing_is_refused():
    with pytest.raises(UsageError, match=r"Magnitude does not shape a training"):
        ep.shape(Residual(), INPUTS, method="magnitude", allocation={}, steps=3)
    with pytest.raises(UsageError, match=r"A training of 0 steps"):
        ep.shape(Residual(), INPUTS, method="growing-reg", allocation={}, steps=0)
