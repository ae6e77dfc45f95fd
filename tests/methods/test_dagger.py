"""DAGGER: gates that follow from filters alone, their gradients, and where a budget of work or of time lands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import picture_context, train_on_pictures
from small_networks import Residual, randomise
from torch.func import functional_call
from torch.nn import functional as F

from edgeprune.bench.emulated_board import board_from_settings, true_latency_ms
from edgeprune.bench.layer_cost import LayerCost, LayerCosts
from edgeprune.bench.target import load_target
from edgeprune.bench.work import works_of_onnx
from edgeprune.contracts import Context
from edgeprune.errors import UnknownNameError, UsageError
from edgeprune.methods._gates import Gates
from edgeprune.methods._spending import Hold, fewest, macs_cost, slopes, spending
from edgeprune.methods.dagger import Dagger
from edgeprune.methods.random import Random
from edgeprune.network.counting import count_macs
from edgeprune.network.evaluation import evaluate, recalibrate_batch_norm
from edgeprune.network.export import export_network
from edgeprune.network.groups import Allocation
from edgeprune.network.selection import plan_of_best
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply
from edgeprune.progress import Silent
from edgeprune.run.profiling import profile_network

INPUTS = (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)),)
LABELS = torch.tensor([0, 3, 1, 4])
ALLOCATION = {"stem": 5, "blocks.0.conv1": 4}


def context() -> Context:
    network = randomise(Residual())
    return Context(network, INPUTS, network_structure(network, INPUTS), None, 0)


def trained(method: Dagger, own: Context, steps: int, pictures: torch.Tensor) -> Shaping:
    shaping = Shaping(method, own, ALLOCATION, steps=40)
    optimiser = torch.optim.SGD(own.network.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps):
        own.network.train()
        shaping.before_step(0.1)
        optimiser.zero_grad()
        F.cross_entropy(own.network(pictures), LABELS).backward()
        shaping.after_backward()
        optimiser.step()
        shaping.after_step()
    return shaping


def test_gates_follow_from_the_filters_whatever_pictures_come():
    method, own = Dagger(), context()
    saved = trained(method, own, 12, INPUTS[0]).state_dict()
    gates = []
    for pictures in (INPUTS[0], INPUTS[0].flip(0), 100 * torch.rand(4, 3, 8, 8)):
        again = Dagger()
        shaping = Shaping(again, context(), ALLOCATION, steps=40)
        shaping.load_state_dict(saved)
        shaping.before_step(0.1)
        shaping.context.network(pictures)
        gates.append(shaping.context.network.linear.weight.detach().clone())
        assert again.score(own) == method.score(own)
    assert torch.equal(gates[0], gates[1])
    assert torch.equal(gates[0], gates[2])


def test_only_the_readers_learn():
    method, own = Dagger(), context()
    before = {name: tensor.clone() for name, tensor in own.network.state_dict().items()}
    first = method.score(own)
    shaping = trained(method, own, 40, INPUTS[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.network.state_dict().items())
    scores = method.score(own)
    assert scores["blocks.1.conv1"] == first["blocks.1.conv1"]  # nothing of it goes
    assert len(set(scores["stem"])) == 8
    assert all(0 < score < 1 for score in scores["stem"])
    shaping.finish()
    gone = own.network.linear.weight.abs().sum(0) == 0
    assert int(gone.sum()) == 3


def test_the_slope_of_a_gate_is_that_of_the_loss_by_a_factor_on_all_that_reads_the_unit():
    own = context()
    gates = Gates(own, ["stem"])
    factors = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1], dtype=torch.float64)
    leaf = factors.float().requires_grad_()
    own.network.eval()
    gated = {
        name: parameter * (leaf if name == "linear.weight" else leaf.reshape(1, -1, 1, 1))
        for name, parameter in own.network.named_parameters()
        if name in ("linear.weight", "blocks.0.conv1.weight", "blocks.1.conv1.weight")
    }
    F.cross_entropy(functional_call(own.network, gated, INPUTS), LABELS).backward()
    own.network.zero_grad()
    gates.close(own.network, {"stem": factors})
    F.cross_entropy(own.network(*INPUTS), LABELS).backward()
    assert torch.allclose(gates.gradients(own.network)["stem"].float(), leaf.grad, atol=1e-6)


def test_what_a_unit_costs_is_counted_in_all_layers_that_write_and_read_it():
    own = context()
    groups = {group.name: group for group in own.structure.groups}
    spent = spending(macs_cost(own.structure), own.structure, ALLOCATION)
    whole = {name: group.size for name, group in groups.items()}
    assert slopes(spent, whole)["stem"] == pytest.approx(groups["stem"].macs)


def test_the_term_of_the_budget_presses_half_as_hard_again_as_the_loss_holds():
    hold, prices = Hold(), {"stem": 0.01, "blocks.0.conv1": 0.02}
    steep = {"stem": torch.tensor([0.5, -0.3, 0.4]), "blocks.0.conv1": torch.tensor([-1.0, 1.0])}
    first = hold.of(steep, prices)
    held = sum(float(own.abs().sum()) * prices[name] for name, own in steep.items())
    assert sum(prices[name] ** 2 * len(own) for name, own in steep.items()) == pytest.approx(1.5 * held / first)
    assert hold.of({name: 0 * own for name, own in steep.items()}, prices) == pytest.approx(0.9 * first)
    assert Hold().of({name: 1e-6 * own for name, own in steep.items()}, prices) == 1.0
    assert Hold().of({}, prices) == 1.0


def test_no_group_closes_twice_as_fast_as_the_budget_goes_down():
    own, method = context(), Dagger()
    shaping = Shaping(method, own, {"blocks.0.conv1": 5}, steps=40)
    readers = method.state_dict()
    readers["readers"]["blocks.0.conv1"]["answer.bias"].fill_(-9.0)
    method.load_state_dict(readers)
    open_gates = []
    for number in (0, 8, 39):
        shaping.load_state_dict({"done": number, "method": readers})
        shaping.before_step(0.1)
        open_gates.append(int((own.network.blocks[0].conv2.weight.abs().sum((0, 2, 3)) > 0).sum()))
        method._gates.reopen(own.network)
    assert open_gates[0] >= 9  # of 10
    assert open_gates == sorted(open_gates, reverse=True)
    assert open_gates[-1] < 9


def test_the_budget_goes_down_from_the_whole_and_stays():
    own = context()
    spent = spending(macs_cost(own.structure), own.structure, ALLOCATION)
    whole = spent.cost({})
    assert spent.budget_now(0.0) == whole
    assert spent.budget_now(0.5) == pytest.approx((whole * spent.budget) ** 0.5)
    assert spent.budget_now(1.0) == spent.budget_now(1.7) == pytest.approx(spent.budget)


def test_all_gates_are_open_at_first_and_the_smallest_filter_is_the_nearest_to_closing():
    own = context()
    method = Dagger()
    Shaping(method, own, ALLOCATION, steps=4)
    gates = torch.tensor(method.score(own)["blocks.0.conv1"])
    norms = own.network.blocks[0].conv1.weight.detach()
    norms = ((norms - norms.mean()) / norms.std(correction=0)).abs().sum((1, 2, 3))
    assert gates.min() > 0.5
    assert gates.argmin() == norms.argmin()
    assert gates.mean() > 0.85


@settings(max_examples=30, deadline=None)
@given(part=st.floats(0.3, 1.0), seed=st.integers(0, 99))
def test_a_budget_is_kept_and_no_unit_more_would_fit(part, seed):
    own = _OWN
    generator = torch.Generator().manual_seed(seed)
    allocation = {group.name: 1 for group in own.structure.groups}
    cost = macs_cost(own.structure)
    spent = spending(cost, own.structure, allocation, part * cost({}))
    scores = {g.name: tuple(torch.rand(g.size, generator=generator).tolist()) for g in own.structure.groups}
    found = spent.allocation(scores)
    assert all(found[group.name] >= fewest(group) for group in own.structure.groups)
    assert cost(found) <= spent.budget
    for group in own.structure.groups:
        more = {**found, group.name: found[group.name] + 1}
        assert found[group.name] == group.size or cost(more) > spent.budget


_OWN = context()


def test_costs_count_for_the_objective_latency_alone():
    own = context()
    costs = LayerCosts({layer.name: LayerCost(((1, 2.0), (8, 2.0))) for layer in own.structure.layers}, 0.0)
    allocated = []
    for method in (Dagger(costs=costs), Dagger()):
        shaping = Shaping(method, context(), ALLOCATION, steps=4)
        shaping.finish()
        allocated.append(method.allocated)
    assert allocated[0] == allocated[1]
    flat = Dagger(objective="latency", costs=costs)  # where fewer units save nothing, all of them fit
    Shaping(flat, context(), ALLOCATION, steps=4).finish()
    assert flat.allocated == {"stem": 8, "blocks.0.conv1": 10}


def test_what_cannot_be_is_refused():
    with pytest.raises(UnknownNameError, match="latency"):
        Dagger(objective="latancy")
    with pytest.raises(UsageError, match="needs the costs of the layers"):
        Dagger(objective="latency")


def cut(method: Dagger, own: Context) -> torch.nn.Module:
    """As the gates would spend the budget."""
    plan = method.plan(own.structure, method.score(own), method.allocated)
    assert {edit.group: len(edit.keep) for edit in plan.edits}.items() <= method.allocated.items()
    return apply(plan, own.network, own.example_inputs)


@pytest.mark.data
def test_on_real_pictures_it_lands_on_its_target_of_macs(data_folder):
    own = picture_context(data_folder)
    whole = count_macs(own.network, own.example_inputs)
    method = Dagger(budget=0.5 * macs_cost(own.structure)({}))
    shaping = Shaping(method, own, {group.name: group.size * 3 // 4 for group in own.structure.groups}, steps=40)
    train_on_pictures(shaping, batch_size=16)
    plan = shaping.plan()
    assert {edit.group: len(edit.keep) for edit in plan.edits} == shaping.allocation
    smaller = apply(plan, own.network, own.example_inputs)
    assert abs(evaluate(own.network, own.data) - evaluate(smaller, own.data)) <= 0.001
    assert count_macs(cut(method, picture_context(data_folder)), own.example_inputs) / whole == pytest.approx(0.5, 0.01)


@pytest.mark.data
def test_on_real_pictures_its_allocation_is_better_than_gates_at_random(data_folder):
    own = picture_context(data_folder)
    inner = [group for group in own.structure.groups if sum(piece.role == "writer" for piece in group.slices) == 1]
    method = Dagger()
    shaping = Shaping(method, own, {group.name: group.size // 2 for group in inner}, steps=40)
    train_on_pictures(shaping, batch_size=16)
    shaping.finish()
    assert method.allocated != shaping.allocation
    fresh = picture_context(data_folder)  # since what the allocation leaves out is closed in the trained one
    by_chance = [at_random(shaping.allocation, replace(fresh, seed=seed)) for seed in range(3)]
    best = max(recalibrated(network, fresh) for network in by_chance)
    assert recalibrated(cut(method, fresh), fresh) > best + 0.1


def recalibrated(network: torch.nn.Module, own: Context) -> float:
    recalibrate_batch_norm(network, own.data, 10)
    return evaluate(network, own.data)


def at_random(allocation: Allocation, own: Context) -> torch.nn.Module:
    """As gates that are open at random would spend what the allocation takes."""
    scores = Random().score(own)
    spent = spending(macs_cost(own.structure), own.structure, allocation)
    return apply(plan_of_best(own.structure, scores, spent.allocation(scores)), own.network, own.example_inputs)


@pytest.mark.data
def test_on_real_pictures_it_lands_on_its_target_of_milliseconds(data_folder, tmp_path: Path):
    own = picture_context(data_folder)
    own = replace(own, example_inputs=(own.example_inputs[0][:1],))
    target = load_target("emulated-raspberry-pi-4")
    table = tmp_path / "table.json"
    costs = profile_network(own.network, own.example_inputs, target, table, Silent(), own.structure).costs
    budget_ms = 0.6 * milliseconds(own.network, own, tmp_path)
    method = Dagger(objective="latency", costs=costs, budget=budget_ms)
    shaping = Shaping(method, own, {group.name: group.size // 2 for group in own.structure.groups}, steps=24)
    train_on_pictures(shaping, batch_size=16)
    shaping.finish()
    assert milliseconds(cut(method, own), own, tmp_path) == pytest.approx(budget_ms, rel=0.03)


def milliseconds(network: torch.nn.Module, own: Context, folder: Path) -> float:
    """What the board takes for the whole network, not for its layers one by one."""
    exported = export_network(network, own.example_inputs, folder)
    board = board_from_settings(load_target("emulated-raspberry-pi-4").settings)
    return true_latency_ms(works_of_onnx(exported.onnx), board)
