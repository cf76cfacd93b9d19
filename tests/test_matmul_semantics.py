"""npublas.matmul is numpy.matmul: the same object kind, arguments, results, errors and warnings.

The oracle is NumPy: each call is made twice, with numpy.matmul and with npublas.matmul.
"""

from __future__ import annotations

import copy
import doctest
import inspect
import pickle
import sys
import threading
import warnings

import numpy as np
import pytest

import npublas

NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= "2.0.0"


def numbers(*shape, dtype=np.float32):
    """Small whole numbers, exact in every type, none of them the same as its neighbour."""
    return (np.arange(np.prod(shape)) % 7 - 3).reshape(shape).astype(dtype)


def outcome(call, matmul):
    """What a call came to: its result, or its error; and the warnings that it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call(matmul)
        except Exception as error:
            result = type(error), str(error)
    return result, [str(warning.message) for warning in caught]


def assert_same(call):
    expected, expected_warnings = outcome(call, np.matmul)
    result, given_warnings = outcome(call, npublas.matmul)
    assert type(result) is type(expected)
    if isinstance(expected, np.ndarray):
        assert result.dtype == expected.dtype
        assert result.strides == expected.strides
        np.testing.assert_array_equal(result, expected)
    else:
        assert result == expected
    assert given_warnings == expected_warnings


# --- The object -----------------------------------------------------------------------------------


def test_it_is_a_ufunc_with_numpys_attributes():
    ours, numpys = npublas.matmul, np.matmul
    assert isinstance(ours, np.ufunc)
    assert ours.types == numpys.types
    for name in ("__name__", "nin", "nout", "nargs", "ntypes", "identity", "signature"):
        assert getattr(ours, name) == getattr(numpys, name)
    for name in ("reduce", "accumulate", "outer", "at", "reduceat"):
        assert_same(lambda matmul, name=name: getattr(matmul, name)(numbers(2, 2), numbers(2, 2)))
    assert repr(ours) == "<ufunc 'matmul'>"


# Before NumPy 2.2 pickle looks through all modules, and some of NumPy's own warn when looked at.
@pytest.mark.filterwarnings("ignore:The numpy:DeprecationWarning")
def test_it_pickles_and_copies_as_npublas_matmul():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        text = pickle.dumps(npublas.matmul, protocol)
        assert b"npublas\n" in text or b"\x07npublas" in text or b"\x07\x00\x00\x00npublas" in text
        assert pickle.loads(text) is npublas.matmul
    assert copy.copy(npublas.matmul) is npublas.matmul
    assert copy.deepcopy(npublas.matmul) is npublas.matmul


def test_its_introspection_is_that_of_numpys():
    def signature(matmul):
        try:
            return str(inspect.signature(matmul))
        except ValueError:  # before NumPy 2.4
            return None

    assert signature(npublas.matmul) == signature(np.matmul)
    if hasattr(np.matmul, "__module__"):  # from NumPy 2.2 on
        assert npublas.matmul.__module__ == "npublas"
        assert npublas.matmul.__qualname__ == "matmul"


def test_the_examples_of_its_docstring_are_true():
    tests = doctest.DocTestParser().get_doctest(
        npublas.matmul.__doc__, {}, "npublas.matmul", None, None
    )
    runner = doctest.DocTestRunner()
    assert runner.run(tests).failed == 0
    assert runner.tries > 5
    for section in ("Parameters", "Returns", "Raises", "Examples", "precision :", "device :"):
        assert section in npublas.matmul.__doc__


# --- Calls that succeed ---------------------------------------------------------------------------

A, B = numbers(4, 5), numbers(5, 3)
WIDE = numbers(3, 6, 8)

CALLS = {
    "plain": lambda f: f(A, B),
    "matrix and vector": lambda f: f(A, B[:, 0]),
    "vector and matrix": lambda f: f(A[0], B),
    "two vectors give a scalar": lambda f: f(A[0], B[:, 0]),
    "two object vectors give a Python object": lambda f: f(
        A[0].astype(object), B[:, 0].astype(object)
    ),
    "lists": lambda f: f([[1, 2], [3, 4]], [[1.5], [2.5]]),
    "stacks are broadcast": lambda f: f(numbers(2, 1, 4, 5), numbers(3, 5, 2)),
    "an empty stack": lambda f: f(numbers(0, 4, 5), B),
    "no rows": lambda f: f(A[:0], B),
    "no columns": lambda f: f(A, B[:, :0]),
    "no depth gives zeros": lambda f: f(A[:, :0], B[:0]),
    "no depth overwrites out": lambda f: f(A[:, :0], B[:0], out=np.full((4, 3), 7, np.float32)),
    "no depth of int8": lambda f: f(np.ones((3, 0), np.int8), np.ones((0, 2), np.int8)),
    "transposed": lambda f: f(B.T, A.T),
    "negative strides": lambda f: f(A[::-1, ::-1], B[::-1, ::-1]),
    "steps": lambda f: f(WIDE[:, ::2, ::3], numbers(9, 4)[::3, ::-2]),
    "zero strides": lambda f: f(np.broadcast_to(A[0], (4, 5)), B),
    "windows that overlap": lambda f: f(
        np.lib.stride_tricks.as_strided(numbers(20), (8, 5), (4, 4)), B
    ),
    "Fortran order": lambda f: f(np.asfortranarray(A), np.asfortranarray(B)),
    "order='F'": lambda f: f(A, B, order="F"),
    "order='C'": lambda f: f(A.T.copy().T, B.T.copy().T, order="C"),
    "unaligned": lambda f: f(np.frombuffer(b"x" + A.tobytes(), np.float32, 20, 1).reshape(4, 5), B),
    "swapped bytes": lambda f: f(A.astype(">f4"), B),
    "axes": lambda f: f(numbers(5, 4), numbers(3, 5), axes=[(1, 0), (1, 0), (1, 0)]),
    "dtype": lambda f: f(A, B, dtype=np.float64),
    "signature": lambda f: f(A, B, signature="dd->d"),
    "unsafe casting": lambda f: f(A, B, dtype=np.int32, casting="unsafe"),
    "mixed types": lambda f: f(A.astype(np.int8), B.astype(np.uint8)),
    "int8 and float16": lambda f: f(A.astype(np.int8), B.astype(np.float16)),
    "out by position": lambda f: f(A, B, np.empty((4, 3), np.float32)),
    "out in a tuple": lambda f: f(A, B, out=(np.empty((4, 3), np.float32),)),
    "out=None": lambda f: f(A, B, out=None),
    "out of a wider type": lambda f: f(A, B, out=np.empty((4, 3), np.float64)),
    "out with more dimensions": lambda f: f(A, B, out=np.empty((2, 4, 3), np.float32)),
    "out with strides": lambda f: f(A, B, out=np.zeros((8, 9), np.float32)[::2, ::-3]),
    "out of swapped bytes": lambda f: f(A, B, out=np.empty((4, 3), ">f4")),
    "int8 operands, int32 out": lambda f: f(
        A.astype(np.int8), B.astype(np.int8), out=np.empty((4, 3), np.int32)
    ),
    "a matrix stays one": lambda f: f(np.matrix(A), np.matrix(B)),
    "subok=False": lambda f: f(np.matrix(A), np.matrix(B), subok=False),
    "an interface": lambda f: f(Interface(A), B),
    "a buffer": lambda f: f(memoryview(A), B),
    **{
        f"large and {dtype}": lambda f, dtype=dtype: f(
            numbers(2, 30, 40, dtype=dtype), numbers(40, 35, dtype=dtype)
        )
        for dtype in "?bBhHiIlLqQefdgFDGO"
    },
}


class Interface:
    def __init__(self, array):
        self.__array_interface__ = array.__array_interface__
        self.array = array


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_numpys_result(name):
    assert_same(CALLS[name])


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32])
@pytest.mark.parametrize("where", ["left", "right", "both", "shifted"])
def test_out_may_overlap_the_operands(dtype, where):
    def call(matmul):
        a, b = numbers(40, 40, dtype=dtype), numbers(40, 40, dtype=dtype)[::-1].copy()
        if where == "both":
            return matmul(a, a, out=a)
        if where == "shifted":
            long = numbers(1640, dtype=dtype)
            return matmul(long[:1600].reshape(40, 40), b, out=long[40:].reshape(40, 40))
        return matmul(a, b, out=a if where == "left" else b)

    assert_same(call)


def test_out_is_what_is_returned():
    out = np.empty((4, 3), np.float32)
    assert npublas.matmul(A, B, out=out) is out
    assert npublas.matmul(A, B, out, device="cpu") is out


def test_masked_arrays_are_treated_as_numpy_treats_them():
    a = np.ma.masked_array(numbers(4, 4), mask=np.eye(4, dtype=bool))
    expected, result = np.matmul(a, a), npublas.matmul(a, a)
    assert type(result) is type(expected) is np.ma.MaskedArray
    np.testing.assert_array_equal(result.data, expected.data)


# --- Calls that fail ------------------------------------------------------------------------------


def read_only(array):
    array.flags.writeable = False
    return array


BAD_CALLS = {
    "a 0-d operand": lambda f: f(A, 3),
    "a 0-d operand on the left": lambda f: f(3, A),
    "depths that differ": lambda f: f(A, A),
    "a depth of 1 is not broadcast": lambda f: f(A[:, :1], B),
    "stacks that differ": lambda f: f(numbers(2, 4, 5), numbers(3, 5, 2)),
    "depths that differ in an empty stack": lambda f: f(numbers(0, 4, 5), A),
    "out of a wrong shape": lambda f: f(A, B, out=np.empty((3, 4), np.float32)),
    "out of a narrower kind": lambda f: f(A, B, out=np.empty((4, 3), np.int32)),
    "out read-only": lambda f: f(A, B, out=read_only(np.empty((4, 3), np.float32))),
    "out no array": lambda f: f(A, B, out=[1]),
    "where": lambda f: f(A, B, where=True),
    "axis": lambda f: f(A, B, axis=0),
    "keepdims": lambda f: f(A, B, keepdims=True),
    "an unknown argument": lambda f: f(A, B, accuracy=1),
    "x1 by name": lambda f: f(x1=A, x2=B),
    "one operand": lambda f: f(A),
    "none": lambda f: f(),
    "four": lambda f: f(A, B, A, B),
    "signature and dtype": lambda f: f(A, B, signature="ff->f", dtype="f"),
    "unsafe dtype": lambda f: f(A, B, dtype=np.int8),
    "text": lambda f: f(np.array([["a"]]), np.array([["b"]])),
    "dates": lambda f: f(np.array([["2020"]], "M8[Y]"), np.array([["2020"]], "M8[Y]")),
    "objects that can't": lambda f: f(np.array([[None]]), np.array([[None]])),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_wrong_call_gives_numpys_error(name):
    error, _ = outcome(BAD_CALLS[name], np.matmul)
    assert isinstance(error, tuple), "NumPy accepts it"
    assert_same(BAD_CALLS[name])


# --- Overriding -----------------------------------------------------------------------------------


class Wrapped:
    """Takes part as NumPy asks for: unwraps itself and calls the ufunc that it was given."""

    def __init__(self, array):
        self.array = array

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        assert ufunc in (np.matmul, npublas.matmul)
        self.seen = ufunc, method, dict(kwargs)
        plain = [x.array if isinstance(x, Wrapped) else x for x in inputs]
        return Wrapped(getattr(ufunc, method)(*plain, **kwargs))


def test_an_override_gets_the_ufunc_itself_and_numpys_arguments_alone():
    a = Wrapped(numbers(64, 64, dtype=np.int8))
    result = npublas.matmul(a, numbers(64, 8, dtype=np.int8), order="F")
    assert a.seen == (npublas.matmul, "__call__", {"order": "F"})
    assert isinstance(result, Wrapped)


def test_the_settings_of_a_call_reach_the_products_of_an_override():
    npublas.set_config(runtime="simulator")
    a = Wrapped(numbers(8, 8, dtype=np.int8))
    npublas.matmul(a, a, device="npu")
    assert "device" not in a.seen[2]
    assert npublas.counters().npu.products == 1


def test_no_ufuncs_wanted_is_respected():
    class Refuses:
        __array_ufunc__ = None

    assert_same(lambda f: f(Refuses(), A))


# --- precision= and device= -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["precision", "device"])
@pytest.mark.parametrize("value", ["float64", "gpu", "", 16, True, b"cpu", ["cpu"]])
def test_a_wrong_setting_is_an_error_that_lists_the_right_ones(name, value):
    right = {"precision": "'float32', 'float16' or 'int8'", "device": "'auto', 'npu' or 'cpu'"}
    with pytest.raises(npublas.ConfigurationError) as error:
        npublas.matmul(A, B, **{name: value})
    assert str(error.value) == f"{name} must be {right[name]}, not {value!r}"


def test_settings_of_a_call_may_stand_among_numpys_arguments():
    out = np.empty((4, 3), np.float64)
    for options in (
        {"device": "cpu", "out": out, "precision": "float16", "casting": "same_kind"},
        {"out": out, "device": None, "precision": None},
        {"".join(["dev", "ice"]): "cpu", "out": out},  # a name that was made at run time
    ):
        assert npublas.matmul(A, B, **options) is out
        np.testing.assert_array_equal(out, np.matmul(A, B))
        out[...] = 0
    assert npublas.matmul.__call__(A, B, device="cpu").shape == (4, 3)


def test_the_precision_never_changes_the_dtype():
    for dtype in (np.float32, np.float64, np.float16, np.int8):
        for precision in ("float32", "float16", "int8"):
            x = numbers(3, 3, dtype=dtype)
            assert npublas.matmul(x, x, precision=precision).dtype == dtype


def reasons():
    return {row.text for row in npublas.counters().reasons}


def test_the_settings_of_a_call_end_with_it():
    x = numbers(2, 2, dtype=np.int8)
    npublas.matmul(x, x, device="cpu")
    with pytest.raises(ValueError, match="mismatch"):
        npublas.matmul(A, A, device="cpu")
    assert reasons() == {'device="cpu" was asked for'}
    npublas.reset_counters()
    npublas.matmul(x, x)
    assert reasons() == {"predicted to be faster on the CPU"}


class Meddles:
    """A number that multiplies matrices while NumPy converts it."""

    def __float__(self):
        x = numbers(2, 2, dtype=np.int8)
        npublas.matmul(x, x, device="cpu")
        with npublas.config_context(device="cpu"):
            npublas.matmul(x, x)
        return 2.0


def test_products_inside_a_product_do_not_disturb_its_settings():
    npublas.set_config(runtime="simulator")
    a = np.array([[Meddles() for _ in range(4)] for _ in range(4)])
    result = npublas.matmul(a, a, dtype=np.float16, casting="unsafe", device="npu")
    np.testing.assert_array_equal(result, np.full((4, 4), 16, np.float16))
    assert npublas.counters().npu.products == 1
    assert npublas.counters().cpu.products == 64


# --- (int8, int8) -> int32 ------------------------------------------------------------------------


def test_int8_sums_in_int32_are_exact():
    a, b = np.full((33, 1500), -128, np.int8), np.full((1500, 20), -128, np.int8)
    expected = np.matmul(a.astype(np.int32), b.astype(np.int32))
    for options in ({"dtype": np.int32}, {"dtype": "i4", "out": np.empty((33, 20), np.int32)}):
        result = npublas.matmul(a, b, **options)
        np.testing.assert_array_equal(result, expected, strict=True)
    tiny = npublas.matmul(a[:3, :5], b[:5, :2], dtype=np.int32)
    np.testing.assert_array_equal(tiny, np.full((3, 2), 5 * 2**14, np.int32), strict=True)
    wide = npublas.matmul(a, b, dtype=np.int64)
    np.testing.assert_array_equal(wide, expected.astype(np.int64), strict=True)


def test_int8_operands_are_not_widened_for_int32():
    a = numbers(8, 8, dtype=np.int8)
    npublas.matmul(a, a, dtype=np.int32)
    assert [row.dtype for row in npublas.counters().reasons] == ["int8" if NUMPY_2 else "int32"]


def test_int8_products_stay_int8_by_themselves():
    a = np.full((70, 70), 100, np.int8)
    npublas.matmul(a, a, dtype=np.int32)
    np.testing.assert_array_equal(npublas.matmul(a, a), np.matmul(a, a), strict=True)


# --- Threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "device"), [("float32", "cpu"), ("int8", "cpu"), ("int8", "npu")]
)
def test_another_thread_runs_python_during_a_product_with_few_results(dtype, device):
    # 400 results: NumPy keeps the lock for up to 500. With this interval no thread is ever made to
    # give it up, so the other one can only go on if a product does.
    npublas.set_config(runtime="simulator")
    a, b = np.ones((1, 8192), dtype), np.ones((8192, 400), dtype)
    npublas.matmul(a, b, device=device)
    gate, advanced = threading.Lock(), []
    gate.acquire()

    def other():
        gate.acquire()
        advanced.append(True)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=other)
    thread.start()
    try:
        sys.setswitchinterval(1000)
        gate.release()
        for _ in range(300):
            npublas.matmul(a, b, device=device)
            if advanced:
                break
        during = bool(advanced)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert during


def test_products_in_many_threads_keep_their_own_settings():
    npublas.set_config(runtime="simulator")
    x = numbers(40, 40, dtype=np.int8)
    expected = np.matmul(x, x)
    wrong = []

    def work(device):
        for _ in range(30):
            if not (npublas.matmul(x, x, device=device) == expected).all():
                wrong.append(device)

    threads = [threading.Thread(target=work, args=(d,)) for d in ("npu", "cpu") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert npublas.counters().npu.products == npublas.counters().cpu.products == 60
