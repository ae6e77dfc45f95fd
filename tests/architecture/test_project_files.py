"""What is published names nobody and leads to nobody's machine; what is needed is there."""

import re
import stat
import tomllib
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PLACES = re.compile(r"(?<![\w.])/(?:root|work|tmp|home/(?!user\b)|Users)\b/?[^\s'\"`)]*")
_PUBLISHED = [
    path
    for pattern in (
        "*.md",
        "*.toml",
        "*.txt",
        "Makefile",
        "Dockerfile",
        ".ci/run",
        "benchmarks/**/*.json",
        "deploy/**/*",
    )
    for path in sorted(_ROOT.glob(pattern))
    if path.is_file()
]


@pytest.mark.parametrize("path", _PUBLISHED, ids=lambda path: path.relative_to(_ROOT).as_posix())
def test_no_path_of_a_machine_is_published(path):
    assert _PLACES.findall(path.read_text(encoding="utf-8")) == []


def test_the_search_finds_such_paths():
    assert _PLACES.findall("see /root/x, '/home/jane/y' and /tmp/z") == ["/root/x,", "/home/jane/y", "/tmp/z"]
    assert _PLACES.findall("WORKDIR /home/user, docs/home/x, a /usr/bin/env") == []


def test_every_direct_dependency_is_pinned_for_development():
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    wanted = {re.match(r"[\w-]+", line)[0].lower() for line in [*project["dependencies"], *extras]}
    lines = (_ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    assert wanted <= pinned


def test_templates_targets_and_types_are_packaged():
    data = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["edgeprune"]
    packaged = {path for pattern in data for path in (_ROOT / "edgeprune").glob(pattern)}
    everything = {
        path for path in (_ROOT / "edgeprune").rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert everything <= packaged


def test_the_entry_of_continuous_integration_is_executable():
    assert (_ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR


def test_the_licence_is_the_whole_one():
    text = (_ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
