"""What the README says is true: links, commands, flags, exit codes, and the examples, which run."""

import ast
import importlib
import inspect
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import Residual

import edgeprune
from edgeprune import errors, registry
from edgeprune.bench.target import load_target
from edgeprune.contracts import BuildRequest, Context
from edgeprune.network.structure import network_structure
from edgeprune.settings import is_group

_ROOT = Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_EXAMPLE = re.compile(r"<!-- example: (\S+) -->\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
_EXAMPLES = dict(_EXAMPLE.findall(_README))
_LINES = [
    line.removeprefix("$ ").partition(" # ")[0]
    for kind, text in _BLOCK.findall(_README)
    if kind in {"console", "bash"}
    for line in text.splitlines()
    if line.startswith("$ ")
]
_COMMANDS = [line for line in _LINES if line.startswith("edgeprune ")]


def test_there_is_something_to_check():
    assert len(_COMMANDS) >= 5
    assert len(_EXAMPLES) == 4
    assert any(line.startswith("make demo") for line in _LINES)


@pytest.mark.parametrize("link", sorted(set(_LINK.findall(_README))))
def test_links_lead_somewhere(link):
    assert not link.startswith("/")
    assert link.startswith("https://") or (_ROOT / link.partition("#")[0]).exists()


@pytest.mark.parametrize("line", _COMMANDS)
def test_commands_and_flags_exist(line):
    import typer

    from edgeprune.cli import build_app

    program, name, *arguments = shlex.split(line)
    command = typer.main.get_command(build_app()).commands[name]
    if is_group(command) and arguments:
        command = command.commands[arguments.pop(0)]
    flags = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("-")}
    used = {argument for argument in arguments if argument.startswith("-")}
    assert program == "edgeprune"
    assert used <= flags | {"--help"}


def test_flags_in_the_text_exist():
    import typer

    from edgeprune.cli import build_app

    top = typer.main.get_command(build_app()).commands.values()
    commands = [*top, *(inner for command in top if is_group(command) for inner in command.commands.values())]
    flags = {flag for command in commands for parameter in command.params for flag in parameter.opts}
    foreign = {"--tag", "--rm"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", _README)) - foreign <= flags


def test_make_targets_exist():
    makefile = (_ROOT / "Makefile").read_text(encoding="utf-8")
    for line in _LINES:
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line


def test_exit_codes_are_those_of_the_errors():
    table = {int(code): text for code, text in re.findall(r"^\| (\d) \| (.*) \|$", _README, re.MULTILINE)}
    kinds = [value for value in vars(errors).values() if inspect.isclass(value) and hasattr(value, "exit_code")]
    assert set(table) == {0} | {kind.exit_code for kind in kinds}
    assert "budget" in table[errors.BudgetError.exit_code]
    assert "board" in table[errors.BoardError.exit_code]


def test_the_python_example_fits_the_library():
    (call,) = [
        node
        for kind, text in _BLOCK.findall(_README)
        if kind == "python" and "ep.compress" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ep.compress"
    ]
    names = [keyword.arg for keyword in call.keywords]
    inspect.signature(edgeprune.compress).bind(*call.args, **dict.fromkeys(names))
    for name in re.findall(r"\bep\.(\w+)", _README):
        assert hasattr(edgeprune, name)


def test_every_public_name_is_there_and_listed():
    assert edgeprune.__all__ == sorted(edgeprune.__all__, key=lambda name: (name[0].islower(), name))
    for name in edgeprune.__all__:
        assert getattr(edgeprune, name) is not None


@pytest.fixture
def installed_example(tmp_path, monkeypatch):
    """Make the README's method a package of its own, announced by an entry point as the README says."""
    folder = tmp_path / "my_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "largest_weight.py").write_text(_EXAMPLES["methods/largest_weight.py"])
    about = tmp_path / "my_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[edgeprune.methods]\nlargest-weight = my_package.largest_weight\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


def test_the_method_of_the_readme_is_found_and_keeps_its_contract(installed_example):
    entry = registry.entries("methods")["largest-weight"]
    assert entry.summary == "Removes the units whose largest weight is smallest."
    assert not entry.problem
    method = registry.load("methods", "largest-weight")()
    network, inputs = Residual().eval(), (torch.randn(1, 3, 16, 16),)
    structure = network_structure(network, inputs)
    scores = method.score(Context(network, inputs, structure, None, 0))
    assert {name: len(values) for name, values in scores.items()} == {g.name: g.size for g in structure.groups}
    assert all(min(values) > 0 for values in scores.values())
    group = max(structure.groups, key=lambda group: group.size)
    (edit,) = method.plan(structure, scores, {group.name: group.size // 2}).edits
    worst_kept = min(scores[group.name][unit] for unit in edit.keep)
    removed = [value for unit, value in enumerate(scores[group.name]) if unit not in edit.keep]
    assert len(edit.keep) == group.size // 2
    assert worst_kept >= max(removed)


def test_the_runtime_of_the_readme_computes_what_onnx_runtime_does(tmp_path):
    import onnx
    import onnxruntime

    text = _EXAMPLES["runtimes/reference.py"]
    ast.parse(text, feature_version=(3, 8))
    file = tmp_path / "reference.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location("reference", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    runtime = registry.plugin_class(module)()

    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> agraph (float[1, 3] x) => (float[1, 3] y) { y = Tanh(x) }'
    )
    onnx.save(model, tmp_path / "model.onnx")
    request = BuildRequest(tmp_path / "model.pt2", tmp_path / "model.onnx", (), "fp32", {})
    artifact = tmp_path / f"artifact.{runtime.format}"
    runtime.build(request, artifact)
    session = runtime.open(str(artifact), {"threads": 1})
    values = np.array([[-1.0, 0.5, 2.0]], dtype=np.float32)
    expected = onnxruntime.InferenceSession(artifact).run(None, {"x": values})[0]
    assert session.input_shapes == [(1, 3)]
    assert session.input_types == ["float32"]
    assert np.allclose(session.run([values])[0], expected, atol=1e-6)
    assert runtime.profile(str(artifact), {}, [values]) == {}


def test_the_board_of_the_readme_loads(tmp_path):
    file = tmp_path / "two-threads.toml"
    file.write_text(_EXAMPLES["targets/two-threads.toml"])
    target = load_target(file)
    assert (target.name, target.threads, target.channel_multiple) == ("two-threads", 2, 4)
