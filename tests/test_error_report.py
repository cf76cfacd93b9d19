"""`error_report`: its errors are those of the products, and it shows them three ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import npublas
from npublas._error_report import float16_product

RNG = np.random.default_rng(7)
A = RNG.standard_normal((24, 320)).astype(np.float32)
B = RNG.standard_normal((320, 40)).astype(np.float32)
EXACT = A.astype(np.float64) @ B

INTEGERS = {
    f"int{bits}" + (f", groups of {size}" if size else "") + (", rotated" if rotated else ""): {
        "bits": bits,
        "group_size": size,
        "rotate": rotated,
    }
    for bits in (8, 4)
    for size in (None, 128)
    for rotated in (False, True)
}


def rows(report: npublas.ErrorReport) -> dict[str, Any]:
    return {row.precision: row for row in report.rows}


@pytest.fixture(scope="module")
def report() -> npublas.ErrorReport:
    return npublas.error_report(A, B, group_size=128)


def test_it_has_a_row_for_each_precision(report: npublas.ErrorReport) -> None:
    assert [row.precision for row in report.rows] == ["float32", "float16", *INTEGERS]
    assert report.shape == (24, 320, 40)
    short = npublas.error_report(A, B, group_size=None)
    assert [row.precision for row in short.rows] == [
        "float32",
        "float16",
        *(name for name in INTEGERS if "groups" not in name),
    ]


@pytest.mark.parametrize("name", INTEGERS)
def test_a_row_has_the_errors_of_its_product(report: npublas.ErrorReport, name: str) -> None:
    q = npublas.quantize(B, **INTEGERS[name])
    error = (A @ q) - EXACT
    row = rows(report)[name]
    assert row.max_error == np.abs(error).max()
    assert row.rms_error == pytest.approx(np.sqrt((error**2).mean()))
    assert row.snr_db == pytest.approx(10 * np.log10((EXACT**2).sum() / (error**2).sum()))
    assert row.weight_bytes == q.nbytes


def test_the_floats_come_in_their_order(report: npublas.ErrorReport) -> None:
    table = rows(report)
    assert table["float32"].snr_db > 120 > 75 > table["float16"].snr_db > 65
    assert table["float16"].snr_db > table["int8"].snr_db > table["int4"].snr_db > 10
    assert table["float32"].weight_bytes == 2 * table["float16"].weight_bytes == B.nbytes


@pytest.mark.parametrize("k", [1, 32, 1024, 1025, 3000])
def test_float16_is_what_the_npu_computes(k: int, device: str) -> None:
    """To within the order of additions; rounding the operands is the larger part by far."""
    x = np.exp2(RNG.integers(-60, 60, (8, 1))).astype(np.float32) * normal(8, k)
    w = normal(k, 16)
    with npublas.config_context(on_fallback="error"):
        on_npu = npublas.matmul(x, w, precision="float16", device="npu")
    ours = float16_product(x, w)
    sizes = np.abs(x).astype(np.float64) @ np.abs(w)
    assert (np.abs(ours - on_npu.astype(np.float64)) <= (40 + k / 512) * 2.0**-23 * sizes).all()


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_times_are_those_that_explain_predicts(report: npublas.ErrorReport) -> None:
    table = rows(report)
    half = npublas.explain(A, B, precision="float16").npu_seconds
    assert table["float16"].npu_seconds == half > 0

    def predicted(*depths: int) -> float:
        return sum(
            npublas.explain(
                np.empty((24, k), np.int8), np.empty((k, 40), np.int8), dtype=np.int32
            ).npu_seconds
            for k in depths
        )

    for name, depths in (("", [320]), (", groups of 128", [128, 128, 64])):
        for bits in ("int8", "int4"):
            assert (table[bits + name].npu_seconds or 0) == pytest.approx(predicted(*depths))


def test_stacks_are_compared_as_a_whole() -> None:
    x = RNG.standard_normal((3, 4, 20))
    flat = npublas.error_report(x.reshape(12, 20), B[:20], group_size=None)
    assert npublas.error_report(x, B[:20], group_size=None) == flat
    stacked = npublas.error_report(x, np.stack([B[:20]] * 3), group_size=None)
    assert stacked.shape == (4, 20, 40)
    assert rows(stacked)["int8"].max_error == rows(flat)["int8"].max_error


def test_a_product_without_error_has_an_infinite_ratio() -> None:
    report = npublas.error_report(np.eye(4), 127 * np.eye(4), group_size=None)
    assert rows(report)["int8"].snr_db == rows(report)["float32"].snr_db == np.inf
    assert rows(report)["int8"].max_error == 0
    empty = npublas.error_report(np.ones((0, 3)), np.ones((3, 2)))
    assert rows(empty)["int8"].rms_error == 0


def test_it_is_a_table_a_page_and_plain_values(report: npublas.ErrorReport) -> None:
    head, titles, rule, *lines = repr(report).splitlines()
    assert head == (
        "npublas: 24 × 320 × 40; errors against float64, NPU times predicted from published figures"
    )
    assert titles.split("  ")[-1] == "precision" and set(rule) == {"-", " "}
    assert [line.rsplit("   ", 1)[-1].split("  ")[-1] for line in lines] == [
        row.precision for row in report.rows
    ]
    page = report._repr_html_()
    assert page.count("<tr>") == 1 + len(lines) and "int8, rotated" in page
    plain = report.to_dict()
    assert plain["shape"] == [24, 320, 40]
    assert plain["rows"][2]["precision"] == "int8"
    assert isinstance(plain["rows"][2]["max_error"], float)


@pytest.mark.parametrize(
    ("a", "b", "error", "complaint"),
    [
        (np.full((2, 2), np.nan), np.eye(2), ValueError, "a must be finite"),
        (np.eye(2), np.full((2, 2), np.inf), ValueError, "b must be finite"),
        (np.eye(2), np.full((2, 2), 1e39), ValueError, "b must be finite in float32"),
        (np.ones(2), np.eye(2), ValueError, "a must be a matrix"),
        (np.eye(2), np.eye(3), ValueError, "mismatch"),
        (np.eye(2) * 1j, np.eye(2), TypeError, "a must be of real numbers"),
    ],
)
def test_what_can_not_be_compared_is_refused(
    a: np.ndarray, b: np.ndarray, error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        npublas.error_report(a, b)
