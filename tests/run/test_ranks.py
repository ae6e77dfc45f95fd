"""A layer becomes a chain only where its chain was measured to be faster, and both times are kept."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_networks import Residual, randomise

from edgeprune import registry
from edgeprune.bench.layer_cost import LayerCost, LayerCosts
from edgeprune.contracts import Context, Limits, Outcome, Problem, utilisation
from edgeprune.controllers.knapsack import Knapsack
from edgeprune.errors import UsageError
from edgeprune.network.groups import Allocation
from edgeprune.network.structure import network_structure
from edgeprune.progress import Silent
from edgeprune.run.ranks import STAGE, faster_ranks, ranked_layers
from edgeprune.run_dir import RunDir

INPUTS = (torch.zeros(1, 3, 8, 8),)
SLOW = "blocks.0.conv1"


def problem_of(speed: dict[str, float], part: float = 0.7) -> Problem:
    """Chains take `speed` times what their multiply-accumulates would, whole layers exactly what theirs do."""
    network = randomise(Residual(24))
    method = registry.load("methods", "spatial-svd")()
    context = Context(network, INPUTS, network_structure(network, INPUTS), None, 0)
    context = replace(context, structure=method.units(context))
    structure = context.structure
    layers = {layer.name: LayerCost(((1, layer.macs * 1e-6),)) for layer in structure.layers}
    chains = {
        found.layer: {
            count: tuple(shape.macs * 1e-6 * speed.get(found.layer, 1.0) for shape in chain)
            for count, chain in found.chains
        }
        for found in structure.factorisations
    }
    costs = LayerCosts(layers, 0.0, chains)
    whole_ms = sum(cost.whole_ms for cost in layers.values())
    original = Outcome(whole_ms, (whole_ms, whole_ms), 1, 1, 1)
    limits = Limits(latency_ms=part * whole_ms)
    return Problem(structure, method.score(context), limits, original, costs=costs)


def bench_in(folder: Path) -> SimpleNamespace:
    run = RunDir(folder)
    run.work.mkdir(parents=True)
    other = SimpleNamespace(job=SimpleNamespace(target=SimpleNamespace(name="another-board")))
    job = SimpleNamespace(target=SimpleNamespace(name="a-board"))
    return SimpleNamespace(folder=run, progress=Silent(), job=job, others=(other,))


def measured_ms(problem: Problem, allocation: Allocation) -> float:
    """What the network takes when every layer takes in it what it takes alone."""
    assert problem.costs is not None
    total = sum(cost.whole_ms for cost in problem.costs.layers.values())
    for found in problem.structure.factorisations:
        kept = allocation.get(found.group, len(found.ranks))
        if kept < len(found.ranks):
            total += sum(problem.costs.chains[found.layer][kept]) - problem.costs.layers[found.layer].whole_ms
    return total


def test_ranks_whose_chains_are_slower_cannot_be_chosen(tmp_path):
    problem = faster_ranks(bench_in(tmp_path), problem_of({SLOW: 1e3, "blocks.1.conv1": 2.0}))
    counts = {group.name: group.counts for group in problem.structure.groups}
    assert f"{SLOW}:rank" not in counts
    chains = {found.layer: dict(found.chains) for found in problem.structure.factorisations}
    layer_ms = problem.costs.layers["blocks.1.conv1"].whole_ms
    for count in chains["blocks.1.conv1"]:
        chain_ms = sum(problem.costs.chains["blocks.1.conv1"][count])
        assert (count in counts["blocks.1.conv1:rank"]) == (chain_ms < layer_ms)
    assert 1 < len(counts["blocks.1.conv1:rank"]) < len(counts["blocks.1.conv2:rank"])


def test_every_candidate_is_on_the_disk_once_with_both_times(tmp_path):
    bench, problem = bench_in(tmp_path), problem_of({SLOW: 1e3})
    faster_ranks(bench, problem)
    faster_ranks(bench, problem)
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert len(lines) == sum(len(found.chains) for found in problem.structure.factorisations)
    assert {line["stage"] for line in lines} == {STAGE}
    for line in lines:
        assert (line["chain_ms"] >= line["layer_ms"]) == bool(line["rejected"])
    assert {line["layer"] for line in lines if line["rejected"]} == {SLOW}


def test_a_target_on_which_every_chain_is_slower_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"No layer .* gets faster as a chain: blocks\.\d\.conv\d takes .* ms at rank"):
        faster_ranks(
            bench_in(tmp_path), problem_of(dict.fromkeys((f"blocks.{b}.conv{c}" for b in (0, 1) for c in (1, 2)), 99.0))
        )


@pytest.mark.parametrize("part", [0.8, 0.6])
def test_the_program_allocates_ranks_to_the_budget(tmp_path, part):
    problem = faster_ranks(bench_in(tmp_path), problem_of({SLOW: 1e3}, part))
    controller = Knapsack(problem)
    rounds = []
    while (allocation := controller.ask()) is not None:
        latency_ms = measured_ms(problem, allocation)
        outcome = Outcome(latency_ms, (latency_ms, latency_ms), 1, 1, 1)
        controller.tell(allocation, outcome)
        rounds.append((allocation, outcome))
    assert len(rounds) <= 6
    last, outcome = rounds[-1]
    assert utilisation(outcome, problem.limits) <= 1
    assert f"{SLOW}:rank" not in last
    assert any(last[group.name] < group.size for group in problem.structure.groups)


def test_the_result_says_what_became_of_every_layer(tmp_path):
    bench = bench_in(tmp_path)
    problem = faster_ranks(bench, problem_of({SLOW: 1e3}))
    taken = problem.structure.groups[0]
    layers = {found.layer: found for found in ranked_layers(bench, problem, {taken.name: taken.counts[0]})}
    states = {name: found.state for name, found in layers.items()}
    assert states == {
        SLOW: "slower",
        "blocks.0.conv2": "factorised",
        "blocks.1.conv1": "whole",
        "blocks.1.conv2": "whole",
    }
    assert layers[SLOW].chain_ms > layers[SLOW].layer_ms
    assert layers["blocks.0.conv2"].kept_energy == pytest.approx(
        sum(layers["blocks.0.conv2"].energies[: taken.counts[0]]), rel=1e-3
    )
    assert layers["blocks.1.conv1"].kept_energy == pytest.approx(1.0)


def test_a_chain_must_be_faster_on_every_target(tmp_path):
    bench, problem = bench_in(tmp_path), problem_of({})
    elsewhere = problem_of({SLOW: 1e3, "blocks.1.conv1": 2.0}).costs
    narrowed = faster_ranks(bench, replace(problem, other_costs=(elsewhere,)))
    alone = faster_ranks(bench_in(tmp_path / "alone"), problem_of({SLOW: 1e3, "blocks.1.conv1": 2.0}))
    assert narrowed.structure.groups == alone.structure.groups
    lines = [line for line in bench.folder.trials(STAGE) if line["layer"] == SLOW]
    assert {line["target"] for line in lines if line["rejected"]} == {"another-board"}
    assert {line["target"] for line in lines if not line["rejected"]} == {"a-board"}
    (slow,) = (one for one in ranked_layers(bench, narrowed, {}) if one.layer == SLOW)
    assert (slow.state, slow.target) == ("slower", "another-board")
    assert slow.chain_ms > slow.layer_ms
