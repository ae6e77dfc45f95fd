"""What may be imported where: no heavy package outside the rooms that work with networks, no room reaching across."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "ai_edge_litert",
    "litert_torch",
    "matplotlib",
    "scipy",
    "tensorrt",
)
# These files work with the network itself; everything else must start on a machine without torch.
_NEEDS_TORCH = ("edgeprune/network/", "edgeprune/methods/", "edgeprune/run/")
_NEEDS_TORCH_FILES = {"edgeprune/api.py", "edgeprune/loop.py", "edgeprune/demo.py"}
_LIGHT_NETWORK = {
    f"edgeprune/network/{name}.py"
    for name in ("__init__", "groups", "layer_times", "moments", "plan", "selection", "steps")
}
_BLOCKED_IMPORT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy!r}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocked())
import {module}
"""
# Data that rooms hand to each other: no behaviour of the room comes with it.
_SHARED_DATA = {
    "edgeprune.network.groups",
    "edgeprune.network.plan",
    "edgeprune.network.selection",
    "edgeprune.bench.layer_cost",
    "edgeprune.bench.layer_shape",
    "edgeprune.bench.measurement",
    "edgeprune.verdict.budget",
}
_ROOMS = ("network", "bench", "verdict")
# Carried to a board, like the runtimes: nothing but the standard library of Python 3.8 is at hand there.
_BOARD_FILES = {f"edgeprune/bench/{name}.py" for name in ("agent", "telemetry", "checkup")}
# Carried together, so that they may import each other.
_SSH_BOARD_FILES = "edgeprune/transports/_ssh_board"


def _light_modules():
    for path in sorted((_ROOT / "edgeprune").rglob("*.py")):
        name = path.relative_to(_ROOT).as_posix()
        if name in _LIGHT_NETWORK or not (name.startswith(_NEEDS_TORCH) or name in _NEEDS_TORCH_FILES):
            parts = path.relative_to(_ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("module", list(_light_modules()))
def test_module_imports_without_heavy_packages(module):
    code = _BLOCKED_IMPORT.format(heavy=_HEAVY, module=module)
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_block_blocks():
    code = _BLOCKED_IMPORT.format(heavy=_HEAVY, module="edgeprune.network.surgery")
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=False)
    assert "blocked: torch" in done.stderr


def test_rooms_share_nothing_but_data(sources):
    wrong = []
    for source in sources:
        if source.room not in _ROOMS:
            continue
        others = tuple(f"edgeprune.{room}" for room in _ROOMS if room != source.room)
        for name in source.imports():
            is_data = any(name == shared or name.startswith(f"{shared}.") for shared in _SHARED_DATA)
            is_package = name in others or any(shared.startswith(f"{name}.") for shared in _SHARED_DATA)
            if name.startswith(others) and not is_data and not is_package:
                wrong.append(f"{source.path} imports {name}")
    assert wrong == []


def test_nobody_above_is_imported_from_a_room(sources):
    above = (
        "edgeprune.cli",
        "edgeprune.commands",
        "edgeprune.api",
        "edgeprune.loop",
        "edgeprune.run.",
        "edgeprune.demo",
    )
    rooms = {*_ROOMS, "methods", "controllers", "runtimes", "transports"}
    wrong = [
        f"{source.path} imports {name}"
        for source in sources
        if source.room in rooms
        for name in source.imports()
        if name.startswith(above)
    ]
    assert wrong == []


def test_board_files_import_nothing_of_ours(sources):
    board = [s for s in sources if s.is_plugin and s.room == "runtimes"]
    board += [s for s in sources if s.path.as_posix() in _BOARD_FILES or s.path.as_posix().startswith(_SSH_BOARD_FILES)]
    assert len(board) >= 2 + len(_BOARD_FILES) + 4
    for source in board:
        # What `build` needs runs on the workstation and may be imported there, inside the function.
        top = [node for node in source.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        ours = [node for node in top if "edgeprune" in ast.unparse(node)]
        assert [node for node in ours if "edgeprune.transports._ssh_board" not in ast.unparse(node)] == [], source.path


def test_nothing_runs_at_import(sources):
    quiet = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for source in sources:
        for node in source.tree.body:
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_guard = isinstance(node, ast.If) and ast.unparse(node.test) in {
                "TYPE_CHECKING",
                "__name__ == '__main__'",
            }
            assert isinstance(node, quiet) or is_text or is_guard, f"{source.path}:{node.lineno}: {ast.unparse(node)}"
