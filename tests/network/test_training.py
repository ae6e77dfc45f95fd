"""Judging, re-calibrating and recovering networks: the numbers, the hooks, and what survives a kill."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import Plain, Residual, randomise
from torch import nn
from torch.nn import functional as F

from benchmarks.data import cifar10_small
from benchmarks.networks import resnet20
from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import DataError, StorageError, TrainingError, UsageError
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.evaluation import evaluate, recalibrate_batch_norm
from edgeprune.network.groups import Structure
from edgeprune.network.shaping import Shaping
from edgeprune.network.training import Guides, RecoverySettings, recover, schedule, soft_cross_entropy
from edgeprune.progress import Silent

FAST = RecoverySettings(epochs=2, warmup_steps=2, precision="fp32")


def _learnable(count: int = 192) -> Data:
    """Pictures whose brightest colour is their class."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 3
    images = torch.randn(count, 3, 8, 8, generator=generator) * 0.5
    images[torch.arange(count), labels] += 1
    batches = list(zip(images.split(16), labels.split(16), strict=True))
    return Data(batches[:-2], batches[-2:], cross_entropy, top1, "made", (3, 8, 8))


@pytest.fixture
def data() -> Data:
    return _learnable()


@pytest.fixture
def network() -> nn.Module:
    return randomise(Residual(classes=3))


def _state(network: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(network.state_dict())


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------- evaluation


def test_accuracy_is_the_share_of_right_answers(network, data):
    images, labels = (torch.cat(parts) for parts in zip(*data.validation, strict=True))
    right = [int(network(image[None]).argmax() == label) for image, label in zip(images, labels, strict=True)]
    assert evaluate(network, data) == sum(right) / len(right)


def test_evaluation_leaves_modes_and_statistics_alone(network, data):
    network.train()
    network.norm.eval()
    before = _state(network)
    evaluate(network, data)
    assert network.training
    assert not network.norm.training
    assert _same(_state(network), before)


@pytest.mark.parametrize("value", [91.7, -0.1, float("nan")])
def test_a_metric_outside_0_to_1_is_refused(network, data, value):
    with pytest.raises(DataError, match=rf"'made' returned {value}; it must return 0\.\.1"):
        evaluate(network, replace(data, metric=lambda _network, _loader: value))


# ---------------------------------------------------------------- re-calibration


def test_statistics_become_the_plain_average_over_batches(network, data):
    weights = {name: p.clone() for name, p in network.named_parameters()}
    used = recalibrate_batch_norm(network, data, batches=4)
    outputs = [network.stem(images) for images, _ in data.train[:4]]
    means = torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0)
    variances = torch.stack([y.var((0, 2, 3)) for y in outputs]).mean(0)
    assert used == 4
    assert torch.allclose(network.norm.running_mean, means, atol=1e-6)
    assert torch.allclose(network.norm.running_var, variances, atol=1e-6)
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())
    assert network.norm.momentum == 0.1
    assert not any(module.training for module in network.modules())


def test_statistics_are_those_of_the_batches_that_are_trained_on(network, data):
    recalibrate_batch_norm(network, replace(data, calibration=[(images + 1, labels) for images, labels in data.train]))
    other = copy.deepcopy(network)
    recalibrate_batch_norm(other, data)
    assert _same(_state(other), _state(network))


@pytest.mark.data
def test_a_trained_network_does_not_need_it_and_loses_nothing_by_it(data_folder):
    network, small = resnet20(), cifar10_small()
    network.load_state_dict(torch.load(data_folder / "cifar10-resnet20.pt", weights_only=True))
    before = evaluate(network.eval(), small)
    recalibrate_batch_norm(network, small)
    assert evaluate(network, small) > before - 0.01


def test_dropout_stays_quiet_during_recalibration(data):
    quiet = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.BatchNorm2d(3))
    recalibrate_batch_norm(quiet, data)
    assert torch.allclose(quiet[2].running_mean, torch.zeros(3), atol=1e-5)
    assert torch.allclose(quiet[2].running_var, torch.ones(3), atol=1e-2)


def test_a_network_without_batch_norm_needs_no_data(data):
    network = Plain()
    before = _state(network)
    assert recalibrate_batch_norm(network, replace(data, train=[])) == 0
    assert _same(_state(network), before)


# ---------------------------------------------------------------- recovery: the loss and the schedule


def test_soft_cross_entropy_is_the_scaled_divergence():
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    p, q = F.softmax(teacher / 4, 1), F.softmax(student / 4, 1)
    expected = (p * (p / q).log()).sum(1).mean() * 16
    assert torch.allclose(soft_cross_entropy(student, teacher, 4.0), expected, atol=1e-6)


def test_the_learning_rate_rises_then_falls_to_zero():
    rates = [schedule(step, 100, 10) for step in range(100)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert top == 10
    assert rates[0] < 0.1
    assert max(rates) == 1
    assert rates[-1] < 0.001
    assert schedule(0, 5, 100) == 1  # a short training is not all warm-up


def test_only_contractions_decay(network, data, tmp_path):
    before = _state(network)
    settings = replace(FAST, weight_decay=0.1, distillation=0.0)
    frozen = replace(data, loss=lambda outputs, _targets: outputs.sum() * 0)
    recover(network, frozen, settings, Guides(), tmp_path / "c.pt", Silent())
    for name, parameter in network.named_parameters():
        shrunk = parameter.norm() < before[name].norm()
        assert bool(shrunk) == (parameter.dim() > 1), name


def test_recovery_learns_and_reports(network, data, tmp_path):
    before = evaluate(network, data)
    said = []
    progress = Silent()
    progress.say = said.append
    settings = replace(FAST, epochs=4, learning_rate=0.05, distillation=0.0)
    history = recover(network, data, settings, Guides(), tmp_path / "c.pt", progress)
    assert before < 0.7
    assert history.epochs[-1].accuracy > 0.9
    assert history.epochs[-1].accuracy == evaluate(network, data)
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert [record.epoch for record in history.epochs] == [1, 2, 3, 4]
    assert len(said) == 4
    assert not network.training
    assert network.stem.weight.is_contiguous()


def test_the_teacher_is_followed_and_not_changed(network, data, tmp_path):
    teacher = randomise(Residual(classes=3), seed=9)
    kept = _state(teacher)
    wrong = replace(data, train=[(images, (labels + 1) % 3) for images, labels in data.train])

    def distance() -> float:
        images = torch.cat([images for images, _ in data.validation])
        return float(soft_cross_entropy(network.eval()(images), teacher(images), 4.0).detach())

    before = distance()
    settings = replace(FAST, distillation=1.0, learning_rate=0.02, epochs=4)
    recover(network, wrong, settings, Guides(teacher), tmp_path / "c.pt", Silent())
    assert distance() < before / 2
    assert _same(_state(teacher), kept)


def test_other_tasks_use_their_own_loss_and_distillation(data, tmp_path):
    """Outputs that are no class logits: the task loss alone, or with the distillation that the data brings."""
    network, teacher = nn.Sequential(nn.Conv2d(3, 2, 1)), nn.Sequential(nn.Conv2d(3, 2, 1)).requires_grad_(False)
    other = replace(data, loss=lambda outputs, _targets: outputs.sum() * 0, metric=lambda _network, _loader: 0.5)
    before = _state(network)
    settings = replace(FAST, weight_decay=0.0, epochs=4, learning_rate=0.2)
    recover(network, other, settings, Guides(teacher), tmp_path / "task.pt", Silent())
    assert _same(_state(network), before)
    taught = replace(other, distillation=F.mse_loss)
    recover(network, taught, settings, Guides(teacher), tmp_path / "taught.pt", Silent())
    assert torch.allclose(network[0].weight, teacher[0].weight, atol=0.05)


# ---------------------------------------------------------------- recovery: hooks, divergence, settings


def _context(network: nn.Module) -> Context:
    return Context(network, (torch.zeros(1, 3, 8, 8),), Structure((), (), ()), None, 0)


class _Masked(Method):
    """Pulls at one filter, keeps another from moving and a third at zero, and counts its calls."""

    trains = True

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.steps: list[Step] = []

    def score(self, context: Any) -> Any:
        raise NotImplementedError

    def before_step(self, network: nn.Module, step: Step) -> None:
        self.calls.append("before_step")
        self.steps.append(step)

    def penalty(self, network: nn.Module) -> torch.Tensor:
        self.calls.append("penalty")
        return network.stem.weight[0].square().sum() * 10

    def after_backward(self, network: nn.Module) -> None:
        self.calls.append("after_backward")
        network.stem.weight.grad[1] = 0

    def after_step(self, network: nn.Module) -> None:
        self.calls.append("after_step")
        with torch.no_grad():
            network.stem.weight[2] = 0

    def state_dict(self) -> dict[str, Any]:
        return {"calls": len(self.calls)}

    def load_state_dict(self, state: Any) -> None:
        self.calls = ["earlier"] * state["calls"]


def test_the_hooks_of_a_method_shape_every_step(network, data, tmp_path):
    method, before = _Masked(), _state(network)["stem.weight"]
    settings = replace(FAST, weight_decay=0.0)
    shaping = Shaping(method, _context(network), {}, 2 * len(data.train))
    recover(network, data, settings, Guides(shaping=shaping), tmp_path / "c.pt", Silent())
    after = network.stem.weight.detach()
    assert method.calls == ["before_step", "penalty", "after_backward", "after_step"] * 2 * len(data.train)
    assert [step.number for step in method.steps] == list(range(2 * len(data.train)))
    assert {step.total for step in method.steps} == {2 * len(data.train)}
    rates = [schedule(number, 2 * len(data.train), 2) * settings.learning_rate for number in (0, 5, 15)]
    assert [method.steps[number].learning_rate for number in (0, 5, 15)] == rates
    assert after[0].norm() < before[0].norm() / 2
    assert torch.equal(after[1], before[1])
    assert not after[2].any()
    again = _Masked()
    resumed = Shaping(again, _context(network), {}, 2 * len(data.train))
    recover(network, data, settings, Guides(shaping=resumed), tmp_path / "c.pt", Silent())
    assert again.calls == ["earlier"] * len(method.calls)
    assert resumed.state_dict()["done"] == 2 * len(data.train)


def test_divergence_keeps_the_weights_from_before(network, data, tmp_path):
    before = _state(network)
    settings = replace(FAST, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"epoch 1, step \d+, at a learning rate of 1e\+30.*after the cut are kept"):
        recover(network, data, settings, Guides(), tmp_path / "c.pt", Silent())
    assert _same(_state(network), before)
    assert not (tmp_path / "c.pt").exists()


class _Poisoned:
    """Batches that turn to NaN in a later epoch."""

    def __init__(self, batches: list[Any], from_epoch: int) -> None:
        self.batches, self.from_epoch, self.epoch = batches, from_epoch, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for images, labels in self.batches:
            yield images * float("nan") if self.epoch >= self.from_epoch else images, labels


def test_divergence_keeps_the_epochs_before(network, data, tmp_path):
    settings = replace(FAST, epochs=3)
    poisoned = replace(data, train=_Poisoned(data.train, from_epoch=1))
    with pytest.raises(TrainingError, match=r"the loss became nan in epoch 2, step 1.*weights after epoch 1 are kept"):
        recover(network, poisoned, settings, Guides(), tmp_path / "c.pt", Silent())
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    assert len(saved["records"]) == 1
    assert _same(_state(network), saved["network"])


def test_a_loader_that_runs_dry_is_one_clear_error(network, data, tmp_path):
    with pytest.raises(DataError, match=r"training data of 'made' is empty in epoch 1"):
        recover(network, replace(data, train=[]), FAST, Guides(), tmp_path / "c.pt", Silent())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": -1}, "-1 epochs"),
        ({"learning_rate": 0.0}, "must be above zero"),
        ({"learning_rate": float("nan")}, "must be above zero"),
        ({"distillation": 1.5}, "1.5 is not between 0 and 1"),
        ({"precision": "fp8"}, "'fp8'; one of auto, fp32, bf16"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        RecoverySettings(**wrong)


# ---------------------------------------------------------------- recovery: going on after a kill


def _train(folder: Path) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parent), str(here.parent.parent)])
    command = [sys.executable, str(here / "training_until_killed.py"), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})


def test_a_training_killed_at_any_time_ends_with_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    uninterrupted, first = _train(whole), _train(killed)
    for line in first.stdout:
        if line.startswith("Recovery epoch 2 of 4"):
            first.kill()  # SIGKILL
    assert first.wait() == -9
    assert not (killed / "final.pt").exists()
    second = _train(killed)
    said, expected = second.communicate()[0], uninterrupted.communicate()[0]
    resumed_after = 4 - said.count("Recovery epoch")
    assert f"resumed after {resumed_after}, 4 epochs" in said
    assert resumed_after in (2, 3)
    assert "resumed after 0, 4 epochs" in expected
    assert _same(torch.load(whole / "final.pt"), torch.load(killed / "final.pt"))


def test_a_finished_training_is_not_repeated(network, data, tmp_path):
    recover(network, data, FAST, Guides(), tmp_path / "c.pt", Silent())
    again = randomise(Residual(classes=3))
    unread = replace(data, train=_Poisoned(data.train, from_epoch=0))
    history = recover(again, unread, FAST, Guides(), tmp_path / "c.pt", Silent())
    assert history.resumed_after == 2
    assert len(history.epochs) == 2
    assert _same(_state(again), _state(network))


def test_a_checkpoint_of_another_training_is_refused(network, data, tmp_path):
    recover(network, data, FAST, Guides(), tmp_path / "c.pt", Silent())
    with pytest.raises(StorageError, match=r"c\.pt belongs to another training .*Delete it"):
        recover(network, data, replace(FAST, seed=1), Guides(), tmp_path / "c.pt", Silent())
    with pytest.raises(StorageError, match="belongs to another training"):
        recover(Residual(width=6, classes=3), data, FAST, Guides(), tmp_path / "c.pt", Silent())
    (tmp_path / "c.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:500])
    with pytest.raises(StorageError, match=r"c\.pt cannot be read\. Delete it"):
        recover(network, data, FAST, Guides(), tmp_path / "c.pt", Silent())


def test_a_checkpoint_that_cannot_be_written_is_one_clear_error(network, data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Could not write"):
        recover(network, data, FAST, Guides(), tmp_path / "file" / "c.pt", Silent())
