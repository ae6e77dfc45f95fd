"""One kit over every runtime file: what contracts.Runtime promises, whatever the engine."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import Residual, randomise

from edgeprune import registry
from edgeprune.bench import agent, checkup, telemetry
from edgeprune.contracts import BuildRequest
from edgeprune.network.export import export_network

RUNTIMES = registry.entries("runtimes")
_COMPANIONS = {name: getattr(registry.load("runtimes", name), "companions", ()) for name in RUNTIMES}
_BESIDE = [Path(importlib.util.find_spec(module).origin) for names in _COMPANIONS.values() for module in names]
_OURS = [Path(module.__file__) for module in (agent, checkup, telemetry)]
BOARD_FILES = [*(entry.path for entry in RUNTIMES.values()), *_BESIDE, *_OURS]
SETTINGS = {"threads": 1}


@pytest.fixture(scope="module", params=sorted(RUNTIMES))
def runtime(request):
    return registry.load("runtimes", request.param)()


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    return randomise(Residual())


@pytest.fixture(scope="module")
def artifact(runtime, network, inputs, tmp_path_factory):
    if runtime.unavailable():
        pytest.skip(runtime.unavailable())
    folder = tmp_path_factory.mktemp("built")
    exported = export_network(network, (inputs,), folder, simplify=False)
    out = folder / f"artifact.{runtime.format}"
    request = BuildRequest(exported.exported_program, exported.onnx, [(inputs.numpy(),)], "fp32", SETTINGS)
    try:
        runtime.build(request, out)
    except ValueError as error:
        if "not installed" not in str(error):
            raise
        pytest.skip(str(error))
    return str(out)


@pytest.mark.parametrize("path", BOARD_FILES, ids=str)
def test_board_files_are_python_3_8(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_the_board_half_and_its_companions_need_nothing_of_edgeprune(name, tmp_path):
    """As on a board: an interpreter that has no edgeprune gets the files under names that say nothing."""
    files = {module: tmp_path / f"{number}.py" for number, module in enumerate(_COMPANIONS[name])}
    for module, path in files.items():
        path.write_bytes(Path(importlib.util.find_spec(module).origin).read_bytes())
    runtime = tmp_path / "runtime.py"
    runtime.write_bytes(RUNTIMES[name].path.read_bytes())
    code = (
        "import json, runpy, sys; sys.modules['edgeprune'] = None; agent = runpy.run_path(sys.argv[1]);"
        "print(type(agent['load_runtime'](sys.argv[2], json.loads(sys.argv[3]))).__name__)"
    )
    beside = json.dumps({module: str(path) for module, path in files.items()})
    command = [sys.executable, "-I", "-c", code, agent.__file__, str(runtime), beside]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == registry.load("runtimes", name).__name__, done.stderr


def test_every_runtime_has_a_first_sentence_and_no_problem():
    assert RUNTIMES
    for entry in RUNTIMES.values():
        assert entry.summary.endswith(".")
        assert entry.problem == ""


def test_it_declares_what_it_is(runtime):
    assert runtime.format.isalnum()
    assert "fp32" in runtime.precisions
    assert all(isinstance(requirement, str) for requirement in runtime.requirements)


def test_the_board_half_loads_by_path(runtime):
    entry = next(e for name, e in RUNTIMES.items() if type(registry.load("runtimes", name)()) is type(runtime))
    assert type(agent.load_runtime(str(entry.path), {})).__name__ == type(runtime).__name__


def test_a_session_says_what_it_takes(runtime, artifact):
    session = runtime.open(artifact, SETTINGS)
    assert session.version
    assert [tuple(shape) for shape in session.input_shapes] == [(1, 3, 16, 16)]
    assert list(session.input_types) == ["float32"]


def test_it_computes_what_the_network_computes(runtime, artifact, network, inputs):
    outputs = runtime.open(artifact, SETTINGS).run([inputs.numpy()])
    with torch.no_grad():
        expected = network(inputs).numpy()
    assert len(outputs) == 1
    np.testing.assert_allclose(outputs[0], expected, atol=1e-4 * np.abs(expected).max())


def test_runs_do_not_disturb_each_other(runtime, artifact, inputs):
    session = runtime.open(artifact, SETTINGS)
    given = inputs.numpy().copy()
    (first,) = [np.array(output) for output in session.run([given])]
    (other,) = [np.array(output) for output in session.run([given + 1])]
    (again,) = session.run([given])
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    np.testing.assert_array_equal(given, inputs.numpy())


def test_a_result_survives_the_next_run(runtime, artifact, inputs):
    session = runtime.open(artifact, SETTINGS)
    (first,) = session.run([inputs.numpy()])
    copy = np.array(first)
    session.run([inputs.numpy() + 1])
    np.testing.assert_array_equal(first, copy)


def test_a_profile_is_milliseconds_by_layer_or_nothing(runtime, artifact, inputs):
    layers_ms = runtime.profile(artifact, SETTINGS, [inputs.numpy()])
    assert all(isinstance(name, str) and value_ms >= 0 for name, value_ms in layers_ms.items())


def test_a_precision_it_does_not_have_is_refused(runtime, tmp_path):
    request = BuildRequest(tmp_path / "model.pt2", tmp_path / "model.onnx", (), "fp3", SETTINGS)
    with pytest.raises(ValueError, match="fp3"):
        runtime.build(request, tmp_path / "out")
    assert not (tmp_path / "out").exists()
