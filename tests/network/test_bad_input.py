"""What cannot be done is refused by one clear error, and the caller's network stays as it was."""

import pytest
import torch
from torch import nn

from edgeprune.errors import ModelError, PlanError, UnknownNameError
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.structure import channel_groups
from edgeprune.network.surgery import apply, fixed_size
from tests.hashing import hashed
from tests.network.random_networks import RandomNetwork
from tests.small_networks import Plain

PICTURES = torch.zeros(2, 3, 8, 8)


class Failing(nn.Module):
    """Its layers do not fit each other, or its code raises an error of its own."""

    def __init__(self, error=None):
        super().__init__()
        self.a, self.b, self.error = nn.Conv2d(3, 4, 1), nn.Linear(5, 2), error

    def forward(self, x):
        if self.error is not None:
            raise self.error
        return self.b(self.a(x).mean((2, 3)))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x, y):
        return self.b(self.a(x) + self.a(y))


ROW = torch.zeros(1, 3)
HERE = r"at .*test_bad_input.py:\d+"
BAD_INPUTS = {
    "fails": (Failing(), PICTURES, rf"fails on the example inputs \(\(2, 3, 8, 8\)\).*cannot be multiplied.*{HERE}"),
    "raises": (Failing(OSError("no file")), PICTURES, rf"OSError: no file \({HERE}\)"),
    "too few": (TwoInputs(), ROW, rf"missing 1 required positional argument: 'y' \({HERE}\)"),
    "too many": (TwoInputs(), (ROW, ROW, ROW), rf"takes 3 positional arguments but 4 were given \({HERE}\)"),
    "channels": (Plain(), torch.zeros(1, 5, 8, 8), r"\(\(1, 5, 8, 8\)\).*expected input.*to have 3 channels"),
    "axes": (Plain(), ROW[0], r"\(\(3,\)\).*Expected 3D"),
    "numbers": (Plain(), PICTURES.long(), "Input type"),
    "nothing": (Plain(), (), r"The example inputs \(\) hold no tensor. Give a tensor"),
    "no tensor": (Plain(), PICTURES.numpy(), r"The example inputs \(ndarray\) hold no tensor"),
}


@pytest.mark.parametrize(("network", "inputs", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
@pytest.mark.parametrize("via", ["modules", "export"])
def test_a_run_that_fails_is_repeated_and_nothing_is_touched(network, inputs, message, via):
    before = hashed(network)
    for work in (channel_groups, fixed_size, lambda *given: apply(Plan(), *given, via=via)):
        with pytest.raises(ModelError, match=message) as refusal:
            work(network, inputs)
        assert "\n" not in str(refusal.value)
    assert hashed(network) == before


def test_what_is_no_network_is_refused():
    with pytest.raises(ModelError, match=r"The network is a dict\. Give a torch\.nn\.Module\."):
        channel_groups({}, PICTURES)


PADDED = RandomNetwork([("padded", 8, "batch", 0)], "pool")
GIVEN = PruneChannels("conv1", (0,))
BAD_PLANS = {
    "empty": (Plain(), [PruneChannels("conv1", ())], PlanError, "is empty. Keep at least one of its 8 units"),
    "too large": (Plain(), [PruneChannels("conv1", (0, 8))], PlanError, "holds unit 8, but its units are 0 to 7"),
    "negative": (Plain(), [PruneChannels("conv1", (-1, 2))], PlanError, "holds unit -1, but its units are 0 to 7"),
    "twice": (Plain(), [PruneChannels("conv1", (1, 1))], PlanError, "holds unit 1 twice"),
    "unsorted": (Plain(), [PruneChannels("conv1", (2, 1))], PlanError, "is not in ascending order"),
    "fraction": (Plain(), [PruneChannels("conv1", (0, 1.5))], PlanError, "holds 1.5, which is no unit number"),
    "bool": (Plain(), [PruneChannels("conv1", (0, True))], PlanError, "holds True, which is no unit number"),
    "group twice": (Plain(), [GIVEN, GIVEN], PlanError, "prunes group 'conv1' twice"),
    "unknown": (Plain(), [PruneChannels("conv3", (0,))], UnknownNameError, r"Unknown group 'conv3'\. Did you mean"),
    "unequal": (
        PADDED, [PruneChannels("blocks.0.conv", (0, 1, 4))], PlanError,
        r"keeps \[2, 1\] units of its 2 blocks.*padded equally on both sides",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("network", "edits", "kind", "message"), BAD_PLANS.values(), ids=BAD_PLANS)
@pytest.mark.parametrize("via", ["modules", "export", "auto"])
def test_a_wrong_plan_is_refused_and_nothing_is_touched(network, edits, kind, message, via):
    before = hashed(network)
    with pytest.raises(kind, match=message):
        apply(Plan(tuple(edits)), network, PICTURES, via=via)
    assert hashed(network) == before


def test_an_unknown_way_to_cut_is_refused():
    with pytest.raises(UnknownNameError, match="way to cut"):
        apply(Plan((GIVEN,)), Plain(), PICTURES, via="magic")
