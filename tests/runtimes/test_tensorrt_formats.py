"""The parsers on what trtexec of 8.2, 8.5, 10.3 and 11 writes: its formats with a small network's layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.runtimes import _tensorrt_formats as formats

SAMPLES = Path(__file__).with_name("trtexec")


def read(name):
    return (SAMPLES / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("log", "version", "gpu", "capability"),
    [
        ("8.2-nano.log", (8, 2, 1), "NVIDIA Tegra X1", "5.3"),
        ("8.5-xavier.log", (8, 5, 2), "Xavier", "7.2"),
        ("10.3-orin.log", (10, 3, 0), "Orin", "8.7"),
        ("11.1-thor.log", (11, 1, 0), "NVIDIA Thor", "11.0"),
    ],
)
def test_a_log_says_version_and_gpu(log, version, gpu, capability):
    assert formats.version_of(read(log)) == version
    assert formats.device_of(read(log)) == {"gpu": gpu, "compute_capability": capability}


def test_the_banner_of_11_has_digits_or_dots():
    assert formats.version_of(read("11.2-refusal.log")) == (11, 2, 1)
    with pytest.raises(ValueError, match="does not say its version: 'command not found'"):
        formats.version_of("command not found")


@pytest.mark.parametrize(
    ("log", "layers_ms"),
    [
        ("8.2-nano.log", {"conv1": 1.96, "layer1.0.conv1": 1.58, "fc": 0.03}),
        ("8.5-xavier.log", {"(layout)": 0.042, "conv1": 0.0895, "layer1.0.conv1": 0.27, "fc": 0.043}),
        ("10.3-orin.log", {"(layout)": 0.039, "conv1": 0.0911, "layer1.0.conv1": 0.188, "fc": 0.064}),
        ("11.1-thor.log", {"conv1": 0.0225, "layer1.0.conv1": 0.038, "fc": 0.012}),
    ],
)
def test_the_printed_profile_gives_each_kernel_to_its_layer(log, layers_ms):
    assert formats.by_layer(formats.layers_ms_in(read(log))) == pytest.approx(layers_ms)


def test_a_log_without_a_profile_has_no_layers():
    assert formats.layers_ms_in(read("11.2-refusal.log")) == {}


def test_the_exported_profile_is_read_though_a_name_breaks_its_json():
    layers_ms = formats.layers_ms_of(read("8.5-profile.json"))
    assert list(layers_ms.values()) == pytest.approx([0.041984, 0.0895, 0.27, 0.043])
    assert formats.by_layer(layers_ms)["layer1.0.conv1"] == 0.27


def test_without_a_median_the_average_counts():
    assert formats.layers_ms_of(read("8.2-profile.json")) == {"conv1 + PWN(relu)": 1.96224, "fc": 0.0301316}


def test_exported_times_hold_both_copies():
    assert formats.times_ns_of(read("8.2-times.json")) == [883_490, 910_000]


def test_layers_say_their_number_type_in_every_version():
    quantised, linear = formats.engine_layers(read("8.5-layers.json"))
    assert (quantised.kind, quantised.number_type, linear.number_type) == ("CaskConvolution", "int8", "fp32")
    assert formats.layer_counts(read("8.5-layers.json")) == {"fp32": 1, "int8": 1}
    assert formats.layer_counts(read("11.1-layers.json")) == {"fp16": 1}
    assert [layer.name for layer in formats.engine_layers(read("8.2-layers.json"))] == ["conv1 + PWN(relu)", "fc"]
    assert formats.layer_counts(read("8.2-layers.json")) == {}


def test_a_refusal_is_its_first_error_with_a_remedy():
    complaint = formats.complaint_of(read("11.2-refusal.log"))
    assert complaint.startswith("ITensor::getDimensions: Error Code 4")
    assert formats.explained(complaint, "Sub").endswith("; let all inputs of Sub have one number type")
    assert formats.explained("something else") == "something else"


def test_what_trtexec_thinks_of_its_measurement_is_kept():
    assert formats.warnings_of(read("10.3-orin.log")) == [
        "GPU compute time is unstable, with coefficient of variance = 6.81%."
    ]
    assert formats.warnings_of(read("8.5-xavier.log"))[0].startswith("Throughput may be bound by Enqueue Time")
