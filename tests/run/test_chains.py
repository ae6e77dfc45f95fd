"""Channels and ranks under one budget: chains are judged at the width that is left of their layer, by both times."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_networks import Residual, randomise
from torch import nn

from edgeprune.bench.target import load_target
from edgeprune.contracts import Context, Limits, Outcome, Problem, utilisation
from edgeprune.controllers._resources import Resources
from edgeprune.controllers.knapsack import Knapsack
from edgeprune.network.groups import Allocation
from edgeprune.network.layer_shapes import layer_shapes
from edgeprune.network.steps import allocated_widths
from edgeprune.network.structure import network_structure
from edgeprune.progress import Silent
from edgeprune.run.chains import slower_chains, without_ranks_from
from edgeprune.run.joining import load_method
from edgeprune.run.profiling import Profiler, profile_network
from edgeprune.run.ranks import STAGE, ranked_layers
from edgeprune.run_dir import RunDir, Stopwatch

INPUTS = (torch.zeros(1, 3, 32, 32),)
BOARD = "emulated-raspberry-pi-5-onnxruntime"


def network_of() -> nn.Module:
    """Its layers have a spectrum that falls, as that of trained ones does."""
    network = randomise(Residual(48))
    with torch.no_grad():
        for block in network.blocks:
            for layer in (block.conv1, block.conv2):
                left, values, right = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
                falling = values * 0.9 ** torch.arange(len(values))
                layer.weight.copy_(((left * falling) @ right).reshape(layer.weight.shape))
    return network


@pytest.fixture(scope="module")
def problem() -> Problem:
    """A network on an emulated board whose layers and chains were measured."""
    network = network_of()
    method = load_method("magnitude+spatial-svd")
    context = Context(network, INPUTS, network_structure(network, INPUTS), None, 0)
    context = replace(context, structure=method.units(context))
    costs = profile_network(network, INPUTS, load_target(BOARD), None, Silent(), context.structure).costs
    whole_ms = sum(cost.whole_ms for cost in costs.layers.values())
    original = Outcome(whole_ms, (whole_ms, whole_ms), 1, 1, 1)
    return Problem(context.structure, method.score(context), Limits(0.4 * whole_ms), original, costs=costs)


def bench_in(folder: Path) -> SimpleNamespace:
    run = RunDir(folder)
    run.work.mkdir(parents=True)
    job = SimpleNamespace(target=load_target(BOARD), example_inputs=INPUTS)
    own = {"folder": run, "progress": Silent(), "job": job, "original": network_of(), "watch": Stopwatch(run)}
    return SimpleNamespace(**own, others=())


def measured_ms(problem: Problem, allocation: Allocation) -> float:
    """What the layers that an allocation leaves take alone, all measured at their widths."""
    shapes, widths = layer_shapes(network_of(), INPUTS), allocated_widths(problem.structure, allocation)
    chains = {found.layer: found for found in problem.structure.factorisations}
    wanted = []
    for name, (inputs, outputs) in widths.items():
        found = chains.get(name)
        kept = allocation.get(found.group, len(found.ranks)) if found else 0
        if found and kept < len(found.ranks):
            first, last = dict(found.chains)[kept]
            wanted += [first.with_channels(inputs, first.outputs), last.with_channels(last.inputs, outputs)]
        else:
            wanted.append(shapes[name].with_channels(inputs, outputs))
    table, _ = Profiler(load_target(BOARD), None, Silent()).measure((), wanted)
    return sum(table.ms(shape) for shape in wanted)


def test_one_program_allocates_channels_and_ranks_to_the_budget(problem, tmp_path):
    bench, told, left = bench_in(tmp_path), [], problem
    controller = Knapsack(left)
    while (allocation := controller.ask()) is not None:
        if slower := slower_chains(bench, left, allocation):
            left = without_ranks_from(left, slower)
            controller = Knapsack(left)
            continue
        latency_ms = measured_ms(problem, allocation)
        expected_ms = controller.expected_ms(allocation)
        outcome = Outcome(latency_ms, (latency_ms, latency_ms), 1, 1, 1)
        controller.tell(allocation, outcome)
        told.append((allocation, outcome, expected_ms))
    allocation, outcome, expected_ms = told[-1]
    assert 0.9 < utilisation(outcome, problem.limits) <= 1
    assert expected_ms == pytest.approx(outcome.latency_ms, rel=0.1)
    sizes = {group.name: group.size for group in problem.structure.groups}
    cut = {
        group.kind for group in problem.structure.groups if allocation.get(group.name, sizes[group.name]) < group.size
    }
    assert cut == {"channel", "rank"}
    lines = bench.folder.trials(STAGE)
    assert lines
    for line in lines:
        assert bool(line["rejected"]) == (line["layer_ms"] is None or line["chain_ms"] >= line["layer_ms"])
    taken = {found.layer: found for found in ranked_layers(bench, problem, allocation) if found.state == "factorised"}
    widths = allocated_widths(problem.structure, allocation)
    shapes = layer_shapes(bench.original, INPUTS)
    for name, found in taken.items():
        assert found.chain_ms < found.layer_ms
        whole = shapes[name]
        assert found.width == (None if widths[name] == (whole.inputs, whole.outputs) else widths[name])


def test_a_rank_that_a_narrow_layer_cannot_have_is_rejected_without_a_measurement(problem, tmp_path):
    bench = bench_in(tmp_path)
    found = problem.structure.factorisations[0]
    widest, chain = found.chains[-1]
    (inner,) = [group for group in problem.structure.groups if group.name == found.layer]
    slower = slower_chains(bench, problem, {found.group: widest, inner.name: 2})
    assert slower == {found.group: widest}
    (line,) = bench.folder.trials(STAGE)
    assert (line["layer_ms"], line["rejected"]) == (None, "the layer is too narrow there for the rank")
    again = without_ranks_from(problem, slower)
    counts = {group.name: group.counts for group in again.structure.groups}[found.group]
    assert max(counts[:-1]) < widest
    assert counts[-1] == len(found.ranks)
    assert len(chain) == 2


def test_the_smallest_network_has_no_rank_that_its_channels_are_too_few_for(problem):
    found = problem.structure.factorisations[0]
    widest, _ = found.chains[-1]
    wide = tuple(
        replace(group, counts=(widest, group.size)) if group.name == found.group else group
        for group in problem.structure.groups
    )
    whole = next(group.size for group in wide if group.name == found.group)
    for groups, kept in ((problem.structure.groups, found.chains[0][0]), (wide, whole)):
        smallest = Resources(replace(problem, structure=replace(problem.structure, groups=groups))).smallest()
        assert smallest[found.layer] < 10
        assert smallest[found.group] == kept


def test_a_pair_is_on_the_disk_once(problem, tmp_path):
    bench = bench_in(tmp_path)
    found = problem.structure.factorisations[0]
    allocation = {found.group: found.chains[0][0], found.layer: 40}
    assert slower_chains(bench, problem, allocation) == slower_chains(bench, problem, allocation)
    assert len((tmp_path / "trials.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "trials.jsonl").read_text())["outputs"] == 40


def test_layers_that_keep_all_channels_are_not_judged_again(problem, tmp_path):
    bench = bench_in(tmp_path)
    allocation = {found.group: found.chains[0][0] for found in problem.structure.factorisations}
    assert slower_chains(bench, problem, allocation) == {}
    assert not bench.folder.trials(STAGE)


def test_without_a_limit_on_latency_a_rank_has_but_to_fit(problem, tmp_path):
    bench = bench_in(tmp_path)
    found = problem.structure.factorisations[0]
    free = replace(problem, costs=None)
    assert slower_chains(bench, free, {found.group: found.chains[-1][0], found.layer: 2}) == {
        found.group: found.chains[-1][0]
    }
    assert slower_chains(bench, free, {found.group: found.chains[0][0], found.layer: 40}) == {}
    assert not bench.folder.trials(STAGE)
