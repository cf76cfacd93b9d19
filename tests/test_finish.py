"""Finishing: one rounding, from double, to every float type; and which methods there are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import bfloat16_bits, bfloat16_values, surface_c, up, views

from npublas import _core
from npublas.errors import NpuError


@pytest.fixture(params=_core.instruction_sets(), autouse=True)
def _instructions(request):
    before = _core.instruction_set()
    _core.use_instruction_set(request.param)
    yield
    _core.use_instruction_set(before)


FLOATS = ["float16", "bfloat16", "float32", "float64"]
SMALLEST = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126}


def storage(dtype):
    return "uint16" if dtype == "bfloat16" else dtype


def values_of(array, dtype):
    return (bfloat16_values(array) if dtype == "bfloat16" else array).astype(np.float64)


def bfloat16_of(exact):
    """One rounding of finite float64, by exact arithmetic: to 8 bits, or a multiple of 2^-133."""
    _, exponent = np.frexp(exact)
    unit = np.maximum(exponent - 8, -133)
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.ldexp(np.rint(np.ldexp(exact, -unit)), unit)
    return np.where(np.abs(rounded) >= 2.0**128, np.copysign(np.inf, exact), rounded)


def rounded(exact, dtype):
    """Float64 to the type, once, as float64 again. (NumPy's float64 to float16 is direct.)"""
    exact = np.asarray(exact, np.float64)
    if dtype == "bfloat16":
        return bfloat16_of(exact)
    with np.errstate(over="ignore", under="ignore"):
        return exact.astype(dtype).astype(np.float64)


def finish(sums, dtype, before=None, **epilogue):
    target = np.full(sums.shape, 1, storage(dtype)) if before is None else before.copy()
    seen = _core.finish(sums, target, dtype=dtype, **epilogue)
    return values_of(target, dtype), seen


# Numbers around every threshold: halfway between neighbours, and a hair beside.
def near_ties():
    tie = st.builds(
        lambda sign, mantissa, bits, exponent, hair: (
            sign * (mantissa + 0.5 + hair) * 2.0 ** (exponent - bits)
        ),
        st.sampled_from([1, -1]),
        st.integers(0, 2**24),
        st.sampled_from([8, 11, 24]),
        st.integers(-140, 120),
        st.sampled_from([0, 2.0**-26, -(2.0**-26), 2.0**-27, -(2.0**-27)]),
    )
    return st.one_of(tie, st.floats(allow_nan=False, allow_infinity=False), st.just(-0.0))


@given(near_ties(), st.sampled_from(FLOATS), st.sampled_from(["float32", "float64"]))
def test_sums_are_rounded_once_and_the_flags_say_what_was_lost(value, dtype, sums_type):
    with np.errstate(over="ignore", under="ignore"):
        sums = np.array([[value]]).astype(sums_type)
    if np.isinf(sums).any():
        return
    exact = sums.astype(np.float64)
    expected = rounded(exact, dtype)
    got, seen = finish(sums, dtype)
    np.testing.assert_array_equal(got, expected)
    assert np.signbit(got) == np.signbit(expected)
    small = abs(exact[0, 0]) < SMALLEST.get(dtype, 0)
    assert seen == {
        "overflow": bool(np.isinf(expected[0, 0])),
        "underflow": bool(small and (expected != exact)[0, 0]),
    }


@given(near_ties(), st.sampled_from(FLOATS))
def test_an_epilogue_is_rounded_once_too(value, dtype):
    """alpha · 1 makes any double of a float32 sum."""
    got, _ = finish(np.ones((1, 1), np.float32), dtype, alpha=value)
    np.testing.assert_array_equal(got, rounded([[value]], dtype))


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1 + 2.0**-11 + 2.0**-40, "float16", 1 + 2.0**-10),  # by way of float32 it would be 1
        (1 + 2.0**-8 + 2.0**-40, "bfloat16", 1 + 2.0**-7),
        (2.0**-25 + 2.0**-60, "float16", 2.0**-24),
        (65520 - 2.0**-20, "float16", 65504),
        (65520.0, "float16", math.inf),
    ],
)
def test_double_is_not_rounded_twice(value, dtype, expected):
    got, _ = finish(np.array([[value, -value]]), dtype)
    assert got.tolist() == [[expected, -expected]]


@given(st.integers(0, 2**32 - 1))
def test_float32_is_rounded_to_float16_as_numpy_does(bits):
    sums = np.array([[bits]], np.uint32).view(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        expected = sums.astype(np.float16).astype(np.float64)
    got, seen = finish(sums, "float16")
    np.testing.assert_array_equal(got, expected)
    assert seen["overflow"] == bool(np.isfinite(sums) and np.isinf(expected))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sums_type", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 64), (5, 65)])
def test_everything_at_once_goes_into_any_view(dtype, sums_type, shape):
    rng = np.random.default_rng(4)
    sums = rng.standard_normal(shape).astype(sums_type)
    bias = rng.standard_normal(shape[1])
    before = rng.standard_normal(shape)
    before = bfloat16_bits(before) if dtype == "bfloat16" else before.astype(dtype)
    exact = (-0.7 * sums.astype(np.float64) + 1.3 * values_of(before, dtype)) + bias
    expected = rounded(np.maximum(exact, 0), dtype)
    for target in views(before):
        seen = _core.finish(
            sums, target, alpha=-0.7, beta=1.3, bias=bias, activation="relu", dtype=dtype
        )
        # An FMA, where the compiler makes one, may round the double itself otherwise.
        unit = {"float64": 2.0**-50}.get(dtype, 0)
        np.testing.assert_allclose(values_of(target, dtype), expected, rtol=unit, atol=unit)
        assert seen == {"overflow": False, "underflow": False}


def values_around(rng, shape, kind):
    if kind == "ordinary":
        return rng.standard_normal(shape)
    if kind == "wide":
        return np.ldexp(rng.standard_normal(shape), rng.integers(-150, 120, shape))
    values = np.ldexp(rng.standard_normal(shape), rng.integers(-30, 18, shape))
    values[rng.random(shape) < 0.3] = 0
    return values


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_machine_finishes_as_the_formula_says(data):
    dtype = data.draw(st.sampled_from(FLOATS))
    sums_type = data.draw(st.sampled_from(["float32", "float64"]))
    shape = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 200))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    kind = data.draw(st.sampled_from(["ordinary", "wide", "float16"]))
    with np.errstate(all="ignore"):
        sums = values_around(rng, shape, kind).astype(sums_type)
        before = values_around(rng, shape, kind)
        before = bfloat16_bits(before) if dtype == "bfloat16" else before.astype(dtype)
    before_values = values_of(before, dtype)
    bias = values_around(rng, shape[1], kind) if data.draw(st.booleans()) else None
    alpha, beta = data.draw(st.sampled_from([(1, 0), (1, 0.5), (-0.7, 0), (0.3, 1.3)]))
    activation = data.draw(st.sampled_from(["none", "relu"]))
    plain = alpha == 1 and beta == 0 and bias is None and activation == "none"
    with np.errstate(all="ignore"):
        exact = sums.astype(np.float64) if plain else alpha * sums.astype(np.float64)
        if beta:
            exact = exact + beta * before_values
        if bias is not None:
            exact = exact + bias
        if activation == "relu":
            exact = np.where(exact < 0, 0.0, exact)
    expected = rounded(exact, dtype)
    finite = np.isfinite(sums) & (np.isfinite(before_values) | (beta == 0))
    small = np.abs(exact) < SMALLEST.get(dtype, 0)
    seen = {
        "overflow": bool((np.isinf(expected) & finite).any()),
        "underflow": bool((small & (expected != exact)).any()),
    }
    for target in views(before):
        got = _core.finish(
            sums, target, alpha=alpha, beta=beta, bias=bias, activation=activation, dtype=dtype
        )
        np.testing.assert_array_equal(values_of(target, dtype), expected)
        np.testing.assert_array_equal(np.signbit(values_of(target, dtype)), np.signbit(expected))
        assert got == seen


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sums_type", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (33, 300), (70, 130), (4, 1000)])
@pytest.mark.parametrize("layout", ["native", "normal"])
def test_one_pass_does_what_two_do(quantized, dtype, sums_type, shape, layout):
    rng = np.random.default_rng(6)
    rows, columns = shape[0] if shape[0] == 1 else up(shape[0], 4), up(shape[1], 32)

    def surface():
        if quantized:
            sums = rng.integers(-(2**20), 2**20, (rows, columns)).astype(np.int32)
        else:
            sums = rng.standard_normal((rows, columns)).astype(np.float32)
        return surface_c(sums) if layout == "native" else sums.ravel()

    surfaces = [surface()] if quantized else [surface(), None, surface()]
    scales = {
        "shape": (rows, columns),
        "layout": layout,
        "row_scales": np.ldexp(1.0, rng.integers(-20, 0, shape[0])),
        "column_scales": np.ldexp(1.0, rng.integers(-10, 0, shape[1])),
    }
    epilogue = {"alpha": 0.5, "beta": 1.5, "bias": rng.standard_normal(shape[1])}
    epilogue |= {"activation": "silu", "dtype": dtype}
    before = np.full(shape, 1, storage(dtype))
    sums = np.empty(shape, sums_type)
    unpack = _core.unpack_quantized if quantized else _core.unpack_floats
    unpacked = unpack(*surfaces, **scales, accumulate=False, target=sums)
    together = _core.finish_quantized if quantized else _core.finish_floats
    for target, expected in zip(views(before), views(before), strict=True):
        flags = _core.finish(sums, expected, **epilogue)
        seen = together(*surfaces, target, **scales, sums_type=sums_type, **epilogue)
        np.testing.assert_array_equal(target, expected)
        assert seen == (unpacked, flags)


def test_without_beta_what_was_there_is_not_read():
    before = np.full((2, 2), np.nan, np.float32)
    sums = np.ones((2, 2), np.float32)
    assert finish(sums, "float32", before, alpha=2.0)[0].tolist() == [[2, 2]] * 2
    assert np.isnan(finish(sums, "float32", before, beta=1.0)[0]).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "gelu_tanh", "silu"])
def test_nan_stays_and_raises_no_flag(dtype, activation):
    got, seen = finish(np.array([[np.nan]], np.float32), dtype, activation=activation)
    assert np.isnan(got).all() and seen == {"overflow": False, "underflow": False}


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_was_infinite_does_not_overflow_again(dtype):
    infinite = np.array([[np.inf, -np.inf]])
    ones = np.ones((1, 2))
    expected = {"overflow": False, "underflow": False}
    assert finish(infinite, dtype)[1] == expected
    assert finish(ones, dtype, bias=infinite[0])[1] == expected
    before = infinite.astype(np.float32)
    before = bfloat16_bits(before) if dtype == "bfloat16" else before.astype(dtype)
    assert finish(ones, dtype, before, beta=1.0)[1] == expected
    assert finish(ones * 1e300, dtype, alpha=1e300)[1]["overflow"]


def test_activations_are_their_formulas():
    for x in [*np.linspace(-12, 12, 241), -700.0, 700.0, -1e-300, 0.0]:
        x = float(x)
        assert _core.activate("none", x) == x
        assert _core.activate("relu", x) == max(x, 0)
        gelu = x * 0.5 * math.erfc(-x / math.sqrt(2))
        assert _core.activate("gelu", x) == pytest.approx(gelu, rel=1e-12, abs=0)
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        assert _core.activate("gelu_tanh", x) == pytest.approx(
            0.5 * x * (1 + math.tanh(inner)), rel=1e-12, abs=1e-14
        )
        assert _core.activate("silu", x) == pytest.approx(x / (1 + math.exp(-x)), rel=1e-14)
    assert _core.activate("silu", -1000.0) == 0  # e^1000 is infinite


def test_only_floats_are_finished():
    with pytest.raises(NpuError, match="int32"):
        finish(np.zeros((1, 1), np.int32), "float32")
    with pytest.raises(NpuError, match="int8"):
        finish(np.zeros((1, 1), np.float32), "int8")


def test_methods_follow_the_types_and_the_precision():
    def methods(a, b):
        return [_core.method_of(a, b, precision) for precision in ("float32", "float16", "int8")]

    for a in ("int8", "uint8"):
        for b in ("int8", "uint8"):
            assert methods(a, b) == ["integers"] * 3
    assert methods("float16", "float16") == ["float16", "float16", "int8"]
    for dtype in ("bfloat16", "float32", "float64"):
        assert methods(dtype, dtype) == ["float32", "float16", "int8"]
    for pair in [("float16", "float32"), ("float32", "float64"), ("int8", "float32"),
                 ("int16", "int16"), ("bool", "bool"), ("complex64", "complex64")]:  # fmt: skip
        assert methods(*pair) == [None] * 3
