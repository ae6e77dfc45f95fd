from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.bench import telemetry
from tests.waiting import until


def tree(folder, files):
    """Write files as a board's kernel shows them; NUL-terminated where the device tree does so."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return str(folder)


PI = {
    "proc/stat": "cpu  1000 20 300 90000 50 6 7 8 0 0\ncpu0 1 2 3",
    "proc/meminfo": "MemTotal:        3885396 kB\nMemFree:         2903332 kB\nMemAvailable:    3456789 kB",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1800000",
    "sys/class/thermal/thermal_zone0/temp": "48312",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "3",
}
ORIN = {
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1510400",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "729600",
    "sys/class/devfreq/17000000.gpu/cur_freq": "624750000",
    "sys/class/devfreq/15340000.vic/cur_freq": "729600000",
    "sys/class/thermal/thermal_zone0/temp": "52968",
    "sys/class/thermal/thermal_zone1/temp": "-256000",
    "sys/class/thermal/cooling_device3/type": "17000000.gpu",
    "sys/class/thermal/cooling_device3/cur_state": "2",
    "sys/class/hwmon/hwmon1/name": "ina3221",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon1/in1_input": "5072",
    "sys/class/hwmon/hwmon1/curr1_input": "1024",
    "sys/class/hwmon/hwmon1/in2_label": "NC",
    "sys/class/hwmon/hwmon1/in2_input": "5072",
    "sys/class/hwmon/hwmon1/curr2_input": "9",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages",
    "sys/class/hwmon/hwmon1/in7_input": "3",
    "sys/class/hwmon/hwmon1/curr7_input": "9",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "0",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "4",
}
NANO = {
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0": "POM_5V_IN",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input": "2100",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_1": "NC",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power1_input": "7",
    "sys/class/devfreq/57000000.gpu/cur_freq": "921600000",
}


def test_a_raspberry_pi(tmp_path):
    seen = telemetry.read(tree(tmp_path, PI))
    assert seen["busy_s"] == pytest.approx((1000 + 20 + 300 + 6 + 7 + 8) / 100)
    assert (seen["clock_mhz"], seen["temperature_c"], seen["gpu_clock_mhz"]) == (1800.0, 48.312, None)
    assert seen["throttled"] == ["under-voltage", "throttled"]  # and the fan that turns is not throttling
    assert seen["throttle_history"] == ["under-voltage", "throttled"]
    assert seen["memory_available_bytes"] == 3456789 * 1024
    assert seen["power_mw"] == {}


def test_a_jetson_orin(tmp_path):
    seen = telemetry.read(tree(tmp_path, ORIN))
    assert (seen["clock_mhz"], seen["gpu_clock_mhz"]) == (1510.4, 624.8)
    assert seen["temperature_c"] == 52.968  # the sensor that is off does not count
    assert seen["throttled"] == ["17000000.gpu slowed"]
    assert seen["power_mw"] == {"VDD_IN": pytest.approx(5072 * 1.024)}
    assert seen["overcurrent_events"] == 4


def test_a_jetson_nano(tmp_path):
    seen = telemetry.read(tree(tmp_path, NANO))
    assert seen["power_mw"] == {"POM_5V_IN": 2100.0}
    assert seen["gpu_clock_mhz"] == 921.6


def test_a_board_that_says_nothing(tmp_path):
    seen = telemetry.read(str(tmp_path))
    silent = {"waited_s", "busy_s", "clock_mhz", "gpu_clock_mhz", "temperature_c", "memory_available_bytes"}
    assert {key for key, value in seen.items() if value is None} == silent
    look = telemetry.between(seen, telemetry.read(str(tmp_path)))
    assert (look["other_load"], look["waiting"], look["throttled"]) == (None, None, [])


def test_what_happened_between_two_looks_and_is_over_is_kept(tmp_path):
    before = telemetry.read(tree(tmp_path, {**PI, **ORIN}))
    files = {
        "sys/devices/platform/soc/soc:firmware/get_throttled": "d0000",
        "sys/class/thermal/cooling_device3/cur_state": "0",
        "sys/class/hwmon/hwmon2/oc3_event_cnt": "5",
    }
    look = telemetry.between(before, telemetry.read(tree(tmp_path, files)))
    # The first two were there at the first look; the last two came between.
    expected = ["17000000.gpu slowed", "over-current", "soft temperature limit", "throttled", "under-voltage"]
    assert look["throttled"] == expected


def test_an_old_history_is_not_this_block_s(tmp_path):
    root = tree(tmp_path, {**PI, "sys/devices/platform/soc/soc:firmware/get_throttled": "50000"})
    assert telemetry.between(telemetry.read(root), telemetry.read(root))["throttled"] == []


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("throttled=0x50005", 0x50005),
        ("throttled=0x0", 0),
        ("50005", 0x50005),
        ("", 0),
        ("VCHI initialization failed", 0),
    ],
)
def test_both_spellings_of_the_throttle_bits(text, bits):
    assert telemetry.parse_throttled(text) == bits


@given(st.sets(st.sampled_from(sorted(telemetry.THROTTLE_BITS))), st.sets(st.sampled_from([0, 1, 2, 3])))
def test_every_bit_has_its_name_now_and_since_the_start(now, before):
    bits = sum(1 << bit for bit in now) + sum(1 << bit + 16 for bit in before)
    assert telemetry.throttle_names(bits) == [telemetry.THROTTLE_BITS[bit] for bit in sorted(now)]
    assert telemetry.throttle_history(bits) == [telemetry.THROTTLE_BITS[bit] for bit in sorted(before)]


def test_other_load_leaves_out_this_process():
    before = telemetry.read()
    deadline = time.process_time() + 0.3
    while time.process_time() < deadline:
        pass
    after = telemetry.read()
    own_cores = (after["own_s"] - before["own_s"]) / (after["wall_s"] - before["wall_s"])
    total = (after["busy_s"] - before["busy_s"]) / (after["wall_s"] - before["wall_s"])
    look = telemetry.between(before, after)
    assert look["other_load"] == pytest.approx(max(total - own_cores, 0), abs=1e-3)


@pytest.mark.parametrize(("others_s", "cores"), [(3.0, 0.7), (0.5, 0.25), (0.0, 0.0)])
def test_waiting_for_others_is_counted_in_cores(tmp_path, others_s, cores):
    def at(wall_s, busy_s, *waited_ns):
        files = {f"proc/self/task/{n}/schedstat": f"5000000000 {waited} 31" for n, waited in enumerate(waited_ns)}
        return {**telemetry.read(tree(tmp_path, files)), "wall_s": wall_s, "busy_s": busy_s, "own_s": 0.0}

    before, after = at(10.0, 50.0, 1_000_000_000, 0), at(12.0, 50.0 + others_s, 1_500_000_000, 900_000_000)
    assert telemetry.between(before, after)["waiting"] == cores


def test_a_process_that_shares_its_core_waits_for_it():
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})  # the other one inherits it
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
            before = telemetry.read()
            deadline = time.perf_counter() + 1.0
            while time.perf_counter() < deadline:
                pass
            look = telemetry.between(before, telemetry.read())
            other.kill()
    finally:
        os.sched_setaffinity(0, cores)
    if look["waiting"] is None:
        pytest.skip("this kernel does not count how long threads wait")
    assert look["waiting"] > 0.2


def test_a_program_that_is_missing_or_fails_says_nothing():
    assert telemetry.output_of("no-such-program") == ""
    assert telemetry.output_of("false") == ""
    assert telemetry.output_of("echo", "words") == "words"


# As a Raspberry Pi 5 prints it; rails without a current have no power.
PMIC = """
   1V1_SYS_A current(5)=0.20299340A
    0V8_SW_A current(6)=0.30546610A
  VDD_CORE_A current(7)=1.11625000A
   3V3_DAC_A current(17)=0.00000000A
   1V1_SYS_V volt(13)=1.10402800V
    0V8_SW_V volt(14)=0.79853400V
  VDD_CORE_V volt(15)=0.74944980V
   3V3_DAC_V volt(20)=3.31043600V
     EXT5V_V volt(24)=5.08530000V
      BATT_V volt(25)=0.00000000V
"""


def test_the_rails_of_a_raspberry_pi_5():
    assert telemetry.parse_pmic(PMIC) == {"1V1_SYS": 224.1, "0V8_SW": 243.9, "VDD_CORE": 836.6, "3V3_DAC": 0.0}
    assert telemetry.parse_pmic('error=1 error_msg="Command not registered"') == {}


TEGRASTATS = {
    "AGX Orin, JetPack 7": (
        "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,off] EMC_FREQ 3%@3199 "
        "GR3D_FREQ 12%@[1300,1300] NVENC0 off APE 174 cpu@52.968C/52.968C VDD_GPU_SOC 5139mW/5139mW/5139mW",
        {"gpu_load_percent": 12.0, "gpu_clock_mhz": 1300.0, "memory_load_percent": 3.0, "memory_clock_mhz": 3199.0},
    ),
    "Orin, JetPack 6": (
        "RAM 3456/15388MB (lfb 20x4MB) SWAP 0/7694MB (cached 0MB) CPU [12%@1420,off] EMC_FREQ 24%@2133 "
        "GR3D_FREQ 0%@[306] cpu@52.5C gpu@51C tj@53.5C VDD_IN 5000mW/5000mW",
        {"gpu_load_percent": 0.0, "gpu_clock_mhz": 306.0, "memory_load_percent": 24.0, "memory_clock_mhz": 2133.0},
    ),
    "Xavier NX, not root": (
        "RAM 2130/7774MB (lfb 1004x4MB) SWAP 0/3887MB (cached 0MB) CPU [11%@1190,2%@1190] EMC_FREQ 0% GR3D_FREQ 7% "
        "AO@31C GPU@31.5C PMIC@100C",
        {"gpu_load_percent": 7.0, "memory_load_percent": 0.0},
    ),
    "Nano": (
        "RAM 2145/3964MB (lfb 118x4MB) SWAP 0/1982MB (cached 0MB) CPU [25%@1479,35%@1479] EMC_FREQ 10%@1600 "
        "GR3D_FREQ 0%@921 NVENC 115 POM_5V_IN 4250/4250",
        {"gpu_load_percent": 0.0, "gpu_clock_mhz": 921.0, "memory_load_percent": 10.0, "memory_clock_mhz": 1600.0},
    ),
    "Thor": ("RAM 1/2MB GR3D_FREQ @[1000,1100,1000] VIC off", {"gpu_clock_mhz": 1100.0}),
    "nothing": ("", {}),
}


@pytest.mark.parametrize("board", TEGRASTATS)
def test_the_monitor_of_a_jetson(board):
    line, expected = TEGRASTATS[board]
    assert telemetry.parse_tegrastats(line) == expected


def test_the_monitor_is_asked_for_one_line_and_ended(tmp_path, monkeypatch):
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nwhile :; do echo 'EMC_FREQ 3%@3199'; sleep 0.1; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert telemetry.tegrastats() == {"memory_load_percent": 3.0, "memory_clock_mhz": 3199.0}
    until(lambda: not Path("/proc", (tmp_path / "pid").read_text().strip()).exists())
    monkeypatch.setenv("PATH", "/nowhere")
    assert telemetry.tegrastats() == {}
