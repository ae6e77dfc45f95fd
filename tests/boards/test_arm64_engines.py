"""Real aarch64 wheels of the engines give the outputs of this machine on the cores of Raspberry Pi 4 and 5."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import Residual, randomise

from edgeprune import registry
from edgeprune.bench import agent
from edgeprune.contracts import BuildRequest
from edgeprune.network.export import export_network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
_AGENT = Path(agent.__file__)
_ILLEGAL_INSTRUCTION = 128 + 4


@pytest.fixture(scope="module", params=["onnxruntime", "litert"])
def job(request, tmp_path_factory):
    """An artifact, its runtime's file, and inputs."""
    if request.param == "litert":
        pytest.importorskip("litert_torch", reason="litert-torch is not installed: pip install 'edgeprune[litert]'")
    folder = tmp_path_factory.mktemp(request.param)
    inputs = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    exported = export_network(randomise(Residual(16)), (inputs,), folder, simplify=False)
    artifact = folder / f"artifact.{registry.load('runtimes', request.param).format}"
    order = BuildRequest(exported.exported_program, exported.onnx, (inputs.numpy(),), "fp32", {"threads": 1})
    registry.load("runtimes", request.param)().build(order, artifact)
    np.savez(folder / "inputs.npz", input_0=inputs.numpy()[None])
    return artifact, registry.entries("runtimes")[request.param].path, folder / "inputs.npz"


def outputs(lines):
    events = [json.loads(line) for line in lines.splitlines()]
    (arrays,) = [event["arrays"] for event in events if event["event"] == "outputs"]
    return [np.frombuffer(base64.b64decode(array["data"]), array["type"]) for array in arrays]


def test_outputs_are_those_of_this_machine(arm64, job):
    arm64.send(_AGENT, *job)
    artifact, runtime, inputs = job
    asked = ("run", "--runtime", runtime.name, "--artifact", artifact.name, "--inputs", inputs.name)
    there = arm64.ssh("python3", "-I", _AGENT.name, *asked)
    assert there.returncode == 0, there.stderr
    asked = ("run", "--runtime", runtime, "--artifact", artifact, "--inputs", inputs)
    here = subprocess.run([sys.executable, "-I", _AGENT, *asked], capture_output=True, text=True, check=True)
    for board, host in zip(outputs(there.stdout), outputs(here.stdout), strict=True):
        assert np.abs(host).max() > 1e-3
        np.testing.assert_allclose(board, host, rtol=1e-4, atol=1e-5)


def test_the_board_is_what_it_says(arm64):
    assert arm64.ssh("uname -m; cat /etc/edgeprune-kind").stdout.split() == ["aarch64", "emulated"]


@pytest.mark.parametrize("job", ["litert"], indirect=True)
def test_an_engine_that_needs_newer_cores_ends_with_an_illegal_instruction(arm64, job):
    """The fault is the library's own: the interpreter that edgeprune uses works on the same file on both cores."""
    arm64.send(job[0])
    code = "from ai_edge_litert.compiled_model import CompiledModel as C; C.from_file('artifact.tflite')"
    done = arm64.ssh(f'python3 -I -c "{code}"; exit $?')  # a shell that stays turns the signal into a status
    assert done.returncode == (_ILLEGAL_INSTRUCTION if arm64.name == "cortex-a72" else 0), done.stderr
