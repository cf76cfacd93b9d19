"""What a packed matrix is made of: packed bytes, their layout, the source where it is needed."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npublas import _core, _lanes, _product, _symmetric, _weights_file
from npublas._hadamard import Rotation
from npublas._lanes import Lanes, Tiles
from npublas._quantized import QuantizedMatrix, own
from npublas._types import Precision
from npublas._weights_file import Layout, SourceSection, Stamp
from npublas.errors import NpuError, WeightsFileError

__all__ = ["Operand", "pack_array", "pack_quantized"]

_INTEGERS = ("int8", "uint8")
_PRECISIONS: dict[str, Precision] = {
    "float16": "float16",
    "float32": "float32",
    "int8": "int8",
    "int4": "int8",  # of the activations
}
_PACKABLE = (*_INTEGERS, "int4", "float16", "bfloat16", "float32", "float64")


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
        self.is_quantized = layout.method in ("int8", "int4") and layout.dtype not in _INTEGERS
        self.depth: int = layout.shape[-2]  # K, with the padding of a rotation
        self._unpacked: NDArray[Any] | None = None
        self._integers: tuple[Lanes, Tiles] | None = None
        #: For products that NumPy can do as it stands.
        self.plain: _product.Plain | None = None
        if len(layout.shape) == 2 and not self.is_quantized and layout.dtype != "bfloat16":
            *_, k, n = layout.shape
            self.plain = _product.Plain(self.dtype, layout.dtype, self.precision, k, n, weights)
        # The last copy that goes takes along what the NPU's memory holds of it.
        weakref.finalize(self, _product.forget, weights).atexit = False

    @property
    def precision(self) -> Precision | None:
        """The precision that it was packed for; None for exact integers, which have none."""
        return None if self.layout.dtype in _INTEGERS else _PRECISIONS[self.layout.method]

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

    def times(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Sums of quantised `x`, a stack of matrices that isn't rotated, by quantised weights.

        They are what the NPU has: the same integers, with the same scales.
        """
        if self._integers is None:
            lanes, cut = self._restored_integers()
            # As floats they are multiplied by BLAS, to the same sums.
            self._integers = lanes._replace(data=lanes.data.astype(np.float32)), cut
        lanes, cut = self._integers
        rotation = self.layout.rotation
        return _lanes.product(
            x.astype(np.result_type(x.dtype, np.float32), copy=False),
            lanes,
            cut,
            block=None if rotation is None else rotation[0],
            fixed=self.activation_scales,
            watch=None,
            floats=self._dequantized,
            exact_sums=_lanes.in_floats,
        )

    def _dequantized(self) -> NDArray[np.float32]:
        """The matrix that the integers stand for, without a rotation."""
        lanes, cut = self._restored_integers()
        rotation = self.layout.rotation
        return QuantizedMatrix(
            own(lanes.data.swapaxes(-1, -2), fresh=True),
            own(lanes.scales.swapaxes(-1, -2), fresh=True),
            8,
            -1,
            cut.depth,
            None if rotation is None else Rotation(*rotation, -2),
        )._dequantized()

    def _restored_integers(self) -> tuple[Lanes, Tiles]:
        """The integers in the packed tiles, with a scale for each tile and column."""
        layout = self.layout
        with self.naming_its_file():
            self.weights.check()
        *stack, k, n = layout.shape
        batch = stack[0] if stack else 1
        nibbles = layout.method == "int4"
        depth, columns = layout.tile_depth, layout.tile_columns
        surface_depth, block = -(-depth // 32) * 32, 64 if nibbles else 32
        surface = surface_depth * columns // (2 if nibbles else 1)
        scales_at = -(-surface // 64) * 64
        data = np.empty((batch, n, k), np.int8)
        scales = np.ones((batch, n, _symmetric.groups(k, depth)), np.float32)
        packed = np.frombuffer(self.weights.data, np.uint8)
        places = (
            (item, column, row)
            for item in range(batch)
            for column in range(0, n, columns)
            for row in range(0, k, depth)
        )
        for (item, column, row), (offset, *_) in zip(places, layout.entries, strict=True):
            tile = packed[offset : offset + surface]
            if nibbles:  # two neighbours along K in a byte, the first in its lower half
                both = np.stack([tile & 15, tile >> 4], axis=-1).reshape(-1)
                tile = (both ^ 8) - np.uint8(8)
            values = tile.view(np.int8).reshape(columns // block, -1, block, 32)
            lanes = values.transpose(0, 2, 1, 3).reshape(columns, surface_depth)
            width, height = min(columns, n - column), min(depth, k - row)
            data[item, column : column + width, row : row + height] = lanes[:width, :height]
            at = offset + scales_at
            scales[item, column : column + width, row // depth] = (
                packed[at : at + 8 * width].view(np.float64)
            )  # fmt: skip
        if not stack:
            data, scales = data[0], scales[0]
        return Lanes(data, scales, depth), Tiles(4 if nibbles else 8, depth, depth)

    def read_source(self) -> NDArray[Any] | None:
        """The matrix as it was, where it is kept."""
        if isinstance(self.source, SourceSection):
            with self.naming_its_file():
                return self.source.read()
        return self.source

    @contextmanager
    def naming_its_file(self) -> Iterator[None]:
        """Name the file in the error if it turns out to be altered."""
        try:
            yield
        except WeightsFileError as error:
            raise self.altered(str(error)) from None

    def altered(self, how: str) -> WeightsFileError:
        return WeightsFileError(f"{self.stamp.path}: {how}" if self.stamp else how)

    def _restored(self) -> NDArray[Any]:
        source = self.read_source()
        if source is not None:
            return source
        integers = self.layout.method == "integers"
        *stack, k, n = shape = self.layout.shape
        packed_type = self.dtype if integers else np.dtype(np.float32)
        array: NDArray[Any] = np.empty(shape, packed_type)
        if self.layout.order == "F":
            array = np.empty((*stack, n, k), packed_type).swapaxes(-1, -2)
        with self.naming_its_file():
            self.weights.unpack_into(array if stack else array[np.newaxis])
        return array.astype(self.dtype, order="K", copy=False)


def pack_array(b: NDArray[Any], precision: str) -> Operand:
    name = b.dtype.name
    if name not in _PACKABLE:
        raise TypeError(
            f"pack() takes {', '.join(_PACKABLE)}, not {b.dtype}; convert the array with "
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
    cut = _lanes.tiles(q.bits, k, n, q.group_size)
    method, depth = ("int4" if cut.bits == 4 else "int8"), cut.depth
    tiles = -(-k // depth)
    # Of each tile those of the group in which it lies.
    of_tile = cut.groups(k)[:tiles]
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
