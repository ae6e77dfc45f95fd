from __future__ import annotations

import copy
import subprocess
import sys

import onnx
import pytest
import torch
from small_networks import Concatenated, Depthwise, Plain, Residual, randomise
from torch import nn

from edgeprune.errors import ExportError, StorageError, VerificationError
from edgeprune.network import export as export_module
from edgeprune.network import export_onnx
from edgeprune.network.divergence import first_difference
from edgeprune.network.export import export_network
from edgeprune.network.onnx_run import run_onnx
from edgeprune.network.parameter_counts import count_parameters
from edgeprune.network.parity import check_parity
from edgeprune.network.simplify import simplify_onnx

IMAGE = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)


class Tied(nn.Module):
    """Two layers share a weight, and a third is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


class Branching(nn.Module):
    """Its control flow depends on values, which torch.export refuses and tracing freezes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.unused = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) if x.sum() > 0 else self.unused(x)


class ManyEnds(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": a + b, "difference": a - b}


@pytest.mark.parametrize("kind", [Plain, Residual, Depthwise, Concatenated])
def test_both_files_compute_what_the_network_computes(tmp_path, kind):
    network = randomise(kind())
    exported = export_network(network, IMAGE, tmp_path, simplify=False)
    with torch.no_grad():
        expected = network(*IMAGE)
    program = torch.export.load(exported.exported_program)
    torch.testing.assert_close(program.module()(*IMAGE), expected)
    check_parity([expected.numpy()], run_onnx(onnx.load(exported.onnx), IMAGE), "onnx")
    count = sum(parameter.numel() for parameter in network.parameters())
    counts = exported.parameters
    assert (counts.network, counts.exported_program, counts.onnx, counts.unused) == (count, count, count, 0)
    assert exported.rung == "dynamo, opset 18"
    assert exported.warnings == ()


def test_the_network_is_untouched_and_exported_in_eval_mode(tmp_path):
    network = randomise(Residual()).train()
    before = copy.deepcopy(network.state_dict())
    exported = export_network(network, IMAGE, tmp_path, simplify=False)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    with torch.no_grad():
        expected = network.eval()(*IMAGE)
    check_parity([expected.numpy()], run_onnx(onnx.load(exported.onnx), IMAGE), "onnx")


def test_batch_norms_are_folded_and_layers_give_the_names(tmp_path):
    exported = export_network(randomise(Residual()), IMAGE, tmp_path, simplify=False)
    nodes = onnx.load(exported.onnx).graph.node
    assert "BatchNormalization" not in {node.op_type for node in nodes}
    assert [node.name for node in nodes if node.op_type in {"Conv", "Gemm"}] == [
        "stem",
        "blocks.0.conv1",
        "blocks.0.conv2",
        "blocks.1.conv1",
        "blocks.1.conv2",
        "linear",
    ]
    assert {"blocks.0.conv2/Add", "blocks.0.conv2/Relu"} <= {node.name for node in nodes}


def test_exporting_twice_gives_the_same_onnx(tmp_path):
    network = randomise(Residual())
    first, second = (export_network(network, IMAGE, tmp_path / name, simplify=False) for name in "ab")
    assert first.onnx.read_bytes() == second.onnx.read_bytes()


def test_no_path_of_the_user_is_in_the_files(tmp_path):
    exported = export_network(randomise(Residual()), IMAGE, tmp_path, simplify=True)
    here = str(tmp_path.parent).encode(), b"small_networks.py", sys.prefix.encode()
    import zipfile

    with zipfile.ZipFile(exported.exported_program) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    for content in (exported.onnx.read_bytes(), *contents):
        assert not any(text in content for text in here)


def test_ends_are_named_and_counted(tmp_path):
    inputs = (torch.randn(1, 3), torch.randn(1, 3))
    exported = export_network(ManyEnds(), inputs, tmp_path, simplify=False)
    assert exported.input_names == ("input_0", "input_1")
    assert exported.output_names == ("output_0", "output_1")
    graph = onnx.load(exported.onnx).graph
    assert tuple(end.name for end in graph.input) == exported.input_names
    assert tuple(end.name for end in graph.output) == exported.output_names


def test_tied_parameters_count_once_and_unused_ones_apart(tmp_path):
    exported = export_network(Tied().eval(), (torch.randn(1, 6),), tmp_path, simplify=False)
    counts = exported.parameters
    assert (counts.network, counts.unused, counts.exported_program, counts.onnx) == (60, 12, 60, 48)


def test_the_batch_is_that_of_the_example(tmp_path):
    exported = export_network(randomise(Plain()), (torch.randn(4, 3, 16, 16),), tmp_path, simplify=False)
    shape = onnx.load(exported.onnx).graph.input[0].type.tensor_type.shape
    assert [size.dim_value for size in shape.dim] == [4, 3, 16, 16]


# ---------------------------------------------------------------- the ladder


def test_a_network_that_cannot_be_followed_still_gives_onnx(tmp_path):
    said = []

    class Listener(export_module.Silent):
        def say(self, text: str) -> None:
            said.append(text)

    exported = export_network(Branching().eval(), (torch.ones(1, 4),), tmp_path, Listener(), simplify=False)
    assert exported.exported_program is None
    assert not (tmp_path / "model.pt2").exists()
    assert exported.rung == "torchscript, opset 18"
    assert "There is no model.pt2" in exported.warnings[0]
    assert said == list(exported.warnings)
    assert (exported.parameters.onnx, exported.parameters.unused) == (10, 10)


def test_a_program_of_an_earlier_export_does_not_stay_beside_another_onnx(tmp_path):
    export_network(nn.Linear(4, 2), (torch.ones(1, 4),), tmp_path, simplify=False)
    assert (tmp_path / "model.pt2").exists()
    export_network(Branching().eval(), (torch.ones(1, 4),), tmp_path, simplify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("kind", [Plain, Residual, Depthwise, Concatenated])
def test_every_lower_rung_computes_the_same(tmp_path, monkeypatch, kind):
    def refuse(*_):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(export_onnx, "_dynamo", refuse)
    network = randomise(kind())
    exported = export_network(network, IMAGE, tmp_path, simplify=True)
    assert exported.rung == "torchscript, opset 18"
    assert exported.simplified
    assert any("dynamo, opset 18: no such operator" in warning for warning in exported.warnings)
    model = onnx.load(exported.onnx)
    with torch.no_grad():
        check_parity([network(*IMAGE).numpy()], run_onnx(model, IMAGE), "onnx")
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == (kind is Concatenated)  # the norm over a concat has no convolution to be folded into


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("opset", [17, 13, 11])
def test_old_opsets_work(opset):
    network = randomise(Depthwise())
    with torch.no_grad():
        reference = (network(*IMAGE).numpy(),)
    job = export_onnx.OnnxJob(network, None, IMAGE, reference, ("input",), ("output",))
    draft = export_onnx._torchscript(opset, job)
    assert draft.model.opset_import[0].version == opset
    check_parity(reference, run_onnx(draft.model, IMAGE), "onnx")


def test_a_rung_that_computes_something_else_is_left(tmp_path, monkeypatch):
    honest = export_onnx._dynamo

    def broken(program, job):
        draft = honest(program, job)
        for tensor in draft.model.graph.initializer:
            if tensor.name == "blocks.1.conv1.weight":
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 1.5, tensor.name))
        return draft

    monkeypatch.setattr(export_onnx, "_dynamo", broken)
    exported = export_network(randomise(Residual()), IMAGE, tmp_path, simplify=False)
    assert exported.rung == "torchscript, opset 18"
    assert "differs by" in exported.warnings[0]
    assert "First at blocks.1.norm1 (Conv" in exported.warnings[0]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_first_difference_is_none_where_there_is_none():
    network = randomise(Residual())
    program = torch.export.export(network, IMAGE)
    written = torch.onnx.export(program, IMAGE, dynamo=True, verbose=False)
    assert first_difference(written.exported_program, written.model_proto, IMAGE) is None


def test_no_rung_left_is_an_error_with_every_reason(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("operator aten::strange is not supported\nand much more")

    monkeypatch.setattr(export_onnx, "_dynamo", refuse)
    monkeypatch.setattr(export_onnx, "_torchscript", refuse)
    with pytest.raises(ExportError) as refused:
        export_network(randomise(Plain()), IMAGE, tmp_path)
    assert str(refused.value).count("operator aten::strange is not supported") == 5
    assert "much more" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_lost_parameter_is_named():
    network = randomise(Plain())
    program = torch.export.export(network, IMAGE)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    with pytest.raises(VerificationError, match=r"model.onnx has no conv2.bias"):
        count_parameters(network, IMAGE, program, {name: n for name, n in sizes.items() if name != "conv2.bias"})
    with pytest.raises(VerificationError, match=r"has 7 elements in conv2.bias where the network has 12"):
        count_parameters(network, IMAGE, program, {**sizes, "conv2.bias": 7})
    narrower = randomise(Plain())
    narrower.conv1 = nn.Conv2d(3, 6, 3)
    with pytest.raises(
        VerificationError, match=r"model.pt2 has 216 elements in conv1.weight where the network has 162"
    ):
        count_parameters(narrower, IMAGE, program, {**sizes, "conv1.weight": 162})


# ---------------------------------------------------------------- simplifying


def test_simplifying_keeps_the_function(tmp_path):
    network = randomise(Residual())
    exported = export_network(network, IMAGE, tmp_path, simplify=True)
    assert exported.simplified
    with torch.no_grad():
        check_parity([network(*IMAGE).numpy()], run_onnx(onnx.load(exported.onnx), IMAGE), "onnx")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            lambda source, out, limit: "onnxsim did not finish in 120 s",
            "not simplified: onnxsim did not finish in 120 s",
        ),
        (lambda source, out, limit: _wrong_graph(source, out), "simplified against unsimplified ONNX"),
    ],
)
def test_the_unsimplified_graph_is_kept_where_simplifying_fails(tmp_path, monkeypatch, reply, said):
    monkeypatch.setattr(export_module, "simplify_onnx", reply)
    network = randomise(Residual())
    exported = export_network(network, IMAGE, tmp_path, simplify=True)
    assert not exported.simplified
    assert said in exported.warnings[0]
    with torch.no_grad():
        check_parity([network(*IMAGE).numpy()], run_onnx(onnx.load(exported.onnx), IMAGE), "onnx")


def _wrong_graph(source, out):
    model = onnx.load(source)
    weight = model.graph.initializer[0]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, weight.name))
    onnx.save(model, out)
    return ""


def test_the_simplifier_has_a_time_limit_and_says_what_it_refused(tmp_path):
    exported = export_network(randomise(Plain()), IMAGE, tmp_path, simplify=False)
    assert simplify_onnx(exported.onnx, tmp_path / "out.onnx", 0.01) == "onnxsim did not finish in 0.01 s"
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    assert simplify_onnx(broken, tmp_path / "out.onnx", 60.0).startswith("onnxsim failed: ")


# ---------------------------------------------------------------- the disk


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Could not write"):
        export_network(randomise(Plain()), IMAGE, tmp_path / "file" / "out", simplify=False)


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    code = f"""
import resource, torch
from pathlib import Path
from torch import nn
from edgeprune.errors import StorageError
from edgeprune.network.export import export_network
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    export_network(nn.Linear(200, 200), (torch.zeros(1, 200),), Path({str(tmp_path)!r}), simplify=False)
except StorageError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "refused: Could not write" in done.stdout, done.stderr[-800:]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.data
def test_a_real_network_goes_through(tmp_path, data_folder):
    from benchmarks.networks import resnet20

    network = resnet20().eval()
    network.load_state_dict(torch.load(data_folder / "cifar10-resnet20.pt", weights_only=True))
    exported = export_network(network, (torch.randn(1, 3, 32, 32),), tmp_path)
    assert exported.parameters.network == exported.parameters.onnx == 269_722
    assert exported.simplified
