"""The commands of a newcomer against real arm64 programs over real ssh."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from edgeprune.cli import build_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FAMILIES = {"cortex-a72": "raspberry-pi-4", "cortex-a76": "raspberry-pi-5"}


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(build_app(), [*map(str, arguments), "--json"])
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


@pytest.fixture
def lab(arm64, tmp_path, monkeypatch):
    """The board as two targets of the user's: `lab` of its own family, `lab-onnx` for ONNX Runtime."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with arm64.on_path():
        for name, family in (("lab", FAMILIES[arm64.name]), ("lab-onnx", "linux-arm64")):
            run("targets", "add", name, "--like", family, "--address", arm64.url, "--kind", "emulated")
        yield arm64


def findings(name, exit_code=0):
    return {found["check"]: found for found in run("doctor", name, exit_code=exit_code)["findings"]}


def test_the_doctor_knows_the_board_and_the_fault_of_its_core(lab):
    found = findings("lab")
    assert found["board"]["message"].startswith(FAMILIES[lab.name].replace("-", " ").title())
    assert found["kind"]["message"] == "This board is emulated: its times mean nothing."
    assert found["governor"]["severity"] == "warning"
    assert ("known trap" in found) == (lab.name == "cortex-a72")


def test_the_doctor_sees_throttling_and_mends_the_governor(lab):
    throttled = lab.files / "sys/devices/platform/soc/soc:firmware/get_throttled"
    governor = lab.files / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    throttled.write_text("50005\n")
    try:
        assert findings("lab", exit_code=4)["throttling"]["message"].endswith("under-voltage, throttled.")
    finally:
        throttled.write_text("0\n")
    said = run("doctor", "lab", "--fix")  # two sessions on the board at one time
    assert said["fixed"] == {"changed": ["governor"], "problems": []}
    assert [found["severity"] for found in said["findings"] if found["check"] == "governor"] == ["ok"]
    assert governor.read_text().strip() == "ondemand"
