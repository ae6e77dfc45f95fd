"""The GPU through NVIDIA's driver library: what it is, and memory on it. Runs on the board: Python 3.8.

TensorRT's own bindings bring no way to copy an array to the GPU, and the driver is there wherever TensorRT is.
"""

from __future__ import annotations

import ctypes as c
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_LIBRARY = "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # the driver's numbers for them
_NAME_BYTES = 100


class CudaError(Exception):
    """A call of the driver failed."""


class Gpu:
    """The first GPU, with the context that TensorRT uses too; raises CudaError where there is none."""

    def __init__(self) -> None:
        """Find the GPU and make it current in this thread."""
        try:
            self._library = c.CDLL(_LIBRARY)
        except OSError as error:
            raise CudaError(f"there is no NVIDIA driver ({_LIBRARY})") from error
        self.call("cuInit", 0)
        self._device = c.c_int()
        self.call("cuDeviceGet", c.byref(self._device), 0)
        context = c.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", c.byref(context), self._device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver and check its status."""
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            text = c.c_char_p()
            self._library.cuGetErrorName(status, c.byref(text))
            raise CudaError(f"{name}: {(text.value or b'').decode() or status}")

    def facts(self) -> Mapping[str, str]:
        """Return its name, its compute capability, and the CUDA version of the driver."""
        name = c.create_string_buffer(_NAME_BYTES)
        self.call("cuDeviceGetName", name, _NAME_BYTES, self._device)
        major, minor, driver = c.c_int(), c.c_int(), c.c_int()
        self.call("cuDeviceGetAttribute", c.byref(major), _CAPABILITY_MAJOR, self._device)
        self.call("cuDeviceGetAttribute", c.byref(minor), _CAPABILITY_MINOR, self._device)
        self.call("cuDriverGetVersion", c.byref(driver))
        return {
            "gpu": name.value.decode(errors="replace"),
            "compute_capability": f"{major.value}.{minor.value}",
            "cuda": f"{driver.value // 1000}.{driver.value % 1000 // 10}",
        }

    def stream(self) -> c.c_void_p:
        """Return a new queue of work."""
        stream = c.c_void_p()
        self.call("cuStreamCreate", c.byref(stream), 0)
        return stream

    def allocate(self, size_bytes: int) -> c.c_uint64:
        """Return the address of new memory on the GPU; it is freed with the process."""
        address = c.c_uint64()
        self.call("cuMemAlloc_v2", c.byref(address), c.c_size_t(size_bytes))
        return address

    def send(self, array: Any, address: c.c_uint64, stream: c.c_void_p) -> None:
        """Queue the copy of a contiguous array to the GPU."""
        source = c.c_void_p(array.ctypes.data)
        self.call("cuMemcpyHtoDAsync_v2", address, source, c.c_size_t(array.nbytes), stream)

    def fetch(self, address: c.c_uint64, array: Any, stream: c.c_void_p) -> None:
        """Queue the copy from the GPU into a contiguous array."""
        target = c.c_void_p(array.ctypes.data)
        self.call("cuMemcpyDtoHAsync_v2", target, address, c.c_size_t(array.nbytes), stream)

    def wait(self, stream: c.c_void_p) -> None:
        """Wait until all queued work is done."""
        self.call("cuStreamSynchronize", stream)
