from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune import registry
from edgeprune.errors import UnknownNameError, UsageError


def test_every_plugin_has_a_name_from_its_file_and_a_sentence() -> None:
    for kind in registry.KINDS:
        for name, entry in registry.entries(kind).items():
            assert entry.path.stem.replace("_", "-") == name
            assert entry.problem == ""
            assert entry.summary.endswith(".")


@pytest.fixture
def plugin_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "methods").mkdir()
    monkeypatch.setattr(registry, "_ROOT", tmp_path)
    return tmp_path / "methods"


def test_a_file_is_listed_without_being_run(plugin_root: Path) -> None:
    (plugin_root / "new_one.py").write_text('"""Does something."""\nraise SystemExit("ran")\n')
    assert registry.entries("methods")["new-one"].summary == "Does something."


def test_a_broken_file_stays_listed_with_its_reason(plugin_root: Path) -> None:
    (plugin_root / "broken.py").write_text("def (:\n")
    assert "SyntaxError" in registry.entries("methods")["broken"].problem


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown method 'tayler'\. Did you mean 'taylor'\?"):
        registry.load("methods", "tayler")


@pytest.mark.parametrize("body", ["", "class A: pass\nclass B: pass\n"])
def test_a_plugin_file_holds_exactly_one_public_class(tmp_path: Path, body: str) -> None:
    import importlib.util

    path = tmp_path / "odd.py"
    path.write_text(body)
    spec = importlib.util.spec_from_file_location("odd", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(UsageError, match="exactly one public class"):
        registry.plugin_class(module)
