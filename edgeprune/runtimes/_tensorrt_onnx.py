"""Reads the inputs of an ONNX file without the onnx package. Runs on the board: standard library of Python 3.8."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# Numbers of fields in the onnx.proto schema.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT = 5, 11
_TENSOR_NAME = 8
_END_NAME, _END_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_KIND, _TENSOR_SHAPE = 1, 1, 2
_SHAPE_SIZE, _SIZE_VALUE = 1, 1
_KINDS = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # ways in which a field is written


class Input(NamedTuple):
    """One input of a network: its name, sizes and NumPy type."""

    name: str
    shape: tuple[int, ...]
    type: str


def inputs_of(path: str) -> list[Input]:
    """Return the inputs in their order, without the constants; raises ValueError for sizes that are not fixed."""
    inputs, constants = [], set()
    graph = next(_fields(memoryview(Path(path).read_bytes()), _MODEL_GRAPH), memoryview(b""))
    for number, value in _all_fields(graph):
        if number == _GRAPH_INPUT:
            inputs.append(_input(value))
        elif number == _GRAPH_INITIALIZER:
            constants.add(bytes(next(_fields(value, _TENSOR_NAME), b"")).decode())
    return [found for found in inputs if found.name not in constants]


def _input(end: memoryview) -> Input:
    name = bytes(next(_fields(end, _END_NAME))).decode()
    tensor = next(_fields(next(_fields(end, _END_TYPE)), _TYPE_TENSOR))
    kind = next(_fields(tensor, _TENSOR_KIND), 0)
    shape = next(_fields(tensor, _TENSOR_SHAPE), memoryview(b""))
    sizes = [next(_fields(size, _SIZE_VALUE), 0) for size in _fields(shape, _SHAPE_SIZE)]
    if not all(sizes) or kind not in _KINDS:
        raise ValueError(f"the input {name!r} has no fixed sizes or an unknown type; export it for one input size")
    return Input(name, tuple(sizes), _KINDS[kind])


def _fields(message: memoryview, wanted: int) -> Iterator[Any]:
    return (value for number, value in _all_fields(message) if number == wanted)


def _all_fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of each field: an integer, or the bytes of what is nested."""
    position = 0
    value: Any
    while position < len(message):
        key, position = _varint(message, position)
        number, way = key >> 3, key & 7
        if way == _VARINT:
            value, position = _varint(message, position)
        elif way in (_FIXED32, _FIXED64):
            size = 4 if way == _FIXED32 else 8
            value, position = bytes(message[position : position + size]), position + size
        elif way == _BYTES:
            size, position = _varint(message, position)
            value, position = message[position : position + size], position + size
        else:
            raise ValueError("this is no ONNX file")
        yield number, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message):
            raise ValueError("this is no ONNX file")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
