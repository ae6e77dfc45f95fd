"""The source of the package as paths and syntax trees, for tests that read code instead of running it."""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "edgeprune"
PLUGIN_FOLDERS = ("methods", "controllers", "runtimes", "transports")


@dataclass(frozen=True)
class Source:
    """One Python file of the repository; `path` is relative to its root."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def module(self):
        """The dotted name."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self):
        """The folder inside the package, "" for the top level."""
        return self.path.parts[1] if len(self.path.parts) > 2 else ""

    @property
    def is_plugin(self):
        """Whether the registry lists this file."""
        return self.room in PLUGIN_FOLDERS and not self.path.name.startswith("_")

    def imports(self):
        """Yield the modules that are imported anywhere in the file, but for types only."""
        skipped = {id(node) for block in _type_checking_blocks(self.tree) for node in ast.walk(block)}
        for node in ast.walk(self.tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _type_checking_blocks(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from node.body


def _read(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield Source(path.relative_to(ROOT), text, ast.parse(text))


@pytest.fixture(scope="session")
def sources():
    """Every file of the package and of the benchmarks."""
    return [*_read("edgeprune"), *_read("benchmarks")]
