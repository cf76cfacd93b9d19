"""What a packed matrix is made of: packed bytes, their layout, the source where it is needed."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npublas import _core, _product, _weights_file
from npublas._lanes import tile_depth
from npublas._weights_file import Layout, SourceSection, Stamp
from npublas.errors import NpuError

__all__ = ["Operand", "pack_array", "pack_quantized"]

_INTEGERS = ("int8", "uint8")
_FLOATS = ("float16", "bfloat16", "float32", "float64")


class Operand:
    """What a PackedMatrix and its copies share: the packed bytes, and how to do without them."""

    def __init__(
        self,
        weights: _core.Weights,
        layout: Layout,
        source: NDArray[Any] | SourceSection | None,
        stamp: Stamp | None = None,
    ) -> None:
        self.weights = weights
        self.layout = layout
        self.source = source
        self.stamp = stamp
        self.dtype = _weights_file.dtype_named(layout.dtype)
        fixed = layout.activation_scales
        self.activation_scales = None if fixed is None else np.array(fixed, np.float32)
        self._unpacked: NDArray[Any] | None = None
        # The last copy that goes takes along what the NPU's memory holds of it.
        weakref.finalize(self, _product.forget, weights).atexit = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape without the padding of a rotation."""
        shape = self.layout.shape
        if self.layout.rotation is None:
            return shape
        return (*shape[:-2], self.layout.rotation[1], shape[-1])

    @property
    def name(self) -> str:
        """What it was, for when it isn't any more."""
        sizes = " × ".join(map(str, self.shape))
        return f"{sizes} of {self.dtype}" + (f", {self.stamp.path}" if self.stamp else "")

    def dense(self) -> NDArray[Any]:
        if self._unpacked is None:
            dense = self._restored()
            dense.flags.writeable = False
            self._unpacked = dense
        return self._unpacked

    def _restored(self) -> NDArray[Any]:
        if isinstance(self.source, SourceSection):
            return self.source.read()
        if self.source is not None:
            return self.source
        integers = self.layout.method == "integers"
        *stack, k, n = shape = self.layout.shape
        packed_type = self.dtype if integers else np.dtype(np.float32)
        array: NDArray[Any] = np.empty(shape, packed_type)
        if self.layout.order == "F":
            array = np.empty((*stack, n, k), packed_type).swapaxes(-1, -2)
        self.weights.unpack_into(array if stack else array[np.newaxis])
        return array.astype(self.dtype, order="K", copy=False)


def pack_array(b: NDArray[Any], precision: str) -> Operand:
    name = b.dtype.name
    if name not in (*_INTEGERS, *_FLOATS, "int4"):
        raise TypeError(
            f"pack() takes {', '.join(_INTEGERS + _FLOATS)}, not {b.dtype}; convert the array with "
            ".astype(...) first"
        )
    if b.ndim not in (2, 3):
        raise ValueError(
            f"pack() takes a matrix or a stack of them, of 2 or 3 dimensions, not {b.ndim}"
        )
    if name == "int4":  # a byte each, in NumPy
        weights, _ = _pack_stack(b.astype(np.int8), "int8", "int4")
        return Operand(weights, _layout(weights, b.shape, "int8", "C"), None)
    if not b.dtype.isnative:
        b = b.astype(b.dtype.newbyteorder("="))
    method = "integers" if name in _INTEGERS else precision
    order = "F" if abs(b.strides[-2]) < abs(b.strides[-1]) else "C"
    weights, exact = _pack_stack(b, name, method)
    source = None
    if method == "float32" and not exact:
        source = np.array(b.swapaxes(-1, -2) if order == "F" else b, order="C", copy=True)
        source = source.swapaxes(-1, -2) if order == "F" else source
    return Operand(weights, _layout(weights, b.shape, name, order), source)


def pack_quantized(q: Any) -> Operand:
    """Pack a QuantizedMatrix: its integers, with its scales."""
    data: NDArray[np.int8] = q.data
    if q.axis == -2:
        raise ValueError(
            f"{q!r} can't be packed: its scales change along K. Quantise it with axis=-1, for "
            "scales of its columns"
        )
    if q.rotation is not None and q.rotation.axis != -2:
        raise ValueError(f"{q!r} can't be packed: it was rotated to be the left operand")
    if data.ndim not in (2, 3):
        raise ValueError(
            f"pack() takes a matrix or a stack of them, of 2 or 3 dimensions, not {data.ndim}"
        )
    k, n = data.shape[-2:]
    method = "int4" if q.bits == 4 else "int8"
    depth = tile_depth(q.bits, k, n, q.group_size)
    tiles = -(-k // depth)
    # Of each tile those of the group in which it lies.
    of_tile = np.arange(tiles) * depth // (q.group_size or max(k, 1))
    scales = np.broadcast_to(
        q.scales[..., of_tile if q.scales.shape[-2] > 1 else of_tile * 0, :],
        (*data.shape[:-2], tiles, n),
    )
    weights, _ = _pack_stack(data, "int8", method, depth, np.ascontiguousarray(scales))
    layout = _layout(
        weights,
        data.shape,
        "float32",
        "C",
        rotation=None if q.rotation is None else (q.rotation.block, q.rotation.length),
        activation_scales=None
        if q.activation_scales is None
        else tuple(q.activation_scales[of_tile].tolist()),
    )
    return Operand(weights, layout, None)


def _pack_stack(
    b: NDArray[Any],
    name: str,
    method: str,
    group: int = 0,
    scales: NDArray[np.float32] | None = None,
) -> tuple[_core.Weights, bool]:
    stack = b if b.ndim == 3 else b[np.newaxis]
    if name == "bfloat16":
        stack = stack.view(np.uint16)  # the core reads its bits
    try:
        return _core.Weights.pack(stack, dtype=name, method=method, group=group, scales=scales)
    except NpuError as error:
        raise ValueError(str(error)) from None


def _layout(
    weights: _core.Weights,
    shape: tuple[int, ...],
    dtype: str,
    order: str,
    rotation: tuple[int, int] | None = None,
    activation_scales: tuple[float, ...] | None = None,
) -> Layout:
    grid = weights.grid
    return Layout(
        shape=shape,
        dtype=dtype,
        packed_dtype=grid["dtype"],
        method=grid["method"],
        order=order,
        tile_depth=grid["tile_depth"],
        tile_columns=grid["tile_columns"],
        entries=tuple(weights.entries),
        rotation=rotation,
        activation_scales=activation_scales,
    )
