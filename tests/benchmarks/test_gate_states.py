"""Every state of a finished run has its exit code and one line that says what is the matter."""

import pytest
from gate_runs import export, write_gate_run

from benchmarks.gate_states import ask, states_of
from edgeprune.verdict.gate_limits import METRICS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    return write_gate_run(folder / "run", export(folder)).path


def test_every_state_has_its_exit_code_and_one_line(run, tmp_path):
    states = states_of(run)
    for number, state in enumerate(states):
        folder = tmp_path / str(number)
        folder.mkdir()
        answer = ask(state, run, folder)
        assert answer.exit_code == state.exit_code, (state.name, answer)
        assert answer.exit_code != 2 or answer.lines == 1, (state.name, answer)
    assert {state.name for state in states} >= {f"fail, {name}" for name in METRICS}
