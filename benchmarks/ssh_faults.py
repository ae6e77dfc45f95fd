"""Breaks real things while a benchmark runs over ssh, and looks at how it ends: python -m benchmarks.ssh_faults.

Every fault is real: processes are killed or stopped, links cut, disks full. The board is an sshd on this machine with a
home, a lock and, where the link is cut, a network of its own; needs root. Takes three minutes and writes
benchmarks/results/ssh_faults.json and ssh_faults.md; the status is 1 when a fault did not end as it must.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.loopback_board import LoopbackBoard
from benchmarks.ssh_stage import (
    LEASE_S,
    OPTIONS,
    RECONNECT_S,
    Outcome,
    Scene,
    board_address,
    link,
    network_name,
    own_network,
    run,
    settings,
    write_network,
)

_RESULTS = Path(__file__).with_name("results") / "ssh_faults.json"
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


def sshd_restarted(scene: Scene) -> Outcome:
    """Sshd and every connection killed, sshd back after 1 s."""
    future = scene.begin_and_wait()
    scene.board.stop()
    time.sleep(1)
    scene.board.start()
    return scene.outcome(future)


def sshd_gone(scene: Scene) -> Outcome:
    """Sshd and every connection killed for good."""
    future = scene.begin_and_wait()
    scene.board.stop()
    return scene.outcome(future)


def link_cut(scene: Scene) -> Outcome:
    """The link cut for longer than the lease, then back."""
    future = scene.begin_and_wait()
    link("down")
    time.sleep(LEASE_S + 2)
    link("up")
    return scene.outcome(future)


def link_gone(scene: Scene) -> Outcome:
    """The link cut for good."""
    future = scene.begin_and_wait()
    link("down")
    outcome = scene.outcome(future)
    link("up")
    return outcome


def packets_lost(scene: Scene) -> Outcome:
    """Every fifth packet lost, both ways."""
    for chain in ("INPUT", "OUTPUT"):
        lost = ["-m", "statistic", "--mode", "random", "--probability", "0.2", "-j", "DROP"]
        run("ip", "netns", "exec", network_name(), "iptables", "-A", chain, *lost)
    return scene.outcome(scene.begin())


def disk_full(scene: Scene) -> Outcome:
    """A disk of 1.5 MB, a file of 3 MB."""
    run("mount", "-t", "tmpfs", "-o", "size=1536k,mode=700", "tmpfs", str(scene.board.home))
    with scene.artifact.open("ab") as file:
        file.write(os.urandom(3_000_000))
    outcome = scene.outcome(scene.begin())
    run("umount", "-l", str(scene.board.home))
    return outcome


def no_python(scene: Scene) -> Outcome:
    """No Python on the board."""
    scene.board.stop()
    scene.board.environment["PATH"] = str(scene.board.folder / "nothing")
    scene.board.start()
    return scene.outcome(scene.begin())


def no_engine(scene: Scene) -> Outcome:
    """A Python without the engine."""
    bare = scene.board.folder / "bare"
    run(sys.executable, "-m", "venv", "--without-pip", str(bare))
    return scene.outcome(scene.begin(python=str(bare / "bin" / "python")))


def host_key_unknown(scene: Scene) -> Outcome:
    """A host key that nobody has confirmed."""
    (scene.board.folder / "known_hosts").write_text("")
    return scene.outcome(scene.begin())


def host_key_changed(scene: Scene) -> Outcome:
    """Another host key than before."""
    scene.board.stop()
    scene.board.make_key("host_key")
    scene.board.start()
    return scene.outcome(scene.begin())


def second_client(scene: Scene) -> Outcome:
    """A second client at the same time."""
    first = scene.begin_and_wait()
    second = scene.outcome(scene.begin())
    return replace(second, blocks=min(second.blocks, scene.outcome(first).blocks))


def agent_killed(scene: Scene) -> Outcome:
    """The measuring process killed."""
    future = scene.begin_and_wait()
    os.kill(scene.agents()[0], signal.SIGKILL)
    return scene.outcome(future)


def agent_paused(scene: Scene) -> Outcome:
    """The measuring process stopped for longer than the lease, then continued."""
    future = scene.begin_and_wait()
    (agent,) = scene.agents()
    os.kill(agent, signal.SIGSTOP)
    time.sleep(2 * LEASE_S)
    os.kill(agent, signal.SIGCONT)
    return scene.outcome(future)


def agent_stopped(scene: Scene) -> Outcome:
    """The measuring process stopped for good."""
    scene.options = replace(OPTIONS, timeout_s=4.0)
    future = scene.begin_and_wait()
    os.kill(scene.agents()[0], signal.SIGSTOP)
    return scene.outcome(future)


def keeper_killed(scene: Scene) -> Outcome:
    """The board's end of the connection killed."""
    future = scene.begin_and_wait()
    os.kill(scene.keepers()[0], signal.SIGKILL)
    return scene.outcome(future)


def keeper_stopped(scene: Scene) -> Outcome:
    """The board's end of the connection stopped for good."""
    future = scene.begin_and_wait()
    os.kill(scene.keepers()[0], signal.SIGSTOP)
    return scene.outcome(future)


def client_killed(scene: Scene) -> Outcome:
    """A workstation killed, its end on the board stopped with the lock in its hand; another client comes."""
    code = "from benchmarks.ssh_stage import holder; holder()"
    arguments = [scene.board.url, str(scene.board.lock_path)]
    holder_process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE)
    if holder_process.stdout is None or holder_process.stdout.readline() != b"awake\n":
        raise RuntimeError("the first client did not come as far as holding the board")
    for pid in scene.keepers():
        os.kill(pid, signal.SIGSTOP)
    holder_process.kill()
    holder_process.wait()
    return scene.outcome(scene.begin())


def clock_jumped(scene: Scene) -> Outcome:
    """The board's clock set back by a day, then forward by two."""
    offset = scene.board.folder / "faketime"
    offset.write_text("+0\n")
    scene.board.stop()
    scene.board.environment.update(
        LD_PRELOAD=FAKETIME, FAKETIME_TIMESTAMP_FILE=str(offset), FAKETIME_NO_CACHE="1", DONT_FAKE_MONOTONIC="1"
    )
    scene.board.start()
    future = scene.begin_and_wait()
    for jump in ("-1d", "+1d"):
        offset.write_text(f"{jump}\n")
        time.sleep(LEASE_S / 2)
    return scene.outcome(future)


@dataclass(frozen=True)
class Fault:
    """What is broken, in words too, and how a benchmark must end then."""

    break_it: Callable[[Scene], Outcome]
    what: str
    ending: str
    in_a_network: bool = False
    needs: str = ""  # a program or file without which it cannot be tried

    @property
    def name(self) -> str:
        """What a test calls it."""
        return self.break_it.__name__


FAULTS = (
    Fault(sshd_restarted, "Sshd and every connection killed, sshd back after 1 s", "resumed"),
    Fault(sshd_gone, "Sshd and every connection killed for good", "refused"),
    Fault(link_cut, "The link cut for longer than the lease, then back", "resumed", in_a_network=True),
    Fault(link_gone, "The link cut for good", "refused", in_a_network=True),
    Fault(packets_lost, "Every fifth packet lost, both ways", "finished", in_a_network=True, needs="iptables"),
    Fault(disk_full, "A disk of 1.5 MB, a file of 3 MB", "refused", needs="mount"),
    Fault(no_python, "No Python on the board", "refused"),
    Fault(no_engine, "A Python without the engine", "refused"),
    Fault(host_key_unknown, "A host key that nobody has confirmed", "refused"),
    Fault(host_key_changed, "Another host key than before", "refused"),
    Fault(second_client, "A second client at the same time", "finished"),
    Fault(agent_killed, "The measuring process killed", "refused"),
    Fault(agent_paused, "The measuring process stopped for longer than the lease, then continued", "finished"),
    Fault(agent_stopped, "The measuring process stopped for good", "refused"),
    Fault(keeper_killed, "The board's end of the connection killed", "resumed"),
    Fault(keeper_stopped, "The board's end of the connection stopped for good", "resumed"),
    Fault(
        client_killed,
        "A workstation killed, its end on the board stopped with the lock in its hand; another client comes",
        "finished",
    ),
    Fault(clock_jumped, "The board's clock set back by a day, then forward by two", "finished", needs=FAKETIME),
)


def reason_to_skip(fault: Fault) -> str | None:
    """Return why a fault cannot be tried on this machine, or None."""
    needed = [fault.needs] if fault.needs else []
    needed += ["ip"] if fault.in_a_network else []
    for name in needed:
        if shutil.which(name) is None and not Path(name).exists():
            return f"{name} is missing"
    if (fault.in_a_network or fault.needs == "mount") and os.getuid() != 0:
        return "needs root"
    return None


def play(fault: Fault, artifact: Path) -> Outcome:
    """Set up a board of its own, break something, and return how a benchmark ended."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeprune-fault-")))
        own = shutil.copy(artifact, folder / "model.onnx")
        inside = stack.enter_context(own_network()) if fault.in_a_network else ()
        board = LoopbackBoard(folder / "board", board_address() if inside else "127.0.0.1", inside)
        stack.callback(board.stop)
        stack.enter_context(settings(board.lock_path))
        stack.enter_context(board.on_path())
        pool = stack.enter_context(ThreadPoolExecutor())
        board.start()
        return fault.break_it(Scene(board, Path(own), pool))


def is_as_it_must_be(fault: Fault, outcome: Outcome) -> bool:
    """Say whether a benchmark ended as it must: nothing left, and every block or one error of exit code 4."""
    if outcome.ending != fault.ending or outcome.left:
        return False
    if outcome.ending == "refused":
        return outcome.exit_code == 4 and bool(outcome.said) and "\n" not in outcome.said
    return outcome.exit_code == 0 and outcome.blocks == OPTIONS.processes * OPTIONS.blocks


def main() -> None:
    """Play every fault and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", help="names of faults; all when none is given")
    chosen = parser.parse_args().faults
    played: list[tuple[Fault, Outcome]] = []
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder, "model.onnx")
        write_network(artifact)
        for fault in FAULTS:
            if chosen and fault.name not in chosen:
                continue
            if (reason := reason_to_skip(fault)) is not None:
                print(f"{fault.name}: skipped, {reason}")
                continue
            played.append((fault, play(fault, artifact)))
            print(f"{fault.name}: {played[-1][1]}", flush=True)
    if not chosen:
        rows = [{"fault": fault.name, "what": fault.what, **asdict(outcome)} for fault, outcome in played]
        _RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        _RESULTS.with_suffix(".md").write_text(table(played), encoding="utf-8")
    sys.exit(not all(is_as_it_must_be(*pair) for pair in played))


def table(played: Sequence[tuple[Fault, Outcome]]) -> str:
    """Return faults and outcomes as Markdown."""
    lines = [
        "# Faults of a board over ssh, and how a benchmark ends",
        "",
        "Regenerate with `python -m benchmarks.ssh_faults` (as root; every fault is real). One process of eight",
        f"blocks; the lease is {LEASE_S:g} s and reconnecting is tried for {RECONNECT_S:g} s, in use 15 s and 60 s.",
        "*Finished*: every block, nothing to report; *resumed*: every block, over a second connection; *refused*: one",
        "error. Looked for on the board afterwards: processes, files of a session, partial files, a held lock.",
        "",
        "| fault | ends | exit code | blocks | seconds | left on the board | what is said |",
        "| --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for fault, outcome in played:
        left = ", ".join(outcome.left) or "nothing"
        said = outcome.said.replace("|", "\\|")
        cells = [fault.what, outcome.ending, outcome.exit_code, outcome.blocks, f"{outcome.seconds:.0f}", left, said]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
