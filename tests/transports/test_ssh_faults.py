"""Real faults during a real benchmark: each ends in a resumed run or in one error, and leaves nothing behind."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks import ssh_faults, ssh_stage
from benchmarks.loopback_board import missing_program

# What takes long and differs little from another one; `python -m benchmarks.ssh_faults` plays all.
LEFT_TO_THE_BENCHMARK = {
    "agent_paused",
    "keeper_killed",
    "keeper_stopped",
    "link_gone",
    "packets_lost",
    "second_client",
    "sshd_gone",
}
SAID = {
    "disk_full": "is full: ",
    "no_python": "There is no Python on ssh://",
    "no_engine": "-m pip install 'onnxruntime>=1.14' 'numpy'",
    "host_key_unknown": "Connect once by hand with ssh -p ",
    "host_key_changed": 'ssh-keygen -f "BOARD/known_hosts" -R ',
    "agent_killed": "was killed by signal 9",
    "agent_stopped": "was killed by signal 9 after its 4 s",
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    ssh_stage.write_network(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [fault for fault in ssh_faults.FAULTS if fault.name not in LEFT_TO_THE_BENCHMARK],
    ids=lambda fault: fault.name,
)
def test_a_fault_ends_in_a_resumed_run_or_one_error(fault, artifact):
    if (reason := missing_program() or ssh_faults.reason_to_skip(fault)) is not None:
        pytest.skip(reason)
    outcome = ssh_faults.play(fault, artifact)
    assert ssh_faults.is_as_it_must_be(fault, outcome), outcome
    assert SAID.get(fault.name, "") in outcome.said


def test_every_fault_has_its_row():
    outcome = ssh_stage.Outcome("resumed", 0, "a | b", 8, 1.0, ())
    lines = ssh_faults.table([(fault, outcome) for fault in ssh_faults.FAULTS]).splitlines()
    assert len([line for line in lines if line.endswith("| a \\| b |")]) == len(ssh_faults.FAULTS)


def test_what_is_left_or_lost_is_not_as_it_must_be():
    fault = ssh_faults.FAULTS[0]
    good = ssh_stage.Outcome(fault.ending, 0, "", 8, 1.0, ())
    assert ssh_faults.is_as_it_must_be(fault, good)
    for worse in ({"left": ("process 1",)}, {"blocks": 7}, {"ending": "finished"}, {"exit_code": 4}):
        assert not ssh_faults.is_as_it_must_be(fault, dataclasses.replace(good, **worse))
