"""Networks from files: every format, and every way in which a file can be wrong."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision_operators
from safetensors.torch import save_file
from small_networks import Residual, randomise
from torch import nn

from edgeprune.errors import ModelError
from edgeprune.network.model import load_model
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.structure import channel_groups
from edgeprune.network.surgery import apply

ARCH = "small_networks:Residual"
INPUT = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network() -> nn.Module:
    return randomise(Residual())


@pytest.fixture
def state_file(network, tmp_path) -> Path:
    path = tmp_path / "net.pt"
    torch.save(network.state_dict(), path)
    return path


def _save_pt2(network: nn.Module, path: Path) -> None:
    batch = ({0: torch.export.Dim("batch", min=1, max=512)},)
    torch.export.save(torch.export.export(network, (INPUT,), dynamic_shapes=batch), path)


def test_state_dict_gives_the_same_outputs_and_its_origin(network, state_file):
    model = load_model(state_file, ARCH)
    assert torch.equal(model.module(INPUT), network(INPUT))
    assert not model.module.training
    assert model.origin.sha256 == hashlib.sha256(state_file.read_bytes()).hexdigest()
    assert (model.origin.path, model.origin.arch, model.origin.format) == (state_file, ARCH, "state_dict")
    assert model.notes == ()


def test_safetensors_gives_the_same_outputs(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    model = load_model(tmp_path / "net.safetensors", ARCH)
    assert torch.equal(model.module(INPUT), network(INPUT))
    assert model.origin.format == "safetensors"


def test_the_file_is_left_untouched(state_file):
    state_file.chmod(0o444)
    before = state_file.read_bytes()
    model = load_model(state_file, ARCH)
    with torch.no_grad():
        model.module.linear.weight.zero_()
    assert state_file.read_bytes() == before


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_checkpoint_of_a_training_script_is_unwrapped_with_a_note(network, tmp_path, key):
    wrapped = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({key: wrapped, "epoch": 7, "best": 0.9}, tmp_path / "net.pth")
    model = load_model(tmp_path / "net.pth", ARCH)
    assert torch.equal(model.module(INPUT), network(INPUT))
    assert f"{key!r}" in model.notes[0]
    assert "'module.'" in model.notes[1]


def test_missing_batch_norm_counters_are_no_error(network, tmp_path):
    old = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "net.pt")
    assert torch.equal(load_model(tmp_path / "net.pt", ARCH).module(INPUT), network(INPUT))


def test_half_precision_weights_are_converted_with_a_note(network, tmp_path):
    torch.save(
        {n: t.half() if t.is_floating_point() else t for n, t in network.state_dict().items()}, tmp_path / "n.pt"
    )
    model = load_model(tmp_path / "n.pt", ARCH)
    assert model.module.linear.weight.dtype == torch.float32
    assert "float16" in model.notes[0]


@pytest.mark.parametrize("training", [False, True])
def test_pt2_can_be_trained_evaluated_copied_and_exported_again(network, tmp_path, training):
    _save_pt2(network.train(training), tmp_path / "net.pt2")
    model = load_model(tmp_path / "net.pt2")
    loaded, expected = model.module, network.eval()(INPUT)
    assert model.origin.format == "pt2"
    assert torch.equal(model.example_inputs[0], INPUT)
    assert torch.allclose(loaded(INPUT), expected, atol=1e-6)
    assert {n for n, _ in loaded.named_parameters()} == {n for n, _ in network.named_parameters()}
    statistics = loaded.norm.running_mean.clone()
    copy.deepcopy(loaded).train()(INPUT)
    assert torch.equal(loaded.norm.running_mean, statistics)
    loaded.train()(INPUT[:2]).sum().backward()
    assert loaded.stem.weight.grad.abs().sum() > 0
    assert not torch.equal(loaded.norm.running_mean, statistics)
    again = torch.export.export(loaded.eval(), (INPUT,)).module()
    assert torch.allclose(again(INPUT), loaded(INPUT), atol=1e-6)


def test_pt2_has_the_same_groups_and_can_be_cut(network, tmp_path):
    _save_pt2(network, tmp_path / "net.pt2")
    loaded = load_model(tmp_path / "net.pt2").module
    groups = channel_groups(loaded, (INPUT,))
    assert [(group.name, group.slices) for group in groups] == [
        (group.name, group.slices) for group in channel_groups(network, (INPUT,))
    ]
    plan = Plan(tuple(PruneChannels(group.name, tuple(range(1, group.size))) for group in groups))
    assert torch.equal(apply(plan, loaded, (INPUT,))(INPUT), apply(plan, network, (INPUT,))(INPUT))


def test_pt2_brings_dropout_back_to_life(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.Dropout(0.5)).eval()
    _save_pt2(network, tmp_path / "net.pt2")
    loaded = load_model(tmp_path / "net.pt2").module
    assert torch.equal(loaded(INPUT), loaded(INPUT))
    loaded.train()
    assert not torch.equal(loaded(INPUT), loaded(INPUT))


def test_pickled_module_only_with_the_flag(network, tmp_path):
    torch.save(network, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"small_networks.*any code.*--trust-pickle"):
        load_model(tmp_path / "net.pt", ARCH)
    model = load_model(tmp_path / "net.pt", trust_pickle=True)
    assert torch.equal(model.module(INPUT), network(INPUT))
    assert model.origin.format == "pickle"


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (_spring, (str(self.path),))


def _spring(path: str) -> None:
    Path(path).write_text("code ran")


def test_reading_a_pickle_without_the_flag_runs_nothing(tmp_path):
    torch.save({"state_dict": _Trap(tmp_path / "sprung")}, tmp_path / "net.pt")
    with pytest.raises(ModelError, match="--trust-pickle"):
        load_model(tmp_path / "net.pt", ARCH)
    assert not (tmp_path / "sprung").exists()


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    operators = torchvision_operators.declare()
    yield pytest.importorskip("timm")
    del operators


def test_timm_names_a_network(tmp_path, timm):
    network = timm.create_model("resnet10t", num_classes=1000)
    torch.save(network.state_dict(), tmp_path / "net.pt")
    model = load_model(tmp_path / "net.pt", "timm:resnet10t")
    assert torch.equal(model.module.state_dict()["fc.weight"], network.fc.weight)
    with pytest.raises(ModelError, match=r"no such model\. Did you mean 'resnet10t'"):
        load_model(tmp_path / "net.pt", "timm:resnet10")


def test_shared_weights_that_safetensors_dropped_are_no_error(tmp_path, monkeypatch):
    (tmp_path / "tied.py").write_text(
        "from torch import nn\n"
        "def network():\n"
        "    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))\n"
        "    net[1].weight = net[0].weight\n"
        "    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    weights = {"0.weight": torch.eye(4), "0.bias": torch.zeros(4), "1.bias": torch.zeros(4)}
    save_file(weights, tmp_path / "tied.safetensors")
    loaded = load_model(tmp_path / "tied.safetensors", "tied:network").module
    assert torch.equal(loaded(torch.ones(1, 4)), torch.ones(1, 4))


FACTORIES = """
from torch import nn
def broken(): raise RuntimeError("no such depth")
def number(): return 3
def network(): return nn.Linear(2, 2)
size = 4
"""


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("nets", r"'nets' is not of the form package.module:factory"),
        ("netz:network", r"no module 'netz'.*Did you mean 'nets'"),
        ("nets:netwrok", r"has no 'netwrok'\. Did you mean 'network'"),
        ("nets:broken", r"raised RuntimeError: no such depth"),
        ("nets:number", r"returned a int, not a torch.nn.Module"),
        ("nets:size", r"size is a int, not a function"),
        ("needs:network", r"importing needs failed: No module named 'nowhere'"),
        ("wrong:network", r"importing wrong failed: .*ZeroDivisionError"),
        (None, r"holds weights only\. Add --arch"),
    ],
)
def test_wrong_arch_says_what_is_wrong(tmp_path, monkeypatch, arch, message):
    (tmp_path / "nets.py").write_text(FACTORIES)
    (tmp_path / "needs.py").write_text("import nowhere\n")
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "net.pt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_model("net.pt", arch)


def test_weights_that_do_not_fit_name_the_first_keys_and_shapes(network, tmp_path):
    weights = network.state_dict()
    weights["strange.weight"] = weights.pop("stem.weight")
    weights["linear.weight"] = torch.zeros(7, 8)
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(ModelError) as error:
        load_model(tmp_path / "net.pt", ARCH)
    message = str(error.value)
    assert "missing in the file: stem.weight" in message
    assert "unknown to the network: strange.weight" in message
    assert "linear.weight is (7, 8) in the file and (5, 8) in the network" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_weights_name_the_tensor(network, tmp_path, value):
    weights = network.state_dict()
    weights["blocks.0.norm1.weight"][3] = value
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"'blocks.0.norm1.weight' holds 1 of 10 values"):
        load_model(tmp_path / "net.pt", ARCH)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".pt2"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_files_are_one_clear_error(network, tmp_path, suffix, kept):
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"net{suffix}"
    if suffix == ".pt":
        torch.save(network.state_dict(), whole)
    elif suffix == ".pt2":
        _save_pt2(network, whole)
    else:
        save_file(network.state_dict(), whole)
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ModelError, match=rf"{re.escape(str(path))}.*(empty|cut short or damaged)"):
        load_model(path, ARCH)


def test_other_files_say_what_they_are_and_what_to_do(network, tmp_path, state_file):
    with pytest.raises(ModelError, match=r"nat\.pt does not exist\. Did you mean 'net\.pt'"):
        load_model(tmp_path / "nat.pt", ARCH)
    with pytest.raises(ModelError, match="is a folder"):
        load_model(tmp_path, ARCH)
    with pytest.raises(ModelError, match="Nor does the folder"):
        load_model(tmp_path / "no" / "net.pt", ARCH)
    torch.jit.trace(network, INPUT).save(tmp_path / "script.pt")
    with pytest.raises(ModelError, match=r"TorchScript.*state dict.*--arch"):
        load_model(tmp_path / "script.pt", ARCH)
    (tmp_path / "net.onnx").write_bytes(b"onnx")
    with pytest.raises(ModelError, match="ONNX file"):
        load_model(tmp_path / "net.onnx")
    torch.save({"epoch": 3, "optimiser": {}}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="holds a dict with epoch, optimiser, not a state dict"):
        load_model(tmp_path / "other.pt", ARCH)
