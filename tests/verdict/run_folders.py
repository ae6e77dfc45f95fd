"""Run folders as `compress` leaves them, made from the real dataclasses, with numbers like those of a real run."""

import json
import random
from dataclasses import replace
from pathlib import Path

from edgeprune.verdict.result import (
    AskedBudget,
    Costs,
    Epoch,
    LayerTime,
    LayerTimes,
    ModelOrigin,
    Proof,
    RankedLayer,
    Result,
    Seconds,
    Stages,
    write_result,
)


def residual_groups(blocks):
    """Group sizes of a CIFAR ResNet with so many blocks in each of its three stages."""
    sizes = {}
    for stage, width in enumerate((16, 32, 64), 1):
        sizes.update({f"layer{stage}.{block}.conv1": width for block in range(blocks)})
    return sizes


def example_result(blocks=9, **changes):
    """Return a finished, passed run with 3 * blocks groups."""
    sizes = residual_groups(blocks)
    kept = {name: max(1, size - (7 * place) % size) for place, (name, size) in enumerate(sizes.items())}
    slow = [LayerTime(name, 0.02 + 0.004 * (place % 9)) for place, name in enumerate(sizes)]
    fast = [LayerTime(layer.name, layer.milliseconds * kept[layer.name] / sizes[layer.name]) for layer in slow]
    result = Result(
        verdict="pass",
        violations=(),
        target="host",
        kind="real",
        runtime="onnxruntime",
        method="taylor",
        controller="bisect",
        seed=0,
        command=("edgeprune", "compress", "cifar10-resnet56.pt", "--target", "host", "--latency", "60%"),
        model=ModelOrigin("cifar10-resnet56.pt", "3b9233ab" * 8, "benchmarks.networks:resnet56", "state dict"),
        budget=AskedBudget({"latency": "60%", "max_drop": "1pt"}, latency_ms=1.866, accuracy_drop=0.01),
        original=Costs(3.110, (3.092, 3.131), 3.204, 3_413_022, 125_485_696, 853_018, 0.9339),
        final=Costs(1.791, (1.779, 1.806), 1.862, 1_620_422, 60_112_300, 402_114, 0.9287),
        rounds=6,
        allocation=kept,
        group_sizes=sizes,
        stages=Stages(0.9339, 0.4127, 0.8611, 0.9287, 0.9287),
        seconds=Seconds(training=431.0, measuring=62.5, rest=21.3),
        recovery=(Epoch(0.412, 0.9102), Epoch(0.331, 0.9251), Epoch(0.287, 0.9287)),
        proofs=(
            Proof("masked original and cut network (float64)", 3.1e-13, 2.2e-13, 1.0, 4, exact=True),
            Proof("PyTorch and ONNX", 4.8e-6, 1.3e-6, 1.0, 64, exact=False),
        ),
        layers=LayerTimes(tuple(slow), tuple(fast)),
    )
    return replace(result, **changes)


def measurement(median_ms, seed):
    """Return the part of a measurement that a report reads: three processes with a right-skewed spread."""
    chance = random.Random(seed)
    runs = []
    for shift in (0.994, 1.0, 1.009):
        samples = [int(1e6 * median_ms * shift * (1 + abs(chance.gauss(0, 0.02)) - 0.013)) for _ in range(240)]
        samples[17] = int(3e6 * median_ms)  # something else ran
        runs.append({"blocks": [{"samples_ns": samples[:120]}, {"samples_ns": samples[120:]}]})
    return {"latency_p50_ms": median_ms, "runs": runs}


def trial(stage, index, part, latency_ms, feasible):
    """Return one line of trials.jsonl: a network with this part of the work."""
    macs = int(125_485_696 * part)
    interval = [0.985 * latency_ms, 1.015 * latency_ms]
    outcome = {"latency_ms": latency_ms, "latency_interval_ms": interval, "size_bytes": int(3.4e6 * part)}
    return {
        "stage": stage,
        "index": index,
        "allocation": None,
        "outcome": {**outcome, "macs": macs, "parameters": int(853_018 * part)},
        "measurement": measurement(latency_ms, index),
        "feasible": feasible,
        "kept_score": part,
    }


def example_trials():
    """Return the trials of the example: the original, six rounds, the final network."""
    rounds = [(0.55, 2.02), (0.42, 1.52), (0.50, 1.88), (0.47, 1.78), (0.485, 1.83), (0.479, 1.80)]
    search = [trial("search", i, part, latency, latency <= 1.866) for i, (part, latency) in enumerate(rounds)]
    return [trial("original", 0, 1.0, 3.110, False), *search, trial("final", 0, 0.479, 1.791, True)]


def write_run(folder: Path, result, trials):
    """Write a run folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_result(result, folder / "result.json")
    (folder / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in trials))
    manifest = {"request": {"target": "host"}, "versions": {"torch": "2.13.0", "edgeprune": "0.1.0"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "plan.json").write_text('{"schema": 1, "edits": [], "notes": {}}')
    return folder


def ranked_layers():
    """Return a layer of each outcome: factorised after a training, kept whole, slower as a chain."""
    energies = tuple(0.2 * 0.8**rank for rank in range(48))
    trained = (*energies[:12], *(1e-9 for _ in range(36)))
    return (
        RankedLayer("layer1.0.conv1", "spatial", "factorised", (12,), 12, 0.0413, 0.0287, 0.9991, energies, trained),
        RankedLayer("layer1.0.conv2", "spatial", "whole", (4,), 48, 0.0413, 0.0149, 1.0, energies, energies),
        RankedLayer("layer1.1.<i>", "tucker-2", "slower", (4, 6), 48, 0.0119, 0.0172, 1.0, energies, energies),
    )
