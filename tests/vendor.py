"""The vendor's interface for ctypes, written from its documented sizes and offsets, and a small
program around it. It knows nothing of npublas: any library with this interface runs it.
"""

from __future__ import annotations

import ctypes as ct
from types import TracebackType
from typing import Any

import numpy as np

FLOAT16_TO_FLOAT32, INT8_TO_INT32, INT8_TO_INT8 = 1, 2, 3
FLOAT16_TO_FLOAT16, INT8_TO_FLOAT32, INT4_TO_INT16 = 4, 9, 10
NORMAL, NATIVE, TRANSPOSED = 0, 1, 2
TO_DEVICE, FROM_DEVICE, BIDIRECTIONAL = 1, 2, 3
FAIL, TIMEOUT, MALLOC_FAIL, PARAM_INVALID, CTX_INVALID = -1, -2, -4, -5, -7

# The types of the operands (int4 as int8, one value each) and of the result.
DTYPES: dict[int, tuple[type[Any], type[Any]]] = {
    FLOAT16_TO_FLOAT32: (np.float16, np.float32),
    INT8_TO_INT32: (np.int8, np.int32),
    INT8_TO_INT8: (np.int8, np.int8),
    FLOAT16_TO_FLOAT16: (np.float16, np.float16),
    INT8_TO_FLOAT32: (np.int8, np.float32),
    INT4_TO_INT16: (np.int8, np.int16),
}


class Info(ct.Structure):
    _fields_ = [
        ("M", ct.c_int32),
        ("K", ct.c_int32),
        ("N", ct.c_int32),
        ("type", ct.c_int32),
        ("B_layout", ct.c_int16),
        ("B_quant_type", ct.c_int16),
        ("AC_layout", ct.c_int16),
        ("AC_quant_type", ct.c_int16),
        ("iommu_domain_id", ct.c_int32),
        ("group_size", ct.c_int16),
        ("reserved", ct.c_int8 * 34),
    ]


class TensorAttr(ct.Structure):
    _fields_ = [
        ("name", ct.c_char * 256),
        ("n_dims", ct.c_uint32),
        ("dims", ct.c_uint32 * 16),
        ("size", ct.c_uint32),
        ("type", ct.c_int32),
    ]

    def shape(self) -> tuple[int, ...]:
        return tuple(self.dims[: self.n_dims])


class IoAttr(ct.Structure):
    _fields_ = [("A", TensorAttr), ("B", TensorAttr), ("C", TensorAttr)]


class TensorMem(ct.Structure):
    _fields_ = [
        ("virt_addr", ct.c_void_p),
        ("phys_addr", ct.c_uint64),
        ("fd", ct.c_int32),
        ("offset", ct.c_int32),
        ("size", ct.c_uint32),
        ("flags", ct.c_uint32),
        ("priv_data", ct.c_void_p),
    ]


class QuantParams(ct.Structure):
    _fields_ = [
        ("name", ct.c_char * 256),
        ("scale", ct.POINTER(ct.c_float)),
        ("scale_len", ct.c_int32),
        ("zp", ct.POINTER(ct.c_int32)),
        ("zp_len", ct.c_int32),
    ]


class Shape(ct.Structure):
    _fields_ = [("M", ct.c_int32), ("K", ct.c_int32), ("N", ct.c_int32)]


class SdkVersion(ct.Structure):
    _fields_ = [("api_version", ct.c_char * 256), ("drv_version", ct.c_char * 256)]


class MemSize(ct.Structure):
    _fields_ = [
        ("weight", ct.c_uint32),
        ("internal", ct.c_uint32),
        ("dma_total", ct.c_uint64),
        ("sram_total", ct.c_uint32),
        ("sram_free", ct.c_uint32),
        ("reserved", ct.c_uint32 * 10),
    ]


CTX, MEM, P = ct.c_uint64, ct.POINTER(TensorMem), ct.POINTER
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "rknn_matmul_create": (ct.c_int, [P(CTX), P(Info), P(IoAttr)]),
    "rknn_matmul_create_dynamic_shape": (
        ct.c_int,
        [P(CTX), P(Info), ct.c_int, P(Shape), P(IoAttr)],
    ),
    "rknn_matmul_set_io_mem": (ct.c_int, [CTX, MEM, P(TensorAttr)]),
    "rknn_matmul_set_core_mask": (ct.c_int, [CTX, ct.c_int]),
    "rknn_matmul_set_quant_params": (ct.c_int, [CTX, P(QuantParams)]),
    "rknn_matmul_get_quant_params": (ct.c_int, [CTX, P(QuantParams), P(ct.c_float)]),
    "rknn_matmul_set_dynamic_shape": (ct.c_int, [CTX, P(Shape)]),
    "rknn_matmul_run": (ct.c_int, [CTX]),
    "rknn_matmul_destroy": (ct.c_int, [CTX]),
    "rknn_destroy": (ct.c_int, [CTX]),
    "rknn_B_normal_layout_to_native_layout": (
        ct.c_int,
        [ct.c_void_p, ct.c_void_p, ct.c_int, ct.c_int, P(Info)],
    ),
    "rknn_create_mem": (MEM, [CTX, ct.c_uint32]),
    "rknn_create_mem2": (MEM, [CTX, ct.c_uint64, ct.c_uint64]),
    "rknn_create_mem_from_fd": (MEM, [CTX, ct.c_int32, ct.c_void_p, ct.c_uint32, ct.c_int32]),
    "rknn_create_mem_from_phys": (MEM, [CTX, ct.c_uint64, ct.c_void_p, ct.c_uint32]),
    "rknn_destroy_mem": (ct.c_int, [CTX, MEM]),
    "rknn_mem_sync": (ct.c_int, [CTX, MEM, ct.c_int]),
    "rknn_query": (ct.c_int, [CTX, ct.c_int, ct.c_void_p, ct.c_uint32]),
}


def load(path: str) -> ct.CDLL:
    library = ct.CDLL(path)
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def bytes_of(mem: Any) -> np.ndarray[Any, Any]:
    """The CPU's view of a memory: its data start at virt_addr + offset."""
    m = mem.contents
    buffer = (ct.c_uint8 * m.size).from_address(m.virt_addr + m.offset)
    return np.frombuffer(buffer, np.uint8)


def pack_int4(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Two to a byte, the first in the low nibble."""
    pairs = values.reshape(-1, 2).astype(np.uint8) & 15
    return (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8)


class Matmul:
    """A context with its three memories, used as the vendor's manual shows it."""

    def __init__(
        self,
        library: ct.CDLL,
        m: int,
        k: int,
        n: int,
        kind: int,
        b_layout: int = NORMAL,
        ac_layout: int = NORMAL,
        *,
        b_quant: int = 0,
        padded_m: int | None = None,
    ) -> None:
        self.lib, self.kind, self.shape = library, kind, (m, k, n)
        self.b_layout, self.ac_layout = b_layout, ac_layout
        self.ctx, self.io = CTX(), IoAttr()
        info = Info(m, k, n, kind, b_layout, b_quant, ac_layout)
        self.status = library.rknn_matmul_create(
            ct.byref(self.ctx), ct.byref(info), ct.byref(self.io)
        )
        if self.status:
            raise OSError(self.status, "rknn_matmul_create")
        scale = (padded_m or m) / m
        self.mems = {
            "A": library.rknn_create_mem(self.ctx, round(self.io.A.size * scale)),
            "B": library.rknn_create_mem(self.ctx, self.io.B.size),
            "C": library.rknn_create_mem(self.ctx, round(self.io.C.size * scale)),
        }

    def __enter__(self) -> Matmul:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        for mem in self.mems.values():
            self.lib.rknn_destroy_mem(self.ctx, mem)
        self.lib.rknn_matmul_destroy(self.ctx)

    def _fill(self, name: str, values: np.ndarray[Any, Any]) -> None:
        flat = np.ascontiguousarray(values).ravel()
        raw = pack_int4(flat) if self.kind == INT4_TO_INT16 else flat.view(np.uint8)
        bytes_of(self.mems[name])[: raw.size] = raw

    def write_a(self, a: np.ndarray[Any, Any]) -> None:
        if self.ac_layout == NATIVE:
            groups, _, x = self.io.A.shape()
            a = a.reshape(a.shape[0], groups, x).transpose(1, 0, 2)
        self._fill("A", a)

    def write_b(self, b: np.ndarray[Any, Any]) -> None:
        if self.b_layout == NATIVE:
            tiles, groups, y, z = self.io.B.shape()
            b = b.reshape(groups, z, tiles, y).transpose(2, 0, 3, 1)
        elif self.b_layout == TRANSPOSED:
            b = b.T
        self._fill("B", b)

    def read_c(self, rows: int | None = None) -> np.ndarray[Any, Any]:
        """C from the surface; `rows` if that is higher than M."""
        m, _, n = self.shape
        rows = rows or m
        dtype = DTYPES[self.kind][1]
        flat = bytes_of(self.mems["C"])[: rows * n * np.dtype(dtype).itemsize].view(dtype)
        if self.ac_layout == NATIVE:
            w = self.io.C.shape()[2]
            flat = flat.reshape(n // w, rows, w).transpose(1, 0, 2)
        return flat.reshape(rows, n)[:m].copy()

    def bind(self, *names: str) -> None:
        for name in names or ("A", "B", "C"):
            attr = getattr(self.io, name)
            status = self.lib.rknn_matmul_set_io_mem(self.ctx, self.mems[name], ct.byref(attr))
            if status:
                raise OSError(status, f"rknn_matmul_set_io_mem {name}")

    def sync(self, name: str, mode: int) -> None:
        status = self.lib.rknn_mem_sync(self.ctx, self.mems[name], mode)
        if status:
            raise OSError(status, "rknn_mem_sync")

    def run(self) -> int:
        return int(self.lib.rknn_matmul_run(self.ctx))

    def __call__(self, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """One product with everything that a careful program does."""
        self.write_a(a)
        self.write_b(b)
        self.bind()
        self.sync("A", TO_DEVICE)
        self.sync("B", TO_DEVICE)
        status = self.run()
        if status:
            raise OSError(status, "rknn_matmul_run")
        self.sync("C", FROM_DEVICE)
        return self.read_c()
