"""linear: x @ w + bias and an activation, on NPU and CPU, against the written formulas."""

from __future__ import annotations

import io
import math
import re
import warnings

import ml_dtypes
import numpy as np
import pytest

import npublas
from npublas import _engine, _product
from npublas.testing import simulator

U = 2.0**-24
FORMULAS = {
    None: lambda y: y,
    "relu": lambda y: np.maximum(y, 0),
    "gelu": lambda y: y * 0.5 * np.vectorize(math.erfc, [float])(-y / 2**0.5),
    "gelu_tanh": lambda y: 0.5 * y * (1 + np.tanh((2 / np.pi) ** 0.5 * (y + 0.044715 * y**3))),
    "silu": lambda y: y / (1 + np.exp(-y)),
}
STEEPEST = 1.13  # of any activation: what an error of y grows by at most
UNIT = {np.float16: 2.0**-11, np.float32: U, np.float64: 2.0**-53}


@pytest.fixture(autouse=True, params=["npu", "cpu"])
def where(request):
    npublas.set_config(
        runtime="simulator", device=request.param, on_fallback="error", float64="float32"
    )
    yield request.param
    _engine.close_engine()


def random(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def expected(x, w, bias, activation):
    y = np.matmul(x.astype(np.float64), w.astype(np.float64))
    return FORMULAS[activation](y if bias is None else y + bias)


def bound(x, w, bias, activation, where):
    """Of the sums, carried through the activation, and one rounding to the result's type."""
    x, w = x.astype(x.dtype), w.astype(w.dtype)
    size = np.matmul(abs(x.astype(np.float64)), abs(w.astype(np.float64)))
    unit = U if where == "npu" or x.dtype != np.float64 else 2.0**-53
    sums = STEEPEST * max(x.shape[-1], 10) * unit * size
    once = UNIT[x.dtype.type] * (abs(expected(x, w, bias, activation)) + sums)
    return sums + once + 2.0**-25


@pytest.mark.parametrize("activation", FORMULAS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (33, 2049, 130), (600, 40, 9)])
def test_it_is_the_formula_rounded_once(shape, dtype, activation, where):
    m, k, n = shape
    x, w, bias = random(m, m, k, dtype=dtype), random(n, k, n, dtype=dtype), random(k, n)
    y = npublas.linear(x, w, bias, activation=activation)
    assert y.dtype == dtype and y.shape == (m, n)
    error = abs(y - expected(x, w, bias, activation))
    assert (error <= bound(x, w, bias, activation, where)).all()
    places = npublas.counters()
    assert (places.npu.products, places.cpu.products) == ((1, 0) if where == "npu" else (0, 1))


@pytest.mark.parametrize("activation", FORMULAS)
def test_it_is_exact_where_the_sums_are(activation):
    """Whole numbers: the same bits from the NPU, the CPU, and the formula in double."""
    x, w = np.rint(3 * random(0, 20, 300)), np.rint(3 * random(1, 300, 40))
    bias = np.rint(8 * random(2, 40)) / 8
    exact = expected(x, w, bias, activation)
    y = npublas.linear(x, w, bias, activation=activation)
    if activation in (None, "relu"):
        np.testing.assert_array_equal(y, exact.astype(np.float32))
    np.testing.assert_allclose(y, exact, rtol=1.01 * U, atol=1e-45)


SHAPES = {
    "vector": ((40,), (40, 30)),
    "stack of activations": ((2, 3, 5, 40), (40, 30)),
    "no rows": ((0, 40), (40, 30)),
    "an empty stack": ((0, 5, 40), (40, 30)),
    "no columns": ((5, 40), (40, 0)),
    "no depth": ((5, 0), (0, 30)),
    "stack of weights": ((3, 5, 40), (3, 40, 30)),
    "one for all weights": ((5, 40), (3, 40, 30)),
    "crossed stacks": ((2, 1, 5, 40), (3, 40, 30)),
    "weights with one axis of the stack": ((2, 4, 5, 40), (2, 1, 40, 30)),
    "stacks of two axes": ((2, 4, 5, 40), (2, 4, 40, 30)),
    "a longer stack of weights": ((4, 5, 40), (2, 1, 40, 30)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_stacks_are_as_those_of_matmul(name, where):
    x, w = (random(i, *shape) for i, shape in enumerate(SHAPES[name]))
    bias = random(3, w.shape[-1])
    y = npublas.linear(x, w, bias, activation="silu")
    exact = expected(x, w, bias, "silu")
    assert y.shape == exact.shape and y.dtype == np.float32
    assert (abs(y - exact) <= bound(x, w, bias, "silu", where)).all()
    sums = npublas.linear(x, w)
    assert sums.shape == np.matmul(x, w).shape
    assert (abs(sums - np.matmul(x, w)) <= 2 * bound(x, w, None, None, where)).all()


def test_a_stack_of_activations_is_one_product():
    npublas.linear(random(0, 2, 3, 5, 40), random(1, 40, 30))
    assert npublas.counters().npu.products + npublas.counters().cpu.products == 1


VIEWS = {
    "w transposed": (lambda: random(0, 6, 40), lambda: random(1, 30, 40).T),
    "both sliced": (lambda: random(0, 12, 80)[::2, ::-2], lambda: random(1, 80, 90)[::2, ::3]),
    "x no single product": (lambda: random(0, 4, 6, 40)[:, ::2], lambda: random(1, 40, 30)),
    "x broadcast": (lambda: np.broadcast_to(random(0, 40), (6, 40)), lambda: random(1, 40, 30)),
    "other byte order": (lambda: random(0, 6, 40).astype(">f4"), lambda: random(1, 40, 30)),
    "unaligned": (
        lambda: np.frombuffer(b"x" + random(0, 6, 40).tobytes(), np.float32, 240, 1).reshape(6, 40),
        lambda: random(1, 40, 30),
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_operands_may_have_any_strides(name, where):
    x, w = (make() for make in VIEWS[name])
    y = npublas.linear(x, w, activation="relu")
    assert y.dtype == np.float32
    assert (abs(y - expected(x, w, None, "relu")) <= bound(x, w, None, "relu", where)).all()


def test_lists_are_arrays():
    assert npublas.linear([[1.0, 2.0]], [[1.0], [1.0]], [1]).tolist() == [[4.0]]


OUTS = {
    "plain": lambda: np.full((6, 30), np.nan, np.float32),
    "strided": lambda: np.full((12, 90), np.nan, np.float32)[::2, ::-3],
    "Fortran": lambda: np.full((30, 6), np.nan, np.float32).T,
    "wider": lambda: np.full((6, 30), np.nan, np.float64),
    "narrower": lambda: np.full((6, 30), np.nan, np.float16),
    "other byte order": lambda: np.full((6, 30), np.nan, ">f4"),
    "more axes": lambda: np.full((2, 6, 30), np.nan, np.float32),
}


@pytest.mark.parametrize("name", OUTS)
def test_out_is_what_is_written_and_returned(name):
    x, w, bias = random(0, 6, 40), random(1, 40, 30), random(2, 30)
    whole = npublas.linear(x, w, bias, activation="gelu")
    out = OUTS[name]()
    assert npublas.linear(x, w, bias, activation="gelu", out=out) is out
    np.testing.assert_array_equal(out, np.broadcast_to(whole, out.shape).astype(out.dtype))


@pytest.mark.parametrize("where_it_overlaps", ["x", "w", "bias"])
def test_out_may_overlap_what_is_read(where_it_overlaps):
    x, w, bias = random(0, 40, 40), random(1, 40, 40), np.zeros((40, 40))[0]
    whole = npublas.linear(x, w, bias)
    if where_it_overlaps == "bias":
        both = np.zeros((40, 40))
        npublas.linear(x.astype(float), w.astype(float), both[3], out=both)
        assert (abs(both - whole) < 1e-3).all()
        return
    out = x if where_it_overlaps == "x" else w
    np.testing.assert_array_equal(npublas.linear(x, w, bias, out=out), whole)


BAD = {
    "activation": (ValueError, lambda x, w: npublas.linear(x, w, activation="tanh"), "'relu'"),
    "bias of another length": (ValueError, lambda x, w: npublas.linear(x, w, x[0, :29]), "30 colu"),
    "bias of two axes": (ValueError, lambda x, w: npublas.linear(x, w, x), "columns"),
    "complex bias": (TypeError, lambda x, w: npublas.linear(x, w, np.ones(30) * 1j), "complex"),
    "weights of one axis": (ValueError, lambda x, w: npublas.linear(x, w[:, 0]), "1-D"),
    "depths": (ValueError, lambda x, w: npublas.linear(x, w[:7]), "mismatch"),
    "stacks": (
        ValueError,
        lambda x, w: npublas.linear(np.stack([x, x]), np.stack([w, w, w])),
        "broadcast",
    ),
    "precision": (ValueError, lambda x, w: npublas.linear(x, w, precision="x"), "precision must"),
    "out of another shape": (
        ValueError,
        lambda x, w: npublas.linear(x, w, out=np.empty((6, 31), np.float32)),
        "shape",
    ),
    "out of integers": (
        TypeError,
        lambda x, w: npublas.linear(x, w, out=np.empty((6, 30), np.int32)),
        "same_kind",
    ),
    "out of another height": (
        ValueError,
        lambda x, w: npublas.linear(x[:1], w, out=np.empty((6, 30), np.float32)),
        r"\(6, 30\), and the result \(1, 30\)",
    ),
    "out of another shape for bytes": (
        ValueError,
        lambda x, w: npublas.linear(x.astype("i1"), w.astype("i1"), out=np.empty((6, 31), "i4")),
        r"\(6, 31\), and the result \(6, 30\)",
    ),
    "out of narrow integers": (
        TypeError,
        lambda x, w: npublas.linear(x.astype("u1"), w.astype("i1"), out=np.empty((6, 30), "u4")),
        "same_kind",
    ),
    "out of another shape for quantised weights": (
        ValueError,
        lambda x, w: npublas.linear(x, npublas.quantize(w), out=np.empty((6, 31), np.float32)),
        r"\(6, 31\), and the result \(6, 30\)",
    ),
    "out of integers for quantised weights": (
        TypeError,
        lambda x, w: npublas.linear(x, npublas.quantize(w), out=np.empty((6, 30), np.int32)),
        "same_kind",
    ),
    "two outs": (ValueError, lambda x, w: npublas.linear(x, w, out=(x, w)), "exactly one entry"),
    "bias for each row": (ValueError, lambda x, w: npublas.linear(x, w, x[:, :1]), r"\(6, 1\)"),
    "bias of more axes than the result": (
        ValueError,
        lambda x, w: npublas.linear(x[0], w, np.ones((1, 30))),
        r"\(1, 30\)",
    ),
    "relu of sums that wrap around": (
        TypeError,
        lambda x, w: npublas.linear(x.astype("i2"), w.astype("i2"), activation="relu"),
        "wrap around",
    ),
    "bias of sums that wrap around": (
        TypeError,
        lambda x, w: npublas.linear(x.astype("i1"), w.astype("i8"), np.ones(30, int)),
        "wrap around",
    ),
    "out no array": (TypeError, lambda x, w: npublas.linear(x, w, out=[1]), "ArrayType"),
    "gelu of integers": (
        TypeError,
        lambda x, w: npublas.linear(x.astype("i1"), w.astype("i1"), activation="gelu"),
        "int8",
    ),
    "fractions to integers": (
        TypeError,
        lambda x, w: npublas.linear(x.astype("i1"), w.astype("i1"), np.full(30, 0.5)),
        "float64",
    ),
    "relu of complex": (
        TypeError,
        lambda x, w: npublas.linear(x * 1j, w, activation="relu"),
        "complex",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_call_is_an_error_that_says_why(name):
    error, call, text = BAD[name]
    with pytest.raises(error, match=text):
        call(random(0, 6, 40), random(1, 40, 30))
    assert npublas.counters().npu.products + npublas.counters().cpu.products == 0


@pytest.mark.parametrize("relu", [None, "relu"])
@pytest.mark.parametrize("w_dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("x_dtype", [np.int8, np.uint8])
def test_bytes_give_exact_int32(x_dtype, w_dtype, relu, where):
    rng = np.random.default_rng(0)
    x = rng.integers(np.iinfo(x_dtype).min, np.iinfo(x_dtype).max, (6, 700), x_dtype, endpoint=True)
    w = rng.integers(np.iinfo(w_dtype).min, np.iinfo(w_dtype).max, (700, 30), w_dtype)
    bias = rng.integers(-(10**6), 10**6, 30)
    y = npublas.linear(x, w, bias, activation=relu)
    exact = x.astype(np.int64) @ w.astype(np.int64) + bias
    exact = np.maximum(exact, 0) if relu else exact
    np.testing.assert_array_equal(y, exact.astype(np.int32), strict=True)
    assert npublas.counters().npu.products == (where == "npu"), "on NumPy 1.26, too"


@pytest.mark.parametrize("relu", [None, "relu"])
@pytest.mark.parametrize("packed", [False, True], ids=["array", "packed"])
@pytest.mark.parametrize(("x_type", "w_type"), [("4", "4"), ("4", "8"), ("8", "4"), ("4", "u")])
def test_int4_counts_as_int8(x_type, w_type, packed, relu, where):
    int4 = ml_dtypes.int4
    types = {"4": int4, "8": np.int8, "u": np.uint8}
    x = np.full((1, 64), 7, np.int8).astype(types[x_type])
    w = np.full((64, 2), 7, np.int8).astype(types[w_type])
    operand = npublas.pack(w) if packed else w
    y = npublas.linear(x, operand, [1, -10000], activation=relu)
    exact = np.array([[3137, 0 if relu else -6864]], np.int32)
    np.testing.assert_array_equal(y, exact, strict=True)
    assert npublas.counters().npu.products == (where == "npu")


BFLOAT16 = {
    ("bfloat16", "bfloat16"): "bfloat16",
    ("bfloat16", "float16"): "float32",
    ("float16", "bfloat16"): "float32",
    ("bfloat16", "float32"): "float32",
    ("float64", "bfloat16"): "float64",
    ("int8", "bfloat16"): "float32",
    ("bfloat16", "int4"): "float32",
    ("bfloat16", "int32"): "float64",
}


@pytest.mark.parametrize(("x_type", "w_type"), BFLOAT16)
def test_bfloat16_promotes_as_for_matmul_but_stays_what_it_is_with_itself(x_type, w_type):
    types = [getattr(ml_dtypes, t, None) or np.dtype(t) for t in (x_type, w_type)]
    x, w = np.eye(5).astype(types[0]), np.arange(15).reshape(5, 3).clip(0, 7).astype(types[1])
    y = npublas.linear(x, w, np.full(3, 0.5), activation="relu")
    assert y.dtype.name == BFLOAT16[x_type, w_type]
    np.testing.assert_array_equal(y.astype(float), w.astype(float) + 0.5)
    if x_type != w_type:
        assert y.dtype == npublas.matmul(x, w).dtype


BIASES = {
    "a number": lambda bias: bias[0],
    "an array of no axes": lambda bias: bias[0].reshape(()),
    "one element": lambda bias: bias[:1],
    "a row": lambda bias: bias[np.newaxis],
    "a row of a stack": lambda bias: bias[np.newaxis, np.newaxis],
    "reversed": lambda bias: bias[::-1],
}


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
@pytest.mark.parametrize("name", BIASES)
def test_a_bias_may_be_what_broadcasts_to_a_row(name, dtype):
    x, w = (np.rint(3 * random(i, *s)).astype(dtype) for i, s in enumerate([(2, 6, 40), (40, 30)]))
    bias = BIASES[name](np.arange(5, 35))
    y = npublas.linear(x, w, bias)
    np.testing.assert_array_equal(y, npublas.linear(x, w) + np.asarray(bias))


@pytest.mark.parametrize("quantised", [False, True])
def test_a_tuple_of_one_out_is_that_out(quantised):
    npublas.set_config(on_fallback="allow")  # NumPy 1.26 has no loop for quantised matrices
    x, w = random(0, 6, 40), random(1, 40, 30)
    operand = npublas.quantize(w) if quantised else w
    out = np.empty((6, 30), np.float32)
    assert npublas.linear(x, operand, out=(out,)) is out
    np.testing.assert_array_equal(out, npublas.linear(x, operand))


def test_other_types_are_numpys():
    npublas.set_config(on_fallback="allow")
    for dtype in "?hilqFDgO":
        x, w = np.rint(random(0, 6, 8)).astype(dtype), np.rint(random(1, 8, 5)).astype(dtype)
        np.testing.assert_array_equal(npublas.linear(x, w), np.matmul(x, w), strict=True)


def test_mixed_floats_give_what_they_promote_to(where):
    for x_dtype, w_dtype in [("f2", "f4"), ("f4", "f2"), ("f4", "f8"), ("i1", "f4"), ("f4", "i2")]:
        x, w = random(0, 6, 40).astype(x_dtype), random(1, 40, 30).astype(w_dtype)
        y = npublas.linear(x, w)
        assert y.dtype == np.result_type(x, w)
        size = np.matmul(abs(x.astype(float)), abs(w.astype(float)))
        assert (abs(y - expected(x, w, None, None)) <= 40 * U * size).all()


# --- When the NPU fails ---------------------------------------------------------------------------

FAULTS = ["submit_failure", "zeros", "lost_device", "enomem", "bind_failure", "sync_failure"]


@pytest.mark.parametrize("count", [1, 0], ids=["once", "from then on"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_npu_leaves_right_numbers(fault, count, where):
    npublas.set_config(device="npu", on_fallback="allow")
    x, w, bias = random(0, 60, 1500), random(1, 1500, 400), random(2, 400)
    npublas.linear(x, w)
    for nth in (1, 4):
        with simulator.fault(fault, nth=nth, count=count):
            y = npublas.linear(x, w, bias, activation="gelu_tanh")
        error = abs(y - expected(x, w, bias, "gelu_tanh"))
        assert (error <= bound(x, w, bias, "gelu_tanh", "npu")).all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_the_npu_would_lose_falls_back_with_its_reason():
    npublas.set_config(device="npu")
    x, w = random(0, 6, 40), random(1, 40, 30)
    x[2, 3] = np.nan
    with pytest.raises(npublas.FallbackError, match="NaN"):
        npublas.linear(x, w, random(2, 30))
    npublas.set_config(on_fallback="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = npublas.linear(x, w, activation="relu")
    assert np.isnan(y[2]).all() and np.isfinite(np.delete(y, 2, 0)).all()
    (warning,) = caught
    assert warning.filename == __file__ and warning.category is npublas.FallbackWarning


def test_no_npu_is_an_error_if_one_is_demanded(tmp_path):
    npublas.set_config(runtime=tmp_path / "librknnrt.so", on_fallback="allow")
    x, w = random(0, 6, 40), random(1, 40, 30)
    with pytest.raises(npublas.NpuUnavailableError, match=r"librknnrt\.so"):
        npublas.linear(x, w, device="npu")
    assert npublas.linear(x, w, device="auto").shape == (6, 30)


def test_overflow_and_underflow_are_told_as_numpy_tells_them():
    for scale, condition in ((600.0, "overflow"), (2.0**-13, "underflow")):
        x = np.full((16, 16), scale, np.float16)
        with np.errstate(all="raise"), pytest.raises(FloatingPointError, match=condition):
            npublas.linear(x, np.eye(16, dtype=np.float16) * x, activation="gelu")


CONDITIONS = {
    "a result of float16": (lambda: np.full((16, 16), 600, np.float16), "overflow .* in matmul"),
    "sums of float32": (lambda: np.full((16, 16), 1e30, np.float32), "overflow .* in matmul"),
    "no number": (lambda: np.diag([np.inf] * 16).astype(np.float32), "invalid value .* in matmul"),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_numpys_warnings_point_to_the_line_that_asked(name):
    npublas.set_config(on_fallback="allow")
    make, text = CONDITIONS[name]
    x = make()
    packed = [] if name == "no number" else [lambda: x @ npublas.pack(x)]
    for call in (lambda: npublas.linear(x, x), lambda: npublas.gemm(1, x, x), *packed):
        with np.errstate(all="warn"), pytest.warns(RuntimeWarning, match=text) as caught:
            call()
        assert {warning.filename for warning in caught} == {__file__}
        log = io.StringIO()
        with np.errstate(all="log", call=log):
            call()
        assert re.search(text, log.getvalue()), "who has a log of his own keeps it"


def test_a_warning_about_a_narrow_out_points_to_the_line_that_asked():
    x = np.full((16, 16), 600, np.float32)
    with pytest.warns(RuntimeWarning, match="overflow encountered in cast") as caught:
        npublas.linear(x, x, out=np.empty((16, 16), np.float16))
    assert [warning.filename for warning in caught] == [__file__]


def test_the_line_of_a_verbose_product_is_written(capsys):
    from npublas import _log

    _log.set_verbose(True)
    try:
        npublas.linear(random(0, 2, 3, 40), random(1, 40, 30))
    finally:
        _log.set_verbose(False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("npublas: float32 (6, 40) @ (40, 30): ")


# --- Weights that are packed ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("name", ["vector", "stack of activations", "crossed stacks"])
def test_packed_weights_give_the_same_bits(dtype, name):
    x, w = (random(i, *shape, dtype=dtype) for i, shape in enumerate(SHAPES[name]))
    bias = random(3, w.shape[-1])
    packed = npublas.pack(w)
    for activation in (None, "gelu"):
        np.testing.assert_array_equal(
            npublas.linear(x, packed, bias, activation=activation),
            npublas.linear(x, w, bias, activation=activation),
            strict=True,
        )


@pytest.mark.parametrize("w_dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("x_dtype", [np.int8, np.uint8])
def test_packed_bytes_are_exact(x_dtype, w_dtype):
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 127, (6, 700), x_dtype), rng.integers(0, 127, (700, 30), w_dtype)
    exact = x.astype(np.int32) @ w.astype(np.int32)
    packed = npublas.pack(w)
    np.testing.assert_array_equal(npublas.linear(x, packed), exact, strict=True)
    np.testing.assert_array_equal(_product.multiply(x, packed), np.matmul(x, w), strict=True)


def test_what_is_too_delicate_for_packed_parts_comes_right_with_the_source(where):
    # In row 2 and column 4 nothing large meets, so what the small ones lose is seen.
    x, w = random(0, 6, 64), random(1, 64, 30)
    w[:, 4] *= 2.0**-20
    w[0, 4], x[2, 0] = 1.0, 0.0
    packed = npublas.pack(w)
    y = npublas.linear(x, packed)
    if where == "npu":
        assert npublas.counters().work["recomputed"] > 0
    exact = expected(x, w, None, None)
    assert (abs(y - exact) <= bound(x, w, None, None, where)).all()
    np.testing.assert_array_equal(y, npublas.linear(x, w))


def test_a_precision_that_does_not_exist_is_no_reason_to_pack_anew():
    weights = npublas.pack(np.ones((4, 4), np.float32))
    for function in (npublas.explain, npublas.linear):
        with pytest.raises(npublas.ConfigurationError, match=r"precision must be .*not 'int3'"):
            function(np.ones((4, 4), np.float32), weights, precision="int3")


def test_the_precision_of_packed_weights_is_theirs(where):
    x, w = random(0, 6, 40), random(1, 40, 30)
    packed = npublas.pack(w, precision="float16")
    with npublas.config_context(precision="float32"):
        y = npublas.linear(x, packed)
    if where == "npu":
        np.testing.assert_array_equal(y, npublas.linear(x, w, precision="float16"))
    else:  # the CPU takes what was packed
        np.testing.assert_array_equal(y, np.matmul(x, packed.unpack()))
    with pytest.raises(npublas.ConfigurationError, match="packed with precision='float16'"):
        npublas.linear(x, packed, precision="float32")


def test_explain_takes_packed_weights(where):
    x, w = random(0, 2, 3, 40), random(1, 40, 30)
    halves = w.astype(np.float16).astype(np.float32)
    explained = [npublas.explain(x, npublas.pack(m)) for m in (w, halves)]
    assert [e.shape for e in explained] == [(1, 6, 40, 30)] * 2
    assert [e.on_npu for e in explained] == [where == "npu"] * 2
    assert [e.products for e in explained] == ([3, 2] if where == "npu" else [0, 0])
