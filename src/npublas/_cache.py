"""Weights that nobody packed: known again by the memory that they lie in.

A matrix that is multiplied again and again is worth packing once. That can't go wrong where its
elements can't change: in memory that a ``bytes`` object owns (which is what `freeze` makes, and
what files read as a whole are), and in a read-only mapping of a file. A read-only view is not
enough, since its base can change.

A matrix is packed when it is seen for the second time. The cache keeps the owner of the memory
alive, so that no other matrix can appear at the same place, until nobody else does; and it keeps
packed bytes for at most half of the memory window, and forgets what was used least recently.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npublas import _config, _core, _engine, _packed, _product
from npublas._stats import CacheInfo
from npublas._types import Device, Precision

SMALLEST = 128 * 128  # elements: below, a product isn't worth a look at the owner
_MOST_ENTRIES = 256


def freeze(a: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return a private copy of an array that nobody can change.

    Products with it as the right operand pack it once (when they come for the second time and pay
    on the NPU), and find it packed from then on; it needs no other care than a plain array.

    Parameters
    ----------
    a : array_like
        Any shape and dtype but object. C and Fortran order are kept.

    Returns
    -------
    ndarray
        Read-only for good: its memory is a ``bytes`` object.

    Raises
    ------
    TypeError
        For arrays of Python objects.

    See Also
    --------
    pack : the explicit way, which also saves to a file.

    Examples
    --------
    >>> import numpy as np, npublas
    >>> w = npublas.freeze(np.eye(3))
    >>> w[0, 0] = 2
    Traceback (most recent call last):
    ValueError: assignment destination is read-only
    """
    array = np.asarray(a)
    if array.dtype.hasobject:
        raise TypeError("arrays of Python objects can't be frozen: their elements can change")
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    data = array.tobytes("F" if fortran else "C") or b"\0" * array.itemsize
    frozen = np.frombuffer(data, array.dtype, count=array.size)
    return frozen.reshape(array.shape, order="F" if fortran else "C")


@dataclass
class _Entry:
    owner: Any
    packed: _packed.PackedMatrix | None


_lock = threading.Lock()
_entries: OrderedDict[tuple[Any, ...], _Entry] = OrderedDict()
_hits = _misses = 0


def owner_of(array: npt.NDArray[Any]) -> Any:
    """Return the immutable object whose memory an array lies in, or None."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if type(owner) is bytes:
        return owner
    if isinstance(owner, mmap.mmap):
        with memoryview(owner) as view:
            return owner if view.readonly else None
    return None


def multiply(a: npt.NDArray[Any], b: npt.NDArray[Any], settings: int) -> Any:
    """Multiply by what is packed of `b`, or return NotImplemented.

    Called by ``npublas.matmul`` for a read-only right operand of some size; `settings` are those of
    the call, packed.
    """
    names = _config.unpacked(settings)
    if names["device"] == "cpu" or a.dtype != b.dtype or b.ndim not in (2, 3):
        return NotImplemented
    owner = owner_of(b)
    if owner is None or not _pays(a, b, settings):
        return NotImplemented
    packed = _find(b, owner, names["precision"])
    if packed is None:
        return NotImplemented
    precision: Precision = names["precision"]
    device: Device = names["device"]
    return _product.multiply(a, packed, precision=precision, device=device)


def _pays(a: npt.NDArray[Any], b: npt.NDArray[Any], settings: int) -> bool:
    """Tell whether the NPU would be chosen if `b` were packed: rows of all stacks count."""
    if _core.engine_state() == "unavailable":
        return False
    rows = a.size // max(a.shape[-1], 1)
    decision = _core.decide(
        settings, a.dtype.name, b.dtype.name, a.dtype.name, 1, rows, b.shape[-2], b.shape[-1],
        b_is_packed=True,
    )  # fmt: skip
    return bool(decision["on_npu"])


def _find(b: npt.NDArray[Any], owner: Any, precision: Precision) -> _packed.PackedMatrix | None:
    global _hits, _misses
    key = (b.__array_interface__["data"][0], b.shape, b.strides, b.dtype.str, precision)
    with _lock:
        entry = _entries.get(key)
        if entry is not None and entry.packed is not None:
            _entries.move_to_end(key)
            _hits += 1
            return entry.packed
        _misses += 1
        if entry is None:  # the first time
            _entries[key] = _Entry(owner, None)
            _sweep()
            return None
    try:
        packed = _packed.pack(b, precision=precision)
    except ValueError:  # NaN or infinity: there is nothing to keep
        return None
    with _lock:
        _entries[key] = _Entry(owner, packed)
        _entries.move_to_end(key)
        _sweep(keep=key)
    return packed


def _sweep(keep: tuple[Any, ...] | None = None) -> None:
    """Forget what nobody else has any more, and what is too much."""
    ours = Counter(id(entry.owner) for entry in _entries.values())
    for key, entry in list(_entries.items()):
        # Our references, this loop's `entry.owner` on the stack, and the argument.
        if key != keep and sys.getrefcount(entry.owner) <= ours[id(entry.owner)] + 1:
            del _entries[key]
    limit = _engine.memory_limit(_config.get_config()) // 2
    while _entries and (
        len(_entries) > _MOST_ENTRIES or sum(_bytes(entry) for entry in _entries.values()) > limit
    ):
        _entries.popitem(last=False)


def _bytes(entry: _Entry) -> int:
    return entry.packed.nbytes if entry.packed is not None else 0


def cache_info() -> CacheInfo:
    """Return what the cache holds and did."""
    with _lock:
        packed = [entry for entry in _entries.values() if entry.packed is not None]
        return CacheInfo(_hits, _misses, len(packed), sum(_bytes(entry) for entry in packed))


def reset() -> None:
    """Set hits and misses to zero; keep what is packed."""
    global _hits, _misses
    with _lock:
        _hits = _misses = 0


def clear() -> None:
    """Forget all matrices."""
    with _lock:
        _entries.clear()


def _restart_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_restart_after_fork)
