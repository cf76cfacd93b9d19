"""Files of weights: what is read is what was written, or an error; never anything else."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from processes import run_python

import npublas
from npublas import _weights_file

PREFIX = struct.Struct("<8sI16sIQI")


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Any:
    with npublas.config_context(device="cpu"):
        yield


def some(shape: tuple[int, ...], dtype: Any = "float32", seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0, 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def saved(path: Path, b: Any, **options: Any) -> npublas.PackedMatrix:
    w = npublas.pack(b, **options)
    w.save(path)
    return w


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def header_of(data: bytes) -> dict[str, Any]:
    length = PREFIX.unpack_from(data)[3]
    header: dict[str, Any] = json.loads(data[PREFIX.size : PREFIX.size + length])
    return header


def with_header(data: bytes, header: bytes | dict[str, Any], **prefix: Any) -> bytes:
    """A file with another header of which the checksums are right, and the same sections."""
    if isinstance(header, dict):
        header = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    tiles_at = header_of(data)["tiles_at"]
    fields = dict(
        zip(
            ("magic", "version", "reader", "length", "size", "crc"),
            PREFIX.unpack_from(data),
            strict=True,
        )
    )
    fields.update(length=len(header), size=len(data), **prefix)
    head = PREFIX.pack(*fields.values())[:-4]
    head += struct.pack("<I", zlib.crc32(header, zlib.crc32(head))) + header
    assert len(head) <= tiles_at
    return head + bytes(tiles_at - len(head)) + data[tiles_at:]


# What is written is read


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("shape", [(1, 1), (40, 30), (2, 1030, 97), (0, 3), (3, 0), (0, 2, 2)])
@pytest.mark.parametrize("columns", [False, True])
def test_a_loaded_matrix_is_the_one_that_was_saved(
    tmp_path: Path, dtype: str, precision: Any, shape: tuple[int, ...], columns: bool
) -> None:
    b = some(shape, getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    if columns:
        b = np.ascontiguousarray(b.swapaxes(-1, -2)).swapaxes(-1, -2)
    w = saved(tmp_path / "w", b, precision=precision)
    loaded = npublas.load(tmp_path / "w")
    assert loaded._weights.data == w._weights.data
    assert (loaded.shape, loaded.dtype, loaded.precision) == (w.shape, w.dtype, w.precision)
    np.testing.assert_array_equal(loaded.unpack(), w.unpack(), strict=True)
    assert loaded.unpack().strides == w.unpack().strides
    # And again, from the file.
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "w").read_bytes()


def test_a_product_of_a_loaded_matrix_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    x, b = some((5, 600)), some((600, 50), seed=1)
    w = saved(tmp_path / "w", b)
    np.testing.assert_array_equal(x @ npublas.load(tmp_path / "w"), x @ w, strict=True)
    np.testing.assert_array_equal(x @ w, x @ b, strict=True)


def bytes_read() -> int:
    """How much this process has asked files for."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_loading_reads_no_more_than_the_header(tmp_path: Path) -> None:
    saved(tmp_path / "w", some((2000, 1000)))
    start = bytes_read()
    w = npublas.load(tmp_path / "w")
    read = bytes_read() - start
    assert w.nbytes > 8_000_000
    assert read < 50_000


def test_the_format_is_the_one_that_is_written_down(tmp_path: Path) -> None:
    b = some((40, 30))
    w = saved(tmp_path / "w", b)
    data = (tmp_path / "w").read_bytes()
    magic, version, reader, length, size, crc = PREFIX.unpack_from(data)
    assert (magic, version, reader.rstrip(b"\0"), size) == (b"NPUBLAS\0", 1, b"0.1.0", len(data))
    assert crc == zlib.crc32(data[44 : 44 + length], zlib.crc32(data[:40]))
    header = header_of(data)
    tiles, (source, source_crc) = header["tiles_at"], header["source_at"]
    assert tiles % 4096 == source % 4096 == 0
    assert data[tiles : tiles + w.nbytes] == bytes(w._weights.data)
    assert data[source:] == b.tobytes()
    assert zlib.crc32(b.tobytes()) == source_crc
    (entry,) = header["tiles"]
    assert entry == [w.nbytes, zlib.crc32(w._weights.data), 1]
    assert header["shape"] == [40, 30] and header["tile"] == [64, 32]


def test_files_of_the_same_matrix_are_the_same(tmp_path: Path) -> None:
    saved(tmp_path / "a", some((40, 30)))
    saved(tmp_path / "b", some((40, 30)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_exact_in_two_parts_is_saved_without_its_source(tmp_path: Path) -> None:
    saved(tmp_path / "w", some((40, 30), "float16").astype(np.float32))
    assert header_of((tmp_path / "w").read_bytes())["source_at"] is None


def test_a_name_may_be_relative_and_the_folder_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("w"), np.eye(3))
    w = npublas.load("w")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(w)).unpack(), np.eye(3))


# Saving


def test_saving_replaces_in_one_step_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "w"
    saved(path, np.eye(3))
    old = npublas.load(path)
    saved(path, 2 * np.eye(4))
    np.testing.assert_array_equal(old.unpack(), np.eye(3))  # which has the old file
    np.testing.assert_array_equal(npublas.load(path).unpack(), 2 * np.eye(4))
    assert names(tmp_path) == ["w"]


def test_what_can_not_be_saved_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("the disk is full")

    saved(tmp_path / "w", np.eye(3))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        npublas.pack(np.eye(4)).save(tmp_path / "w")
    assert names(tmp_path) == ["w"]
    np.testing.assert_array_equal(npublas.load(tmp_path / "w").unpack(), np.eye(3))
    with pytest.raises(FileNotFoundError):
        npublas.pack(np.eye(3)).save(tmp_path / "nowhere" / "w")


def test_a_file_is_as_readable_as_others(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        saved(tmp_path / "w", np.eye(3))
    finally:
        os.umask(umask)
    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o644


# What is no file of weights


def test_what_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        npublas.load(tmp_path / "w")


def test_folders_and_pipes_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(npublas.WeightsFileError, match="no regular file"):
            npublas.load(path)


@pytest.mark.parametrize("data", [b"", b"N", b"NPUBLAS", b"\x93NUMPY\x01\0v\0" + bytes(200)])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w").write_bytes(data)
    with pytest.raises(npublas.WeightsFileError, match="no file of weights"):
        npublas.load(tmp_path / "w")


def test_a_newer_version_names_the_npublas_that_reads_it(tmp_path: Path) -> None:
    saved(tmp_path / "w", np.eye(3))
    data = (tmp_path / "w").read_bytes()
    # What follows the first three fields may be anything in another version.
    (tmp_path / "w").write_bytes(data[:8] + struct.pack("<I16s", 2, b"3.1.4") + os.urandom(500))
    with pytest.raises(
        npublas.WeightsFileError, match=r"version 2 .* needs npublas 3\.1\.4 or newer"
    ):
        npublas.load(tmp_path / "w")


def test_the_error_is_a_value_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"")
    with pytest.raises(ValueError, match=str(tmp_path / "w")) as error:
        npublas.load(tmp_path / "w")
    assert isinstance(error.value, npublas.NpuError)


# What was altered


class Victim:
    """A small file that tests spoil: two tiles along K, the source, and what must come out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.x = some((2, 1040))
        self.b = some((1040, 7), seed=1)
        self.w = saved(path, self.b)
        self.data = path.read_bytes()
        self.product = self.x @ self.b
        self.unpacked = np.empty((1, 1040, 7), np.float32)
        self.w._weights.unpack_into(self.unpacked)
        assert len(header_of(self.data)["tiles"]) == 2

    def header_end(self) -> int:
        length: int = PREFIX.unpack_from(self.data)[3]
        return PREFIX.size + length

    def use(self, data: bytes) -> bool:
        """Load an altered file and read all of it: True if it was refused, False if all is right.

        Written in place, over one that was there.
        """
        with self.path.open("r+b") as file:
            file.write(data)
            file.truncate()
        try:
            w = npublas.load(self.path)
        except npublas.WeightsFileError:
            return True
        refused = 0
        got = np.zeros((1, 1040, 7), np.float32)
        for read, wanted in (
            (lambda: w._weights.unpack_into(got) or got, self.unpacked),  # as the NPU's path reads
            (lambda: self.x @ w, self.product),  # as the CPU's path reads
        ):
            try:
                np.testing.assert_array_equal(read(), wanted, strict=True)  # type: ignore[no-untyped-call]
            except npublas.WeightsFileError:
                refused += 1
        assert (w.shape, w.dtype, w.precision) == ((1040, 7), np.float32, "float32")
        return refused > 0


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path / "w")


def test_a_file_that_was_not_altered_is_right(victim: Victim) -> None:
    assert not victim.use(victim.data)


def test_every_flip_in_the_header_is_refused(victim: Victim) -> None:
    for at in range(victim.header_end()):
        for flip in (*(1 << bit for bit in range(8)), 0xFF):
            data = bytearray(victim.data)
            data[at] ^= flip
            with victim.path.open("r+b") as file:
                file.seek(at)
                file.write(data[at : at + 1])
            with pytest.raises(npublas.WeightsFileError):
                npublas.load(victim.path)
            with victim.path.open("r+b") as file:
                file.seek(at)
                file.write(victim.data[at : at + 1])


def test_ten_thousand_random_flips_give_an_error_or_the_right_result(victim: Victim) -> None:
    generator = random.Random(4)
    # Not only where most bytes are: in the header, the tiles, between sections, in the source.
    header = header_of(victim.data)
    starts = [0, header["tiles_at"], header["source_at"][0], len(victim.data)]
    refused = 0
    for _ in range(10_000):
        part = generator.randrange(3)
        data = bytearray(victim.data)
        for _ in range(generator.choice((1, 1, 1, 2, 10))):
            at = generator.randrange(starts[part], starts[part + 1])
            data[at] ^= generator.randrange(1, 256)
        refused += victim.use(bytes(data))
    assert 5000 < refused < 10_000  # the rest was in the gaps


def test_a_file_that_was_cut_is_refused(victim: Victim) -> None:
    for size in {*range(0, len(victim.data), 4096), *range(PREFIX.size + 1), len(victim.data) - 1}:
        assert victim.use(victim.data[:size])
    assert victim.use(victim.data + b"\0")


def test_headers_that_say_what_can_not_be_are_refused_though_their_checksum_is_right(
    victim: Victim,
) -> None:
    header = header_of(victim.data)
    assert not victim.use(with_header(victim.data, header))
    numbers = [-1, 0, 1, 2, 31, 33, 63, 1 << 31, 1 << 62, 1 << 64, 1 << 200, 1.0]
    lists = [[], [[]], [1], [1, 2], [1, 2, 3], [2**31 - 1] * 2, [2**31 - 1] * 3, ["1", 2]]
    odd = [None, True, "", "x", {}, *numbers, *lists]
    alterations: list[tuple[list[str | int], Any]] = []
    for name in header:
        alterations += [([name], value) for value in odd]
    for at in range(2):
        for name in ("shape", "tile", "source_at"):
            alterations += [([name, at], value) for value in odd]
        for field in range(3):
            alterations += [(["tiles", at, field], value) for value in odd]
    for path, value in alterations:
        altered = json.loads(json.dumps(header))
        place = altered
        for key in path[:-1]:
            place = place[key]
        if place[path[-1]] == value and type(place[path[-1]]) is type(value):
            continue
        place[path[-1]] = value
        assert victim.use(with_header(victim.data, altered)), (path, value)
    for name in header:
        assert victim.use(with_header(victim.data, {k: v for k, v in header.items() if k != name}))
    assert victim.use(with_header(victim.data, {**header, "more": 1}))


def test_headers_in_another_form_are_refused_though_their_checksum_is_right(victim: Victim) -> None:
    text = json.dumps(header_of(victim.data), sort_keys=True, separators=(",", ":")).encode()
    for odd in (
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        text[:-1],
        text + b" ",
        b" " + text,
        text[:-1] + b',"tile":[1056,32]}',
        text.replace(b"[1040,7]", b"[1040,7.0]"),
        text.replace(b"[1040,7]", b"[1.04e3,7]"),
        text.replace(b"[1040,7]", b"[NaN,7]"),
        text.replace(b"little", b"big"),
        b"[" * 3000,
        b'{"a":' * 600,
    ):
        assert odd != text
        with pytest.raises(npublas.WeightsFileError):
            victim.path.write_bytes(with_header(victim.data, odd))
            npublas.load(victim.path)


def test_a_header_that_is_as_long_as_it_likes_is_not_read(victim: Victim) -> None:
    for length in (len(victim.data), 1 << 31, (1 << 32) - 1):
        data = bytearray(victim.data)
        data[28:32] = struct.pack("<I", length)
        victim.path.write_bytes(data)
        with pytest.raises(npublas.WeightsFileError, match="longer than the file"):
            npublas.load(victim.path)


# What happens to a file that is in use


def rewrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_a_tile_is_checked_when_it_is_read_and_again_when_the_file_was_written_to(
    tmp_path: Path,
) -> None:
    b = some((1040, 7), "float16")  # exact: its source isn't saved
    saved(tmp_path / "w", b)
    data = (tmp_path / "w").read_bytes()
    at = header_of(data)["tiles_at"] + 100
    w = npublas.load(tmp_path / "w")
    target = np.empty((1, 1040, 7), np.float32)
    w._weights.unpack_into(target)
    rewrite(tmp_path / "w", at, bytes([data[at] ^ 1]))
    for action in (
        lambda: w._weights.unpack_into(target),
        lambda: w.unpack(),
        lambda: some((1, 1040), "float16") @ w,
        lambda: w.save(tmp_path / "copy"),
        lambda: pickle.dumps(w),
    ):
        with pytest.raises(npublas.WeightsFileError, match="altered"):
            action()
    rewrite(tmp_path / "w", at, data[at : at + 1])
    np.testing.assert_array_equal(w.unpack(), b)
    assert names(tmp_path) == ["w"]


def test_a_tile_that_was_altered_is_refused_on_the_npu_too(tmp_path: Path, device: str) -> None:
    b = some((1040, 7), "float16")
    saved(tmp_path / "w", b)
    data = (tmp_path / "w").read_bytes()
    at = header_of(data)["tiles_at"] + 100
    x = some((3, 1040), "float16")
    with npublas.config_context(device="npu"):
        wanted = npublas.matmul(x, b)
        rewrite(tmp_path / "w", at, bytes([data[at] ^ 1]))
        w = npublas.load(tmp_path / "w")
        with pytest.raises(npublas.WeightsFileError, match="altered"):
            x @ w
        rewrite(tmp_path / "w", at, data[at : at + 1])
        np.testing.assert_array_equal(x @ w, wanted, strict=True)


CUT = """
import os
import numpy as np
import npublas

path = os.environ["FILE"]
b = np.ones((1040, 7), np.float16)
npublas.pack(b).save(path)
w = npublas.load(path)
os.truncate(path, 5000)
for action in (w.unpack, w._weights.check, lambda: np.ones((1, 1040), np.float16) @ w,
               lambda: w.save(path + "2")):
    try:
        action()
    except npublas.WeightsFileError as error:
        assert "was cut" in str(error), error
    else:
        raise AssertionError("no error")
print("alive")
"""


def test_a_file_that_is_cut_while_it_is_in_use_kills_nobody(tmp_path: Path) -> None:
    assert run_python(CUT, FILE=str(tmp_path / "w")) == "alive"


def test_the_source_is_read_only_when_it_is_wanted_and_then_checked(tmp_path: Path) -> None:
    saved(tmp_path / "w", some((40, 7)))
    data = (tmp_path / "w").read_bytes()
    at = header_of(data)["source_at"][0]
    rewrite(tmp_path / "w", at, bytes([data[at] ^ 1]))
    w = npublas.load(tmp_path / "w")
    w._weights.check()
    for action in (w.unpack, lambda: w.save(tmp_path / "v")):
        with pytest.raises(npublas.WeightsFileError, match="source has another checksum"):
            action()
    rewrite(tmp_path / "w", at, data[at : at + 1])
    np.testing.assert_array_equal(w.unpack(), some((40, 7)))
    os.truncate(tmp_path / "w", 10)
    np.testing.assert_array_equal(w.unpack(), some((40, 7)))  # it is in memory now


# Pickles of what lies in a file


def test_a_pickle_of_a_loaded_matrix_is_its_name(tmp_path: Path) -> None:
    saved(tmp_path / "w", some((400, 300)))
    data = pickle.dumps(npublas.load(tmp_path / "w"))
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).unpack(), some((400, 300)))


def test_a_pickle_is_not_of_another_file_with_the_same_name(tmp_path: Path) -> None:
    saved(tmp_path / "w", some((40, 30)))
    data = pickle.dumps(npublas.load(tmp_path / "w"))
    saved(tmp_path / "w", some((40, 30), seed=1))
    with pytest.raises(npublas.WeightsFileError, match="another file than when"):
        pickle.loads(data)
    (tmp_path / "w").unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(data)
    saved(tmp_path / "w", some((40, 30)))
    np.testing.assert_array_equal(pickle.loads(data).unpack(), some((40, 30)))


@pytest.mark.parametrize(
    "change", [lambda path: path.unlink(), lambda path: saved(path, np.eye(2))]
)
def test_what_is_not_under_its_name_any_more_is_pickled_with_its_bytes(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    b = some((40, 30))
    saved(tmp_path / "w", b)
    w = npublas.load(tmp_path / "w")
    change(tmp_path / "w")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(w)).unpack(), b, strict=True)


def test_another_process_loads_it(tmp_path: Path) -> None:
    b = some((40, 30))
    saved(tmp_path / "w", b)
    pickled = pickle.dumps(npublas.load(tmp_path / "w"))
    program = """
import pickle, sys
sys.stdout.buffer.write(pickle.load(sys.stdin.buffer).unpack().tobytes())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickled, capture_output=True, check=True
    )
    assert done.stdout == b.tobytes()


def test_a_big_endian_machine_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "w", np.eye(3))
    monkeypatch.setattr(_weights_file.sys, "byteorder", "big")
    with pytest.raises(npublas.WeightsFileError, match="little-endian"):
        npublas.load(tmp_path / "w")


def test_bfloat16_without_ml_dtypes_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "w", some((4, 3), ml_dtypes.bfloat16))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="ml_dtypes"):
        npublas.load(tmp_path / "w")


# What turns out later


def altered(path: Path, at: int) -> None:
    """Flip a byte, in place, as a failing disk would."""
    with open(path, "r+b") as file:  # noqa: PTH123
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_an_altered_file_is_an_error_on_the_npu_too_and_not_a_slow_product(
    precision: Any, tmp_path: Path, device: str
) -> None:
    b = np.random.default_rng(0).standard_normal((200, 100), dtype=np.float32)
    path = tmp_path / "w"
    saved(path, b, precision=precision)
    w = npublas.load(path)
    altered(path, 4096 + 100)
    with (
        npublas.config_context(device="npu"),
        pytest.raises(npublas.WeightsFileError, match=rf"^{path}: .*altered"),
    ):
        np.ones((2, 200), np.float32) @ w


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    "action",
    [
        lambda w: np.ones((2, 200), np.float32) @ w,
        lambda w: w.unpack(),
        lambda w: w.save("elsewhere"),
        lambda w: pickle.dumps(w),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_errors_of_later_name_the_file(
    cut: bool, action: Any, precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    b = np.random.default_rng(0).standard_normal((200, 100), dtype=np.float32)
    path = tmp_path / "w"
    saved(path, b, precision=precision)
    w = npublas.load(path)
    size = path.stat().st_size
    if cut:
        os.truncate(path, 4096)
    else:
        altered(path, 4096 + 100)
        altered(path, size - 500)  # in the source, where there is one
    with pytest.raises(npublas.WeightsFileError, match=rf"^{path}: ") as caught:
        action(w)
    assert str(caught.value).count(str(path)) == 1
    assert not (tmp_path / "elsewhere").exists()


def test_saving_where_there_is_no_folder_names_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "no" / "w"
    with pytest.raises(FileNotFoundError) as caught:
        npublas.pack(np.eye(3)).save(path)
    assert caught.value.filename == str(path)
