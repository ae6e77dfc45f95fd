"""What `edgeprune inspect` says of a network, and that it says beforehand which size its code fixes."""

import inspect
import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from edgeprune.cli import build_app


class Literal(nn.Module):
    """Writes the width of its own layer as a number."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x):
        return self.linear(torch.relu(self.conv(x)).mean((2, 3)).reshape(-1, 6))


_PLACE = f"test_inspect_command.py:{inspect.getsourcelines(Literal.forward)[1] + 1}"


class Plain(Literal):
    """Reads the width from the tensor."""

    def forward(self, x):
        return self.linear(torch.relu(self.conv(x)).mean((2, 3)).flatten(1))


def inspected(tmp_path, network, *flags):
    file = tmp_path / "network.pt"
    torch.save(network.state_dict(), file)
    arch = f"{__name__}:{type(network).__name__}"
    result = CliRunner().invoke(build_app(), ["inspect", str(file), "--arch", arch, "--input-size", "3x8x8", *flags])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_size_fixed_in_the_code_is_named_before_anything_is_cut(tmp_path):
    text = inspected(tmp_path, Literal())
    assert "100.0 % of the MACs can be cut" in text
    fixed = text[text.index("only in the exported graph: ") :]
    assert _PLACE in fixed
    assert "6 to 3" in fixed
    assert 'via="export"' in fixed
    data = json.loads(inspected(tmp_path, Literal(), "--json"))
    assert _PLACE in data["fixed_size"]
    assert [group["name"] for group in data["groups"]] == ["conv"]


def test_a_network_that_reads_its_sizes_has_no_such_line(tmp_path):
    network = Plain()
    assert "exported graph" not in inspected(tmp_path, network)
    assert json.loads(inspected(tmp_path, network, "--json"))["fixed_size"] == ""


@pytest.mark.parametrize("network", [Literal(), Plain()], ids=["literal", "plain"])
def test_the_drawing_is_written(tmp_path, network):
    inspected(tmp_path, network, "--graph", str(tmp_path / "couplings.svg"))
    assert (tmp_path / "couplings.svg").read_text().startswith("<svg")
