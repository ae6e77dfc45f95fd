from __future__ import annotations

import pytest

from edgeprune.bench import inventory
from edgeprune.bench.link import check_usable, transport_of
from edgeprune.bench.target import list_targets, load_target
from edgeprune.errors import UnknownNameError, UsageError

LAB = '# the one on the left\n[lab]\nlike = "raspberry-pi-5"\naddress = "ssh://pi@10.0.0.5:2200"\nthreads = 2\n'


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Return the inventory of the user and that of the project; neither exists yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    user = inventory.user_file()
    user.parent.mkdir(parents=True)
    return user, inventory.PROJECT_FILE


def test_an_own_target_is_its_family_with_what_differs(files):
    files[0].write_text(LAB)
    family, own = load_target("raspberry-pi-5"), load_target("lab")
    assert (own.name, own.address, own.transport, own.threads) == ("lab", "ssh://pi@10.0.0.5:2200", "ssh", 2)
    assert (own.runtime, own.board, own.aliases) == (family.runtime, family.board, ())
    assert list_targets()["lab"].summary == "ssh://pi@10.0.0.5:2200, like raspberry-pi-5"
    assert transport_of(own).address == own.address


def test_the_project_wins_over_the_user(files):
    files[0].write_text(LAB)
    files[1].write_text(LAB.replace("threads = 2", "threads = 3"))
    assert load_target("lab").threads == 3


def test_adding_and_removing_keeps_what_else_stands_there(files):
    files[0].write_text(LAB)
    own = inventory.OwnTarget("bench.2", "jetson", {"address": "ssh://orin"}, files[0])
    inventory.add_target(own, list_targets())
    assert load_target("bench.2").name == "bench.2"
    assert load_target("bench.2").board == load_target("jetson").board
    assert inventory.remove_target("bench.2") == files[0]
    assert files[0].read_text().rstrip() == LAB.rstrip()
    with pytest.raises(UnknownNameError, match=r"Unknown target of your own 'bench.2'.* Known: lab"):
        inventory.remove_target("bench.2")


@pytest.mark.parametrize("name", ["lab", "host", "jetson"])
def test_a_name_that_is_taken_is_refused(files, name):
    files[0].write_text(LAB)
    own = inventory.OwnTarget(name, "jetson", {}, files[0])
    with pytest.raises(UsageError, match=f"There is a target '{name}' already"):
        inventory.add_target(own, list_targets())
    assert files[0].read_text() == LAB


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[lab]\naddress = 'ssh://x'\n", "does not say what it is like"),
        ("[lab]\nlike = 'raspbery-pi-5'\n", "Did you mean 'raspberry-pi-5'"),
        ("[lab]\nlike = 'jetson'\nthread = 2\n", "Did you mean 'threads'"),
        ("[lab\n", "cannot be read"),
        ("lab = 3\n", "does not say what it is like"),
        ("[lab]\nlike = 'jetson'\naddress = 'shh://x'\n", "Unknown transport 'shh'. Did you mean 'ssh'"),
        ("[lab]\nlike = 'jetson'\naddress = 'ssh://pi:secret@x'\n", "holds a password"),
        ("[lab]\nlike = 'jetson'\n", "Target lab needs an address"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(files, text, said):
    files[0].write_text(text)
    with pytest.raises(UsageError) as refused:
        transport_of(load_target("lab"))
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_family_without_an_address_says_how_to_add_one_and_what_else_can_be_tried():
    with pytest.raises(UsageError) as refused:
        check_usable(load_target("jetson"))
    said = str(refused.value)
    assert "\n" not in said
    assert "edgeprune targets add my-board --like jetson-orin-nano --address ssh://USER@HOST" in said
    assert said.endswith("or try it without a board: --target emulated-jetson-orin-nano")


def test_every_emulated_board_that_is_offered_is_there():
    offered = [name for name in list_targets() if f"emulated-{name}" in list_targets()]
    assert len(offered) >= 4
    for name in offered:
        check_usable(load_target(f"emulated-{name}"))
