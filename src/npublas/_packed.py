"""Weights that are packed once: `pack`, `load`, and the `PackedMatrix` that they return."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npublas import _config, _core, _product, _rules, _ufuncs, _weights_file
from npublas._dtypes import name_of
from npublas._hadamard import rotate
from npublas._matmul import ufunc as matmul
from npublas._operands import check_writeable
from npublas._packing import Operand, pack_array, pack_quantized
from npublas._table import mebibytes
from npublas._types import Precision
from npublas._weights_file import Layout
from npublas.errors import WeightsFileError

__all__ = ["PackedMatrix", "load", "pack"]

_INT4_LARGEST = 8  # in magnitude: -8 ... 7


def pack(b: ArrayLike, *, precision: Precision | None = None, pin: bool = False) -> PackedMatrix:
    """Pack a matrix once, to be the right operand of many products.

    Every product with an ordinary array packs it anew, which takes longer than the NPU takes to
    multiply by it if the other operand has few rows. A packed one is ready, and stays in the NPU's
    memory as long as there is room.

    Parameters
    ----------
    b : array_like or QuantizedMatrix
        Of shape (K, N), or (batch, K, N) for a stack: int8, uint8, float16, bfloat16, float32 or
        float64, all finite; or int4 of ml_dtypes, which is as int8 and takes half a byte. It is
        read as it lies in memory: pack weights that are stored as out × in as ``pack(weights.T)``,
        which copies nothing. It isn't needed afterwards, and changing it changes nothing.
    precision : {'float32', 'float16', 'int8'}, optional
        How products with floats are computed; as the settings say if left out. Integers are exact,
        and a QuantizedMatrix is int8, with weights of half a byte if it has 4 bits.
    pin : bool
        Keep it in the NPU's memory once it is there, also when others need room.

    Returns
    -------
    PackedMatrix

    Raises
    ------
    ValueError
        For other numbers of dimensions, NaN, infinity, or values beyond float32's range.
    TypeError
        For other dtypes.
    ConfigurationError
        For another precision.

    See Also
    --------
    load, quantize

    Examples
    --------
    >>> import numpy as np, npublas
    >>> stored = np.array([[1, 2, 3], [4, 5, 6]], np.float32)  # out × in, as frameworks have it
    >>> w = npublas.pack(stored.T)
    >>> w.shape
    (3, 2)
    >>> np.array([[1, 0, 1]], np.float32) @ w
    array([[ 4., 10.]], dtype=float32)
    """
    if isinstance(b, PackedMatrix):
        raise TypeError("it is packed already")
    if hasattr(b, "scales") and hasattr(b, "rotation"):
        if precision not in (None, "int8"):
            raise ValueError(f"a quantised matrix is packed as int8, not with {precision=}")
        return PackedMatrix(pack_quantized(b), pin=pin)
    precision = precision or _config.get_config().precision
    _config.packed(precision=precision)  # raises
    return PackedMatrix(pack_array(np.asarray(b), precision), pin=pin)


def load(path: str | os.PathLike[str], *, pin: bool = False) -> PackedMatrix:
    """Load weights that `PackedMatrix.save` has written, on this machine or on another one.

    The file is mapped, not read: its header is checked now, each tile when it is used first.

    Parameters
    ----------
    path : str or path-like
    pin : bool
        As for `pack`.

    Returns
    -------
    PackedMatrix
        Bit for bit the one that was saved.

    Raises
    ------
    WeightsFileError
        If the file is truncated, altered, written by a newer npublas, or none of weights.
    OSError
        If there is no such file, or it can't be read.

    Examples
    --------
    >>> import numpy as np, npublas, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "eye.npublas")
    ...     npublas.pack(np.eye(2, dtype=np.float32)).save(file)
    ...     np.array([[1, 2]], np.float32) @ npublas.load(file)
    array([[1., 2.]], dtype=float32)
    """
    loaded = _weights_file.read(os.path.abspath(os.fspath(path)))  # noqa: PTH100
    return PackedMatrix(
        Operand(loaded.weights, loaded.layout, loaded.source, loaded.stamp), pin=pin
    )


class PackedMatrix:
    """A matrix that was packed, as the right operand of products. It can't be changed.

    Made by `pack` and `load`. ``x @ w``, ``np.matmul(x, w)`` and ``npublas.matmul(x, w)`` give what
    they give for the array that was packed, at the precision that it was packed for: the same bits
    as an array at that precision on the NPU. Where such a product runs on the CPU, it is NumPy's
    with the source for ``"float32"`` and integers, and with what was packed for ``"float16"``; for
    ``"int8"`` it has the bits of the NPU's: the same integers, and the same scales.

    Copies and pickles are cheap: copies share the packed bytes, and what was loaded from a file is
    pickled as the name of the file, as long as nobody changes that.

    Examples
    --------
    >>> import numpy as np, npublas
    >>> with npublas.pack(np.eye(100, 50, dtype=np.float32)) as w:
    ...     w
    ...     (np.ones((8, 100), np.float32) @ w).shape
    <npublas.PackedMatrix 100 × 50 of float32, precision='float32', 18.0 KiB>
    (8, 50)
    """

    __slots__ = ("__weakref__", "_name", "_open", "_pinned")

    def __init__(self, operand: Operand, *, pin: bool) -> None:
        self._open: Operand | None = operand
        self._name = operand.name
        self._pinned = bool(pin)

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix that was packed: (K, N) or (batch, K, N)."""
        return self._operand.shape

    @property
    def ndim(self) -> int:
        """How many axes it has, 2 or 3."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the matrix that was packed."""
        return self._operand.dtype

    @property
    def nbytes(self) -> int:
        """The bytes that it is packed in, which the NPU's memory holds, too, while it is there."""
        return self._operand.weights.nbytes

    @property
    def precision(self) -> str:
        """What it was packed for: ``"float32"``, ``"float16"``, ``"int8"``, or ``"exact"``."""
        return self._operand.precision or "exact"

    @property
    def pinned(self) -> bool:
        """Whether it stays in the NPU's memory when others need room."""
        return self._pinned

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._open is None

    @property
    def T(self) -> Any:
        """There is none: the transposed matrix is packed in another way."""
        raise AttributeError("a packed matrix can't be transposed; use npublas.pack(array.T)")

    @property
    def mT(self) -> Any:
        """There is none, as there is no ``T``."""
        raise AttributeError("a packed matrix can't be transposed; use npublas.pack(array.mT)")

    def __repr__(self) -> str:
        if self._open is None:
            return "<npublas.PackedMatrix, closed>"
        sizes = " × ".join(map(str, self.shape))
        origin = f", {self._open.stamp.path}" if self._open.stamp else ""
        pinned = ", pinned" if self._pinned else ""
        return (
            f"<npublas.PackedMatrix {sizes} of {self.dtype}, precision={self.precision!r}, "
            f"{mebibytes(self.nbytes)}{pinned}{origin}>"
        )

    def unpack(self) -> NDArray[Any]:
        """Return the matrix as an array: a new one, of its shape and dtype.

        For ``precision="float32"`` and integers it is the one that was packed; for ``"float16"``
        and ``"int8"`` that one as it was rounded.

        Raises
        ------
        WeightsFileError
            If it comes from a file that was altered.
        """
        operand = self._operand
        dense = operand.dense()
        if operand.layout.rotation is None:
            return np.array(dense, order="K", copy=True)
        block, length = operand.layout.rotation
        lanes = rotate(dense.swapaxes(-1, -2), block)[..., :length]
        return np.ascontiguousarray(lanes.swapaxes(-1, -2))

    # Its end

    def close(self) -> None:
        """Give back its memory, here and in the NPU, unless copies of it need it.

        Once closed it can be used no more, only closed again.
        """
        self._open = None

    def __enter__(self) -> PackedMatrix:
        self._operand  # noqa: B018  raises if it is closed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _operand(self) -> Operand:
        if self._open is None:
            raise ValueError(f"this packed matrix is closed ({self._name})")
        return self._open

    # What `_product.multiply` asks of it

    @property
    def _weights(self) -> _core.Weights:
        return self._operand.weights

    @property
    def _activation_scales(self) -> NDArray[np.float32] | None:
        """The fixed scales of `x`, one for each K tile, or None."""
        return self._operand.activation_scales

    def _prepare(self, x: NDArray[Any]) -> NDArray[Any]:
        """What the NPU multiplies by the packed bytes in the place of `x`."""
        rotation = self._operand.layout.rotation
        if rotation is None:
            return x
        # What leaves float32's range is the CPU's, as NaN is.
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return rotate(x.astype(np.float32, copy=False), rotation[0])

    @property
    def _depth(self) -> int:
        """K as it is multiplied, with the padding of a rotation."""
        return self._operand.depth

    @property
    def _is_quantized(self) -> bool:
        """Whether products round `x` to integers, on the CPU as on the NPU."""
        return self._operand.is_quantized

    def _times(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """The sums of a product by quantised weights, as the NPU has them, on the CPU."""
        return self._operand.times(x)

    def _altered(self, how: str) -> WeightsFileError:
        """The error for a file that isn't any more what it was."""
        return self._operand.altered(how)

    def _dense(self) -> NDArray[Any]:
        """What was packed, as an array that nobody may write to; made when it is first wanted."""
        return self._operand.dense()

    # Where it goes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, for `load`. Whatever the file held before is replaced in one step.

        Raises
        ------
        OSError
        WeightsFileError
            If it comes from a file itself, and that was altered.
        """
        operand = self._operand
        source = operand.read_source()
        with operand.naming_its_file():
            operand.weights.check()  # a broken tile must not get a new life
        try:
            _weights_file.write(
                Path(os.path.abspath(os.fspath(path))),  # noqa: PTH100
                operand.layout,
                operand.weights,
                source,
            )
        except OSError as error:
            if error.filename is None:
                raise
            # Not the name that it has while it is written.
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None

    def __copy__(self) -> PackedMatrix:
        return PackedMatrix(self._operand, pin=self._pinned)

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedMatrix:
        return self.__copy__()  # what they share never changes

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        operand = self._operand
        if operand.stamp is not None and operand.stamp.is_unchanged():
            return _reload, (operand.stamp.path, operand.stamp.digest, self._pinned)
        weights, source = operand.weights, operand.read_source()
        with operand.naming_its_file():
            weights.check()
        packed: Any = pickle.PickleBuffer(weights.data) if protocol >= 5 else bytes(weights.data)
        return _restore, (operand.layout, packed, source, self._pinned)

    # Its products

    __array_priority__ = 1000.0  # for those that know no __array_ufunc__

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        raise TypeError(
            "a PackedMatrix is no array: multiply by it with x @ w or matmul(x, w), or make it one "
            "with w.unpack()"
        )

    def __matmul__(self, other: Any) -> Any:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return matmul(other, self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if not (ufunc is matmul or ufunc is np.matmul) or method != "__call__":
            return NotImplemented
        if not options:
            x, w = inputs
            if type(x) is np.ndarray and type(w) is PackedMatrix:
                operand = w._operand
                result = None
                if operand.plain and _config.precision_asked() in (None, operand.plain.precision):
                    result = _product.at_once(x, operand.plain, operand.dense)
                if result is not None:
                    return result
        out = options.pop("out", (None,))[0]
        for argument in (*inputs, out):
            override = getattr(type(argument), "__array_ufunc__", np.ndarray.__array_ufunc__)
            if override not in (np.ndarray.__array_ufunc__, PackedMatrix.__array_ufunc__):
                return NotImplemented
        if not isinstance(out, (np.ndarray, type(None))):
            raise TypeError("return arrays must be of ArrayType")
        x, w = inputs
        if isinstance(x, PackedMatrix) or not isinstance(w, PackedMatrix):
            raise TypeError(
                "a PackedMatrix can only be the right operand of a product: x @ w. For w @ x, pack "
                "the transposed matrix and write (x.T @ w).T"
            )
        return w._product(np.asanyarray(x), ufunc, out, **options)

    def _product(
        self,
        x: NDArray[Any],
        ufunc: Any,
        out: NDArray[Any] | None,
        *,
        dtype: Any = None,
        casting: Any = "same_kind",
        order: Literal["K", "A", "C", "F"] = "K",
        subok: bool = True,
        axes: Sequence[Any] | None = None,
        **unknown: Any,
    ) -> Any:
        """``ufunc(x, self, out)`` with NumPy's keywords, by NumPy's rules."""
        if unknown:
            raise TypeError(
                f"a product with a PackedMatrix takes no {', '.join(unknown)}=; it takes out=, "
                "dtype=, casting=, order=, subok= and axes="
            )
        plain = np.asarray(x)
        a_limit = 127
        if name_of(plain.dtype) == "int4":
            plain, a_limit = plain.astype(np.int8), _INT4_LARGEST
        back: Callable[[NDArray[Any]], NDArray[Any]] = _rules.same
        out_here = out
        if axes is not None:
            plain, back = _rules.move_axes(plain, self.ndim, axes)
            # A view with the axes of the product: what is written there is in `out`.
            out_here = None if out is None else _rules.moved_out(out, axes)
        shape = _rules.result_shape(plain, self.shape, ufunc, out_here)
        if "bfloat16" in (name_of(plain.dtype), name_of(self.dtype)):
            _ufuncs.learn_bfloat16(matmul)
        result_type = _rules.result_type(
            ufunc, plain.dtype, self.dtype, None if out_here is None else out_here.dtype,
            None if dtype is None else np.dtype(dtype), casting,
        )  # fmt: skip

        def multiply(target: NDArray[Any] | None) -> NDArray[Any]:
            wanted = None if dtype is None else result_type
            result: NDArray[Any] = _product.multiply(
                plain,
                self,
                dtype=wanted,
                out=target,
                precision=_config.precision_asked(),
                a_limit=a_limit,
            )
            return result

        if out_here is None:
            target = np.empty(shape, result_type, order) if order in ("C", "F") and shape else None
            result = back(multiply(target))
            return _rules.as_type_of(x, result, ufunc, (x, self)) if subok else result
        if casting == "same_kind":
            multiply(out_here)  # which copes with whatever `out` is
        else:
            check_writeable(out_here)
            np.copyto(out_here, multiply(None), casting=casting)
        return out


def _reload(path: str, digest: str, pin: bool) -> PackedMatrix:
    """Unpickle what was pickled as a file."""
    matrix = load(path, pin=pin)
    stamp = matrix._operand.stamp
    if stamp is None or stamp.digest != digest:
        raise WeightsFileError(f"{path} is another file than when this PackedMatrix was pickled")
    return matrix


def _restore(layout: Layout, packed: Any, source: NDArray[Any] | None, pin: bool) -> PackedMatrix:
    """Unpickle what was pickled with its bytes."""
    weights = _core.Weights.from_buffer(packed, grid=layout.grid, entries=list(layout.entries))
    return PackedMatrix(Operand(weights, layout, source), pin=pin)
