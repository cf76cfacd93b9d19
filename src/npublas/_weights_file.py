"""Files of packed weights: how one is written, and what is checked before it is believed.

    prefix    magic, format version, the oldest npublas that reads it, sizes, checksum
    header    JSON: what the matrix is, and where its tiles are
    tiles     as they lie in memory, from a multiple of 4096 on
    source    the matrix as it was, from a multiple of 4096 on; only where the tiles don't have all

The header is checked as a whole when a file is opened, by its checksum and then field by field, as
if the checksum were no proof. Tiles are checked when they are first used, the source when it is
first wanted. docs/weights.md describes every field.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import secrets
import struct
import sys
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npublas import _core
from npublas.errors import NpuError, WeightsFileError

MAGIC = b"NPUBLAS\0"
VERSION = 1
OLDEST_READER = "0.1.0"  # of this version

# Magic, version, oldest reader: these three stay where they are in every version. Then the bytes of
# the header, of the file, and the checksum of the prefix before it and the header.
_PREFIX = struct.Struct("<8sI16sIQI")
_CHECKED = _PREFIX.size - 4
_ALIGNMENT = 4096
_LARGEST_HEADER = 1 << 28
_LARGEST = 1 << 62

_METHODS = ("integers", "float16", "float32", "int8", "int4")
_DTYPES = ("int8", "uint8", "float16", "bfloat16", "float32", "float64")
_FLAGS = ("has_low", "zero", "subnormal")


@dataclass(frozen=True)
class Layout:
    """What a packed matrix is, besides its bytes.

    Attributes
    ----------
    shape : tuple of int
        Of what was packed, (K, N) or (batch, K, N).
    dtype : str
        Of the matrix that it stands for.
    packed_dtype : str
        Of what was packed: int8 where it was quantised before.
    method : str
        How products are computed, as the core calls it.
    order : {"C", "F"}
        How the source lay in memory, each matrix by itself.
    tile_depth, tile_columns : int
    entries : tuple of tuple
        Of each tile: offset, bytes, checksum, has_low, zero, subnormal.
    rotation : tuple of int or None
        (block, length): K was rotated in blocks, after it was padded from `length`.
    activation_scales : tuple of float or None
        The fixed scale of the other operand for each tile of K; None takes the largest of each row.
    """

    shape: tuple[int, ...]
    dtype: str
    packed_dtype: str
    method: str
    order: str
    tile_depth: int
    tile_columns: int
    entries: tuple[tuple[Any, ...], ...]
    rotation: tuple[int, int] | None
    activation_scales: tuple[float, ...] | None = None

    @property
    def grid(self) -> dict[str, Any]:
        """What the core wants to know."""
        batch, k, n = self.shape if len(self.shape) == 3 else (1, *self.shape)
        return {
            "method": self.method,
            "dtype": self.packed_dtype,
            "batch": batch,
            "k": k,
            "n": n,
            "tile_depth": self.tile_depth,
            "tile_columns": self.tile_columns,
        }


@dataclass(frozen=True)
class Stamp:
    """A file as it was when it was loaded: where, which, and what its header says."""

    path: str
    digest: str
    state: tuple[int, ...]

    def is_unchanged(self) -> bool:
        """Whether the path still leads to the same file, and nobody wrote to it."""
        try:
            return _state(os.stat(self.path)) == self.state  # noqa: PTH116
        except OSError:
            return False


class SourceSection:
    """The source in a file, read when somebody wants it, and never before."""

    def __init__(
        self, file: _core.File, offset: int, size: int, checksum: int, layout: Layout
    ) -> None:
        self._file = file
        self._offset, self._size, self._checksum = offset, size, checksum
        self._layout = layout

    def read(self) -> NDArray[Any]:
        """Read it into memory, which can't be cut or altered as a mapping can."""
        data = self._file.read(self._offset, self._size)
        if zlib.crc32(data) != self._checksum:
            raise WeightsFileError(
                "the source has another checksum than when it was saved: the file was altered"
            )
        return from_bytes(data, self._layout)


@dataclass(frozen=True)
class Loaded:
    """What `read` returns."""

    layout: Layout
    weights: _core.Weights
    source: SourceSection | None
    stamp: Stamp


def write(path: Path, layout: Layout, weights: _core.Weights, source: NDArray[Any] | None) -> None:
    """Write a file in one step: it is there as a whole, or what was there before is.

    Raises
    ------
    OSError
    """
    raw = None if source is None else to_bytes(source, layout)
    head, tiles_at, source_at = _head(layout, weights.nbytes, raw)
    name = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(name, "xb") as file:  # noqa: PTH123
            file.write(head)
            file.seek(tiles_at)
            file.write(weights.data)
            if raw is not None:
                file.seek(source_at)
                file.write(raw)
            file.truncate()  # also where nothing follows the gap
            file.flush()
            os.fsync(file.fileno())
        name.replace(path)
    except BaseException:
        with suppress(OSError):
            name.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too
    finally:
        os.close(folder)


def read(path: str) -> Loaded:
    """Open a file and check all but the bytes of its tiles and its source.

    Raises
    ------
    OSError
        If there is no such file, or it can't be read.
    WeightsFileError
        If it is none of ours, newer, truncated, or not what its checksum says.
    """
    # Whoever opens a pipe by mistake gets an answer and doesn't wait for its other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    file = _core.File(descriptor)  # which owns it from now on
    try:
        return _read(file, path, _state(os.fstat(descriptor)))
    except NpuError as error:
        raise WeightsFileError(f"{path}: {error}") from None


def _read(file: _core.File, path: str, state: tuple[int, ...]) -> Loaded:
    if not file.is_regular:
        raise WeightsFileError("is no regular file")
    size = file.size
    prefix = file.read(0, min(size, _PREFIX.size))
    if prefix[:8] != MAGIC:
        raise WeightsFileError("is no file of weights that npublas has saved")
    if size < _PREFIX.size:
        raise WeightsFileError("is truncated: there is not even a header")
    _, version, reader, header_bytes, file_bytes, checksum = _PREFIX.unpack(prefix)
    if version != VERSION:
        needs = reader.rstrip(b"\0").decode("ascii", "replace")
        raise WeightsFileError(
            f"has version {version} of the format, and this npublas reads version {VERSION}: it "
            f"needs npublas {needs} or newer (or the file was altered)"
        )
    if size != file_bytes:
        raise WeightsFileError(
            f"should have {file_bytes} bytes and has {size}: truncated, or altered"
        )
    if header_bytes > min(size - _PREFIX.size, _LARGEST_HEADER):
        raise WeightsFileError("the header is longer than the file")
    header = file.read(_PREFIX.size, header_bytes)
    if zlib.crc32(header, zlib.crc32(prefix[:_CHECKED])) != checksum:
        raise WeightsFileError("the header was altered: its checksum is another one")
    if sys.byteorder != "little":
        raise WeightsFileError("is little-endian, and this machine is not")
    fields = _Fields(header)
    layout = _layout_from(fields)
    tiles, source = fields.section("tiles_at"), fields.maybe_section("source_at")
    fields.end()
    sizes = sum(entry[1] for entry in layout.entries)
    end = tiles + sizes
    if tiles < _PREFIX.size + header_bytes:
        raise WeightsFileError("the tiles lie within the header")
    section = None
    if source is not None:
        if layout.method != "float32":
            raise WeightsFileError("has a source, which these weights don't need")
        at, source_checksum = source
        source_bytes = _source_bytes(layout)
        if at < end:
            raise WeightsFileError("the source lies within the tiles")
        section = SourceSection(file, at, source_bytes, source_checksum, layout)
        end = at + source_bytes
    if end != size:
        raise WeightsFileError(f"has {size} bytes, and its sections end at {end}")
    weights = _core.Weights.from_file(
        file, offset=tiles, size=sizes, grid=layout.grid, entries=list(layout.entries)
    )
    digest = hashlib.sha256(prefix + header).hexdigest()
    return Loaded(layout, weights, section, Stamp(path, digest, state))


def dtype_named(name: str) -> np.dtype[Any]:
    """The dtype of a name. NumPy has no bfloat16; the package ml_dtypes has."""
    if name != "bfloat16":
        return np.dtype(name)
    try:
        dtype: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError:
        raise ImportError(
            "weights of bfloat16 need the package ml_dtypes, which is not installed"
        ) from None
    return dtype


def to_bytes(source: NDArray[Any], layout: Layout) -> memoryview:
    """The bytes of a source that lies in memory in its order."""
    flat = source.swapaxes(-1, -2) if layout.order == "F" else source
    return np.ascontiguousarray(flat).reshape(-1).view(np.uint8).data


def from_bytes(data: bytes, layout: Layout) -> NDArray[Any]:
    """A read-only source from its bytes."""
    *stack, k, n = layout.shape
    array: NDArray[Any] = np.frombuffer(data, dtype_named(layout.dtype))
    if layout.order == "F":
        array = array.reshape(*stack, n, k).swapaxes(-1, -2)
    return array.reshape(layout.shape)


def _source_bytes(layout: Layout) -> int:
    size = {"int8": 1, "uint8": 1, "float32": 4, "float64": 8}.get(layout.dtype, 2)
    for length in layout.shape:
        size *= length
    return size


def _state(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _head(layout: Layout, tiles: int, source: memoryview | None) -> tuple[bytes, int, int]:
    """The prefix and the header, and where the tiles and the source begin."""
    fields: dict[str, Any] = {
        "activation_scales": None
        if layout.activation_scales is None
        else list(layout.activation_scales),
        "byteorder": "little",
        "dtype": layout.dtype,
        "method": layout.method,
        "order": layout.order,
        "packed_dtype": layout.packed_dtype,
        "rotation": None if layout.rotation is None else list(layout.rotation),
        "shape": list(layout.shape),
        "tile": [layout.tile_depth, layout.tile_columns],
        "tiles": [
            [size, checksum, sum(bool(flag) << bit for bit, flag in enumerate(flags))]
            for _, size, checksum, *flags in layout.entries
        ],
    }
    # Offsets depend on the header's length, which is made one that can be foretold: spaces follow
    # the JSON, up to where the tiles begin at the latest.
    longest = len(_json({**fields, "tiles_at": _LARGEST, "source_at": [_LARGEST, 1 << 32]}))
    tiles_at = _aligned(_PREFIX.size + longest)
    source_at = _aligned(tiles_at + tiles)
    end = tiles_at + tiles
    fields["tiles_at"], fields["source_at"] = tiles_at, None
    if source is not None:
        fields["source_at"] = [source_at, zlib.crc32(source)]
        end = source_at + source.nbytes
    header = _json(fields)
    prefix = _PREFIX.pack(MAGIC, VERSION, OLDEST_READER.encode(), len(header), end, 0)[:_CHECKED]
    return (
        prefix + struct.pack("<I", zlib.crc32(header, zlib.crc32(prefix))) + header,
        tiles_at,
        source_at,
    )


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


def _layout_from(fields: _Fields) -> Layout:
    fields.one_of("byteorder", ("little",))
    shape = fields.integers("shape", 0, (1 << 31) - 1)
    tile = fields.integers("tile", 1, 8192)
    rotation = fields.integers("rotation", 1, (1 << 31) - 1) if fields.has("rotation") else None
    tiles = fields.take("tiles")
    if len(shape) not in (2, 3) or len(tile) != 2 or not isinstance(tiles, list):
        raise WeightsFileError("the header has fields of another length than they must have")
    if rotation is not None and (
        len(rotation) != 2 or not rotation[1] <= shape[-2] < rotation[1] + rotation[0]
    ):
        raise WeightsFileError("the header has a rotation of another K")
    offset = 0
    entries = []
    for tile_fields in tiles:
        size, checksum, flags = _integers(tile_fields, 3, _LARGEST)
        if checksum >= 1 << 32 or flags >= 1 << len(_FLAGS):
            raise WeightsFileError("the header has a tile with a field out of its range")
        entries.append(
            (offset, size, checksum, *(bool(flags >> i & 1) for i in range(len(_FLAGS))))
        )
        offset += size
        if offset > _LARGEST:
            raise WeightsFileError("the header has tiles larger than any file")
    dtype, packed_dtype = (fields.one_of(name, _DTYPES) for name in ("dtype", "packed_dtype"))
    method = fields.one_of("method", _METHODS)
    fixed = fields.take("activation_scales")
    quantized = (dtype, packed_dtype) == ("float32", "int8") and method in ("int8", "int4")
    if (dtype != packed_dtype or rotation is not None or fixed is not None) and not quantized:
        raise WeightsFileError("the header has types that don't go together")
    if fixed is not None and not (
        isinstance(fixed, list)
        and len(fixed) == -(-shape[-2] // tile[0])
        and all(type(scale) is float and 0 < scale < 3.5e38 for scale in fixed)
    ):
        raise WeightsFileError("the header has activation scales that can't be what they are")
    return Layout(
        shape=shape,
        dtype=dtype,
        packed_dtype=packed_dtype,
        method=method,
        order=fields.one_of("order", ("C", "F")),
        tile_depth=tile[0],
        tile_columns=tile[1],
        entries=tuple(entries),
        rotation=None if rotation is None else (rotation[0], rotation[1]),
        activation_scales=None if fixed is None else tuple(fixed),
    )


def _integers(value: object, count: int, largest: int) -> list[int]:
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(type(item) is int and 0 <= item <= largest for item in value)
    ):
        raise WeightsFileError("the header has a field that can't be what it is")
    return value


class _Fields:
    """The fields of a header, each of which is taken once, and none is left."""

    def __init__(self, header: bytes) -> None:
        try:
            fields = json.loads(header)
            # There is one way to write it: no field twice, no space, no 1e3.
            canonical = isinstance(fields, dict) and _json(fields) == header
        except (ValueError, RecursionError):
            canonical = False
        if not canonical:
            raise WeightsFileError("the header is not as npublas writes it")
        self._fields: dict[str, Any] = fields

    def has(self, name: str) -> bool:
        """Whether a field isn't null; then it is taken."""
        if self._fields.get(name, 0) is not None:
            return True
        del self._fields[name]
        return False

    def take(self, name: str) -> object:
        try:
            return self._fields.pop(name)
        except KeyError:
            raise WeightsFileError(f"the header lacks {name}") from None

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        value = self.take(name)
        if not isinstance(value, str) or value not in choices:
            raise WeightsFileError(f"the header's {name} is none of {', '.join(choices)}")
        return value

    def integers(self, name: str, least: int, largest: int) -> tuple[int, ...]:
        value = self.take(name)
        items = _integers(value, len(value) if isinstance(value, list) else 0, largest)
        if any(item < least for item in items):
            raise WeightsFileError(f"the header's {name} has a number that is too small")
        return tuple(items)

    def section(self, name: str) -> int:
        return self._offset(self.take(name))

    def maybe_section(self, name: str) -> tuple[int, int] | None:
        """The offset and the checksum of a section, if there is one."""
        if not self.has(name):
            return None
        offset, checksum = _integers(self.take(name), 2, _LARGEST)
        return self._offset(offset), checksum

    def end(self) -> None:
        if self._fields:
            raise WeightsFileError("the header has fields that nobody knows")

    def _offset(self, value: object) -> int:
        (offset,) = _integers([value], 1, _LARGEST)
        if offset % _ALIGNMENT:
            raise WeightsFileError("the header has a section that begins where none can")
        return offset
