"""The core names no plug-in, and no plug-in names another: what combines follows from declared properties."""

import ast

import pytest

from edgeprune import registry

# Where a plug-in's name may stand as text, and why.
_EXCUSED = {
    ("edgeprune/commands/compress.py", "taylor"): "the default of --method",
    ("edgeprune/commands/compress.py", "knapsack"): "the default of --controller",
    ("edgeprune/commands/probe.py", "magnitude"): "the default of --method",
    ("edgeprune/commands/probe.py", "knapsack"): "the default of --controller",
    ("edgeprune/run/job.py", "taylor"): "the default of the library",
    ("edgeprune/run/job.py", "knapsack"): "the default of the library",
    ("edgeprune/api.py", "taylor"): "the default of the library",
    ("edgeprune/api.py", "knapsack"): "the default of the library",
    ("edgeprune/bench/target.py", "local"): "the default of a target that names no transport",
    ("edgeprune/transports/_ssh_command.py", "ssh"): "the program that the transport of that name runs",
    ("edgeprune/demo.py", "taylor"): "the demo shows the default",
}
# These are also the names of libraries, and of a kind of board; the network's proofs run the ONNX reference whatever
# the target.
_OTHER_MEANINGS = {"onnxruntime", "random", "emulated"}


@pytest.fixture(scope="module")
def names():
    return {name: kind for kind in registry.KINDS for name in registry.entries(kind)}


def test_there_are_plugins_to_look_for(names):
    assert {"magnitude", "taylor", "random", "bisect", "onnxruntime", "litert", "local"} <= set(names)


def test_no_file_imports_a_plugin(sources, names):
    wrong = []
    for source in sources:
        for name in source.imports():
            kind, _, plugin = name.removeprefix("edgeprune.").partition(".")
            if name.startswith("edgeprune.") and kind in registry.KINDS and plugin.partition(".")[0] in names:
                wrong.append(f"{source.path} imports {name}")
    assert wrong == []


def test_no_file_holds_the_name_of_a_plugin_as_text(sources, names):
    wrong = []
    for source in sources:
        if source.path.parts[0] != "edgeprune":
            continue
        own = source.path.stem.replace("_", "-") if source.is_plugin else None
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            text = node.value
            is_foreign = text in names and text != own and text not in _OTHER_MEANINGS
            if is_foreign and (source.path.as_posix(), text) not in _EXCUSED:
                wrong.append(f"{source.path}:{node.lineno}: {text!r} is one of the {names[text]}")
    assert wrong == []
