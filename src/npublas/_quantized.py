"""Quantised matrices: what they are, and where they meet `matmul`.

Scales can be factored out of a sum over K only where they are the same along K, or along a group of
it. So a right operand has scales per column, a left one per row, and either may have one for all.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npublas import _calibrate, _lanes, _symmetric
from npublas._hadamard import Rotation, rotate
from npublas._lanes import Lanes
from npublas._matmul import ufunc as matmul
from npublas._symmetric import WEIGHT_MAX, Float32s, Int8s

__all__ = ["QuantizedMatrix"]


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedMatrix:
    """A matrix of small integers with float32 scales, or a stack of them. It can't be changed.

    Made by `quantize`; the constructor is for integers and scales that come from elsewhere, and
    copies the arrays that it is given, unless they can't change.
    ``x @ q``, ``np.matmul(x, q)`` and ``npublas.matmul(x, q)`` multiply by it, with ``x`` rounded
    to int8 row by row; so do ``q @ x``, and ``q @ r`` with another one. The result is float32, or
    float64 if ``x`` is.

    Attributes
    ----------
    data : array of int8
        -127 ... 127, or -7 ... 7 for 4 bits. With a rotation, padded along K.
    scales : array of float32
        Of shape (1, N) per column, (K, 1) per row, (1, 1) for all, (groups, N) or (K, groups).
    bits : {8, 4}
    axis : {-1, -2, None}
        Whose elements have scales of their own: columns, rows, or none.
    group_size : int or None
        How many elements along K share a scale.
    rotation : Rotation or None
        What was done to the matrix before it was rounded; it has a `block` of K.
    activation_scales : array of float32 or None
        The fixed scale of the other operand, one per group; None takes the largest of each row.

    Examples
    --------
    >>> import numpy as np, npublas
    >>> q = npublas.QuantizedMatrix(np.array([[1, 2], [3, 4]], np.int8), np.float32([[0.5, 2]]))
    >>> q
    <npublas.QuantizedMatrix 2 × 2, int8 per column, 12 bytes>
    >>> npublas.dequantize(q)
    array([[0.5, 4. ],
           [1.5, 8. ]], dtype=float32)
    >>> np.array([[0.0, 1.0]], np.float32) @ q
    array([[1.5, 8. ]], dtype=float32)
    """

    data: Int8s
    scales: Float32s
    bits: int = 8
    axis: int | None = -1
    group_size: int | None = None
    rotation: Rotation | None = None
    activation_scales: Float32s | None = None

    def __post_init__(self) -> None:
        data = np.asarray(self.data)
        object.__setattr__(self, "group_size", as_group_size(self.group_size))
        check_layout(data.ndim, self.bits, self.axis, self.group_size)
        if data.dtype != np.int8:
            raise TypeError(f"data must be int8, not {data.dtype}")
        q_max = WEIGHT_MAX[self.bits]
        if data.size and not (data.min() >= -q_max and data.max() <= q_max):
            raise ValueError(
                f"data must be within ±{q_max} for bits={self.bits}, not "
                f"{data.min()} ... {data.max()}"
            )
        if self.rotation and (
            self.rotation.axis == self.axis
            or data.shape[self.rotation.axis] != self.rotation.padded
        ):
            raise ValueError(
                f"data of shape {data.shape} with axis={self.axis} can't have {self.rotation}: it "
                f"is along K, which would be {self.rotation.padded} long"
            )
        scales = _checked_scales("scales", self.scales, self._scales_shape())
        object.__setattr__(self, "data", own(data))
        object.__setattr__(self, "scales", scales)
        if self.activation_scales is not None:
            fixed = _checked_scales("activation_scales", self.activation_scales, (self._groups(),))
            object.__setattr__(self, "activation_scales", fixed)

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix that it stands for, without padding."""
        shape = list(self.data.shape)
        if self.rotation:
            shape[self.rotation.axis] = self.rotation.length
        return tuple(shape)

    @property
    def ndim(self) -> int:
        """How many axes it has, at least 2."""
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """The dtype of what it stands for, float32."""
        return np.dtype(np.float32)

    @property
    def nbytes(self) -> int:
        """The bytes of its integers, half a byte each for 4 bits, and of its scales."""
        return -(-self.data.size * self.bits // 8) + self.scales.nbytes

    @property
    def T(self) -> QuantizedMatrix:
        """The transposed matrix, without a copy. A stack has no ``T`` but a ``mT``."""
        if self.ndim != 2:
            raise ValueError(f"a stack of shape {self.shape} has no .T; use .mT for its matrices")
        return self.mT

    # "matrix transpose", as numpy.ndarray.mT
    @property
    def mT(self) -> QuantizedMatrix:
        """The matrix, or every matrix of the stack, transposed, without a copy."""
        return replace(
            self,
            data=self.data.swapaxes(-1, -2),
            scales=self.scales.swapaxes(-1, -2),
            axis=None if self.axis is None else -3 - self.axis,
            rotation=self.rotation.transposed() if self.rotation else None,
        )

    def __repr__(self) -> str:
        where = {None: "per matrix", -1: "per column", -2: "per row"}[self.axis]
        parts = [" × ".join(map(str, self.shape)), f"int{self.bits} {where}"]
        if self.group_size is not None:
            parts[-1] += f" and {self.group_size} of K"
        if self.rotation:
            parts.append(f"rotated by {self.rotation.block}")
        if self.activation_scales is not None:
            parts.append("fixed activation scale")
        return f"<npublas.QuantizedMatrix {', '.join(parts)}, {self.nbytes:,} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return QuantizedMatrix, (
            self.data,
            self.scales,
            self.bits,
            self.axis,
            self.group_size,
            self.rotation,
            self.activation_scales,
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        raise TypeError(
            "a QuantizedMatrix is no array: multiply by it with @ or matmul, or make it one with "
            "npublas.dequantize(q)"
        )

    # Its other forms

    def with_largest_activation(self, largest: ArrayLike | None) -> QuantizedMatrix:
        """A matrix like this, with a fixed scale for the activations that it meets.

        Parameters
        ----------
        largest : float or array_like of float, or None
            The largest magnitude that must not be clamped, after the rotation if there is one; with
            groups, one for all or one for each. None goes back to a scale for every row.

        Returns
        -------
        QuantizedMatrix
            It shares the integers and scales of this one.

        Raises
        ------
        ValueError
            If `largest` is negative, not finite, or of another length than there are groups.

        Examples
        --------
        >>> import numpy as np, npublas
        >>> q = npublas.quantize(np.eye(2)).with_largest_activation(12.7)
        >>> np.array([[3.14159, 1000.0]], np.float32) @ q
        array([[ 3.1000001, 12.7      ]], dtype=float32)
        """
        if largest is None:
            return replace(self, activation_scales=None)
        with np.errstate(over="ignore"):
            maxima = np.asarray(largest, np.float32)
        if not (np.isfinite(maxima) & (maxima >= 0)).all():
            raise ValueError(f"largest must be finite and not negative, not {largest}")
        if maxima.shape not in ((), (self._groups(),)):
            raise ValueError(
                f"largest must be one number or {self._groups()}, one for each group along K, not "
                f"of shape {maxima.shape}"
            )
        largest_integer = self._tiles(self._depth_axis())[0].activation_max
        scales = _symmetric.scales_for(maxima, largest_integer)
        return replace(self, activation_scales=np.broadcast_to(scales, (self._groups(),)).copy())

    def _dequantized(self) -> Float32s:
        lanes = self._lanes(self._depth_axis())
        floats = _symmetric.to_floats(*lanes)
        if self.rotation:
            floats = rotate(floats, self.rotation.block)[..., : self.rotation.length]
        matrix = floats.swapaxes(-1, -2) if self._depth_axis() == -2 else floats
        return np.ascontiguousarray(matrix)

    # How it is stored

    def _depth_axis(self) -> int:
        """K: the other axis than the one that has scales."""
        if self.rotation:
            return self.rotation.axis
        return -1 if self.axis == -2 else -2

    def _groups(self) -> int:
        return _symmetric.groups(self.data.shape[self._depth_axis()], self.group_size)

    def _tiles(self, depth_axis: int) -> tuple[_lanes.Tiles, NDArray[np.intp]]:
        """How it is cut along K, and the group of each tile."""
        k, n = self.data.shape[depth_axis], self.data.shape[-3 - depth_axis]
        cut = _lanes.tiles(self.bits, k, n, self.group_size)
        return cut, cut.groups(k)

    def _scales_shape(self) -> tuple[int, ...]:
        shape = list(np.shape(self.data))
        shape[-2:] = [
            1 if self.axis is None or axis == self._depth_axis() else shape[axis]
            for axis in (-2, -1)
        ]
        if self.axis is not None:
            shape[self._depth_axis()] = self._groups()
        return tuple(shape)

    def _lanes(self, depth_axis: int) -> Lanes:
        if depth_axis == -1:
            return Lanes(self.data, self.scales, self.group_size)
        data, scales = self.data.swapaxes(-1, -2), self.scales.swapaxes(-1, -2)
        return Lanes(data, scales, self.group_size)

    def _operand(self, depth_axis: int) -> Lanes:
        """Its lanes as a right (-2) or left (-1) operand of a product, if it can be one."""
        here, there = ("right", "left") if depth_axis == -2 else ("left", "right")
        lanes = "columns" if depth_axis == -2 else "rows"
        if self.axis == depth_axis:
            raise ValueError(
                f"{self!r} can't be the {here} operand: its scales change along K and can't be "
                f"factored out of the sums. Quantise it with axis={-3 - depth_axis}, for scales of "
                f"its {lanes}, or make it the {there} operand."
            )
        if self.rotation and self.rotation.axis != depth_axis:
            raise ValueError(
                f"{self!r} can't be the {here} operand: it was rotated to be the {there} one"
            )
        return self._lanes(depth_axis)

    # Its products

    def __matmul__(self, other: Any) -> Any:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return matmul(other, self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if ufunc not in (np.matmul, matmul) or method != "__call__":
            return NotImplemented
        for operand in inputs:
            override = getattr(type(operand), "__array_ufunc__", np.ndarray.__array_ufunc__)
            if override not in (np.ndarray.__array_ufunc__, QuantizedMatrix.__array_ufunc__):
                return NotImplemented
        (out,) = options.pop("out", (None,))
        dtype = options.pop("dtype", None)
        if options:
            raise TypeError(
                f"matmul with a QuantizedMatrix takes out= and dtype=, not {', '.join(options)}="
            )
        result = _product(inputs[0], inputs[1], dtype)
        if out is None:
            return result
        if not isinstance(out, np.ndarray):
            raise TypeError("return arrays must be of ArrayType")
        if out.shape != np.shape(result):
            raise ValueError(f"out= has shape {out.shape}, and the product {np.shape(result)}")
        np.copyto(out, result, casting="same_kind")
        return out


def as_group_size(size: Any) -> Any:
    """A NumPy integer as an int; anything else as it is, for `check_layout`."""
    return int(size) if isinstance(size, np.integer) else size


def check_layout(ndim: int, bits: int, axis: int | None, group_size: int | None) -> None:
    """Raise ValueError for what no quantised matrix can have."""
    if ndim < 2:
        raise ValueError(f"a matrix or a stack of matrices is needed, not {ndim} dimensions")
    if bits not in WEIGHT_MAX:
        raise ValueError(f"bits must be 8 or 4, not {bits!r}")
    if axis not in (-1, -2, None):
        raise ValueError(
            f"axis must be -1 (scales per column), -2 (per row) or None (one for all), not {axis!r}"
        )
    if group_size is None:
        return
    if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
        raise ValueError(f"group_size must be a positive integer or None, not {group_size!r}")
    if axis is None:
        raise ValueError("group_size needs an axis: -1 cuts the columns into groups, -2 the rows")


def _checked_scales(name: str, scales: Any, shape: tuple[int, ...]) -> Float32s:
    scales = np.asarray(scales)
    if scales.dtype != np.float32:
        raise TypeError(f"{name} must be float32, not {scales.dtype}")
    if scales.shape != shape:
        raise ValueError(f"{name} must be of shape {shape}, not {scales.shape}")
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise ValueError(f"{name} must be finite and positive")
    owned: Float32s = own(scales)
    return owned


class _Owned(np.ndarray[Any, Any]):
    """Between a read-only array and its views, as a mark that nobody else has it."""


def own(array: NDArray[Any], *, fresh: bool = False) -> NDArray[Any]:
    """What an array holds as one that can't be changed: itself, if it can't, or a copy.

    A `fresh` one is nobody else's: it becomes read-only, without a copy.
    """
    base: Any = array
    while isinstance(base, np.ndarray) and type(base) is not _Owned:
        base = base.base
    if not isinstance(base, (_Owned, bytes)):
        mine = array if fresh else array.copy(order="K")
        mine.flags.writeable = False
        # NumPy leaves a base out if the next one is of the view's own type: hence two of them.
        array = mine.view(_Owned).view(_Owned).view(np.ndarray)
    elif array.flags.writeable:  # over bytes, never
        array = array.view()
        array.flags.writeable = False
    return array


def _product(left: Any, right: Any, dtype: Any) -> Any:
    """What `matmul` returns where one operand, or both, are quantised."""
    if isinstance(left, QuantizedMatrix):
        if isinstance(right, QuantizedMatrix):
            return _quantized_product(left, right, dtype)
        # C' = W' A': the activations are lanes along K here too.
        x = np.asarray(right)
        product = _times(x.swapaxes(-1, -2) if x.ndim > 1 else x, left, -1, dtype)
        return product.swapaxes(-1, -2) if x.ndim > 1 else product
    return _times(np.asarray(left), right, -2, dtype)


def _times(x: NDArray[Any], q: QuantizedMatrix, depth_axis: int, dtype: Any) -> NDArray[Any]:
    """Rows of activations times the lanes of a quantised matrix."""
    weights = q._operand(depth_axis)
    result_type = _result_type(x.dtype, dtype)
    length = q.shape[depth_axis]
    if x.ndim == 0 or x.shape[-1] != length:
        got = x.shape[-1] if x.ndim else "no axes"
        raise ValueError(f"{q!r} has K = {length} here, and the other operand has {got}")
    rows = x.astype(np.result_type(x.dtype, np.float32), copy=False)
    if x.ndim == 1:
        rows = rows[np.newaxis]
    if q.ndim == 2:  # a stack of activations is one high matrix
        rows = rows.reshape(-1 if length else int(np.prod(rows.shape[:-1])), length)
    np.broadcast_shapes(rows.shape[:-2], q.shape[:-2])  # raises
    # Rows have a scale for each K tile, as they have where the weights are packed.
    cut, of_tile = q._tiles(depth_axis)
    scales = weights.scales if weights.scales.shape[-1] == 1 else weights.scales[..., of_tile]

    def floats() -> Float32s:
        matrix = q._dequantized()
        return matrix.swapaxes(-1, -2) if depth_axis == -1 else matrix

    sums = _lanes.product(
        rows,
        Lanes(weights.data, scales, cut.depth),
        cut,
        block=q.rotation.block if q.rotation else None,
        fixed=None if q.activation_scales is None else q.activation_scales[of_tile],
        watch=functools.partial(_record, q, of_tile) if _calibrate.is_active() else None,
        floats=floats,
        exact_sums=_lanes.in_integers,
    )
    product: NDArray[Any] = sums.astype(result_type, copy=False)
    if x.ndim == 1:
        return product[..., 0, :]
    if q.ndim == 2:
        return product.reshape(*x.shape[:-1], product.shape[-1])
    return product


def _record(q: QuantizedMatrix, of_tile: NDArray[np.intp], maxima: Float32s) -> None:
    """Tell the calibration the largest activations of each group, or of all if there are none."""
    firsts = np.flatnonzero(np.diff(of_tile, prepend=-1))
    _calibrate.record(q, np.maximum.reduceat(maxima, firsts))


def _quantized_product(left: QuantizedMatrix, right: QuantizedMatrix, dtype: Any) -> NDArray[Any]:
    result_type = _result_type(left.dtype, dtype)
    lanes = left._operand(-1), right._operand(-2)
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(f"{left!r} and {right!r} have a different K")
    blocks = [q.rotation.block if q.rotation else None for q in (left, right)]
    if blocks[0] != blocks[1]:
        raise ValueError(f"{left!r} and {right!r} are not rotated alike along K")
    sizes = {q.group_size for q in (left, right)} - {None}
    if len(sizes) > 1:
        raise ValueError(f"{left!r} and {right!r} have groups of different sizes along K")
    return _lanes.multiply(*lanes).astype(result_type, copy=False)


def _result_type(operand: np.dtype[Any], dtype: Any) -> np.dtype[Any]:
    """float32, or float64 for operands that need it, or what the call asks for."""
    natural = np.result_type(operand, np.float32)
    result = natural if dtype is None else np.dtype(dtype)
    for kind in (natural, result):
        if kind not in (np.float32, np.float64):
            raise TypeError(
                "a product with a QuantizedMatrix takes real operands up to float64, and gives "
                f"float32 or float64, not {operand if kind is natural else result}"
            )
    return result
