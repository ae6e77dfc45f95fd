"""Stands in for trtexec where there is no GPU: takes the flags of one version, writes its formats, computes on the CPU.

    python stand_in_trtexec.py BANNER MEMORY_MIB JOURNAL FLAG...

An "engine" is the ONNX file itself. A flag that the version does not have is refused, as the real one does. Building
fails for want of memory with more scratch memory than MEMORY_MIB. JOURNAL gets one line for every start.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

ALWAYS = {
    *("onnx", "saveEngine", "loadEngine", "loadInputs", "iterations", "duration", "warmUp", "noTF32", "help"),
    *("timingCacheFile", "exportTimes", "exportOutput", "exportProfile", "exportLayerInfo", "dumpProfile"),
}
PRECISIONS, OLD_TIMING = {"fp16", "int8"}, {"useSpinWait", "useCudaGraph", "noDataTransfers", "separateProfileRun"}
NEW_MEMORY = {"memPoolSize", "profilingVerbosity"}
FLAGS = {
    "8201": ALWAYS | PRECISIONS | OLD_TIMING | {"workspace", "buildOnly", "nvtxMode"},
    "8502": ALWAYS | PRECISIONS | OLD_TIMING | NEW_MEMORY | {"workspace", "buildOnly", "nvtxMode"},
    "100300": ALWAYS | PRECISIONS | OLD_TIMING | NEW_MEMORY | {"skipInference", "builderOptimizationLevel"},
    "11.1.0.106": ALWAYS
    | NEW_MEMORY
    | {"skipInference", "builderOptimizationLevel", "includeDataTransfers", "noCudaGraph", "noSpinWait"},
}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main(banner: str, memory_mib: str, journal: str, *flags: str) -> int:
    say(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{banner}] # trtexec {' '.join(flags)}")
    given = dict(flag[2:].partition("=")[::2] for flag in flags)
    unknown = [name for name in given if name not in FLAGS[banner]]
    if unknown:
        say(f"[11/21/2026-10:00:00] [E] Unknown option: --{unknown[0]}")
        return 1
    if "help" not in given:
        with Path(journal).open("a") as file:
            file.write(" ".join(flags) + "\n")
    if "onnx" in given:
        return build(given, int(memory_mib))
    if "loadEngine" in given:
        infer(given, banner)
    return 0


def build(given: dict[str, str], memory_mib: int) -> int:
    import onnx

    model = onnx.load(given["onnx"])
    for number, node in enumerate(model.graph.node):
        if node.op_type == "Det":
            say(f"[E] [TRT] ModelImporter.cpp:768: While parsing node number {number} [Det -> y]:")
            say("[E] [TRT] ModelImporter.cpp:770: --- Begin node ---")
            say('input: "x"\noutput: "y"\nop_type: "Det"')
            say("[E] [TRT] ModelImporter.cpp:773: --- End node ---")
            say("[E] [TRT] ModelImporter.cpp:775: ERROR: builtin_op_importers.cpp:5428 In function importPlugin:")
            say('[8] Assertion failed: creator && "Plugin not found, are the plugin name and version right?"')
            say("[E] Failed to parse onnx file")
            return 1
    scratch_mib = int(given.get("workspace") or given["memPoolSize"].partition(":")[2])
    if scratch_mib > memory_mib:
        say("[E] Error[2]: [defaultAllocator.cpp::allocate::20] Error Code 2: OutOfMemory (no further information)")
        return 1
    Path(given["saveEngine"]).write_bytes(Path(given["onnx"]).read_bytes())
    Path(given["timingCacheFile"]).write_bytes(b"tactics")
    return 0


def infer(given: dict[str, str], banner: str) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(given["loadEngine"], providers=["CPUExecutionProvider"])
    files = dict(part.split(":") for part in given["loadInputs"].split(","))
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    feed = {end.name: np.fromfile(files[end.name], types[end.type]).reshape(end.shape) for end in session.get_inputs()}
    times_ms = []
    for _ in range(int(given["iterations"])):
        started = time.perf_counter()
        outputs = session.run(None, feed)
        times_ms.append((time.perf_counter() - started) * 1e3)
    if "exportTimes" in given:
        records = [{"h2dMs": 0.0, "computeMs": value, "d2hMs": 0.0, "latencyMs": value} for value in times_ms]
        Path(given["exportTimes"]).write_text(json.dumps(records))
    if "exportOutput" in given:
        ends = zip(session.get_outputs(), outputs, strict=True)
        records = [
            {"name": end.name, "dimensions": "x".join(map(str, array.shape)), "values": array.ravel().tolist()}
            for end, array in ends
        ]
        Path(given["exportOutput"]).write_text(json.dumps(records))
    if "exportProfile" in given:
        Path(given["exportProfile"]).write_text(profile(given["loadEngine"], banner))


def profile(engine: str, banner: str) -> str:
    import onnx

    median = "" if banner == "8201" else ', "medianMs" : 0.1'
    records = [
        f'{{ "name" : "{node.name}", "timeMs" : 5, "averageMs" : 0.1{median}, "percentage" : 10 }}'
        for node in onnx.load(engine).graph.node
    ]
    return "[\n  " + "\n, ".join(['{ "count" : 50 }', *records]) + "\n]\n"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
