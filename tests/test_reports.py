"""Reports are returned, not printed, and say what ran where, and why not on the NPU, in words."""

from __future__ import annotations

import json

import numpy as np
import pytest

import npublas
from npublas import _engine
from npublas._table import html_table, si, text_table

F32 = np.ones((4, 4), np.float32)
I8 = np.ones((4, 4), np.int8)
NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= "2.0.0"


@pytest.fixture(autouse=True)
def _on_the_simulator():
    npublas.set_config(runtime="simulator")
    _engine.close_engine()
    yield
    _engine.close_engine()


def only_reason():
    (reason,) = npublas.counters().reasons
    return reason


REASONS = [
    (np.float64, {}, "use astype(float32) or float64"),
    (np.int64, {}, "operands are int64"),
    (np.complex128, {}, "operands are complex128"),
    (np.bool_, {}, "operands are bool"),
    (np.int16, {"precision": "int8"}, "operands are int16: the NPU multiplies int8, uint8"),
]


@pytest.mark.parametrize(("dtype", "options", "text"), REASONS)
def test_a_product_that_the_npu_cannot_take_is_counted_with_its_reason(dtype, options, text):
    a = np.ones((4, 4), dtype)
    npublas.matmul(a, a, device="npu", **options)
    reason = only_reason()
    assert text in reason.text and reason.dtype == np.dtype(dtype).name
    assert (reason.products, reason.fallbacks, reason.on_npu) == (1, 1, False)
    assert reason.flops == 2 * 4**3
    with (
        pytest.raises(npublas.FallbackError, match=r"on_fallback"),
        npublas.config_context(on_fallback="error"),
    ):
        npublas.matmul(a, a, device="npu", **options)
    explained = npublas.explain(a, a, device="npu", **options)
    assert explained.reason == reason.text and explained.fallback and not explained.on_npu


def test_a_decision_for_the_cpu_under_auto_is_no_fallback():
    with npublas.config_context(on_fallback="error"):
        npublas.matmul(I8, I8)
        npublas.matmul(F32, F32)
        npublas.matmul(F32, F32, device="cpu")
    counters = npublas.counters()
    assert counters.fallbacks == 0 and counters.cpu.products == 3
    assert {row.text for row in counters.reasons} == {
        "predicted to be faster on the CPU",
        'device="cpu" was asked for',
    }


def test_counters_count_products_of_stacks_and_their_operations():
    a = np.ones((3, 5, 7), np.int8)
    npublas.matmul(a, a.transpose(0, 2, 1), device="npu")
    counters = npublas.counters()
    assert counters.npu.products == 3 and counters.npu.flops == 3 * 2 * 5 * 7 * 5
    assert counters.npu.seconds > 0 and counters.simulated
    assert counters.work["runs"] >= 3 and counters.work["run_seconds"] > 0
    npublas.reset_counters()
    assert npublas.counters().npu.products == 0 and not npublas.counters().reasons


def test_counters_have_a_table_for_terminals_and_notebooks_and_a_dict():
    npublas.matmul(I8, I8, device="npu")
    npublas.matmul(np.ones((4, 4)), np.ones((4, 4)), device="npu")
    counters = npublas.counters()
    text = repr(counters)
    assert text.startswith(
        "npublas: 1 of 2 products, 50.0% of the flops, ran on the NPU (simulated)"
    )
    assert "1 fallbacks" in text and "astype(float32)" in text and "int8" in text
    html = counters._repr_html_()
    assert html.startswith("<table>") and "float64=&quot;float32&quot;" in html
    assert json.loads(json.dumps(counters.to_dict()))["npu"]["products"] == 1


def test_explain_gives_the_plan_that_runs():
    a = np.ones((5, 300, 3000), np.int8)
    b = np.ones((3000, 500), np.int8)
    explained = npublas.explain(a, b, device="npu")
    assert explained.on_npu and explained.shape == (5, 300, 3000, 500)
    assert explained.dtypes == ("int8", "int8", "int8") and explained.simulated
    plan = explained.plan
    before = npublas.counters().work["runs"]
    npublas.matmul(a, b, device="npu")
    assert npublas.counters().work["runs"] - before == plan.runs
    assert plan.tile[0] % 4 == 0 and plan.tile[1] % 32 == 0 and plan.tile[2] % 32 == 0
    text = repr(explained)
    for part in ("5 × 300 × 3000 × 500", "the NPU (simulated)", "demands", f"runs: {plan.runs}"):
        assert part in text
    assert "simulated" in explained._repr_html_()
    assert json.loads(json.dumps(explained.to_dict()))["plan"]["runs"] == plan.runs


def test_explain_multiplies_nothing_and_takes_lists():
    explained = npublas.explain([[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4.0]])
    assert explained.dtypes == ("float64", "float64", "float64")
    assert npublas.counters().cpu.products == 0


@pytest.mark.parametrize("dtype", [None, np.int32])
@pytest.mark.parametrize("b", [I8, I8.view(np.uint8)])
def test_explain_knows_whether_there_is_a_loop_for_bytes(b, dtype):
    explained = npublas.explain(I8, b, dtype=dtype, device="npu")
    npublas.matmul(I8, b, dtype=dtype, device="npu")
    (row,) = npublas.counters().reasons
    assert (row.dtype, row.on_npu) == (explained.dtypes[0], explained.on_npu)
    packed = npublas.explain(I8, npublas.pack(b), dtype=dtype, device="npu")
    assert packed.dtypes[0] == "int8" and packed.on_npu, "which needs no loop of NumPy's"


@pytest.mark.skipif(not NUMPY_2, reason="needs NumPy 2's loops")
def test_explain_knows_the_loop_from_int8_to_int32():
    assert npublas.explain(I8, I8, dtype=np.int32).dtypes == ("int8", "int8", "int32")


@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (3, 4)), ((), (3,)), ((5, 3, 4), (2, 4, 3)), ((3,), (4,))]
)
def test_explain_refuses_what_matmul_refuses(a, b):
    with pytest.raises(ValueError):
        npublas.explain(np.ones(a), np.ones(b))
    with pytest.raises(ValueError):
        npublas.matmul(np.ones(a), np.ones(b))


@pytest.mark.parametrize("shape", [(0, 8, 5), (3, 8, 5)])
def test_explain_takes_a_stack_of_no_matrices(shape):
    w = np.ones(shape, np.float32)
    for weights in (w, npublas.pack(w), npublas.quantize(w)):
        explained = npublas.explain(np.ones((shape[0], 4, 8), np.float32), weights, device="npu")
        assert explained.shape == (shape[0], 4, 8, 5)
        if NUMPY_2 or not hasattr(weights, "scales"):
            assert explained.on_npu == (shape[0] > 0)


QUANTISED = {
    "per column": ((6, 3000), (3000, 40), {}),
    "a vector": ((3000,), (3000, 40), {}),
    "a stack of activations": ((2, 3, 3000), (3000, 40), {}),
    "stacks": ((2, 3, 300), (2, 300, 40), {}),
    "by groups": ((6, 300), (300, 40), {"group_size": 64}),
    "rotated": ((6, 300), (300, 40), {"rotate": True}),
    "int4": ((6, 300), (300, 40), {"bits": 4}),
}


@pytest.mark.parametrize("on_the_left", [False, True])
@pytest.mark.parametrize("name", QUANTISED)
def test_explain_takes_a_quantised_matrix_as_the_integers_that_are_multiplied(name, on_the_left):
    x_shape, w_shape, options = QUANTISED[name]
    x = np.random.default_rng(0).standard_normal(x_shape).astype(np.float32)
    operands = x, npublas.quantize(np.ones(w_shape, np.float32), **options)
    if on_the_left:
        operands = operands[1].mT, x if x.ndim == 1 else x.swapaxes(-1, -2)
    explained = npublas.explain(*operands, device="npu")
    npublas.reset_counters()
    npublas.matmul(*operands, device="npu")
    (row,) = npublas.counters().reasons
    batch, m, k, n = explained.shape
    assert row.on_npu == explained.on_npu
    assert row.dtype == explained.dtypes[0]
    if not NUMPY_2:
        assert "int32" in explained.reason and explained.reason == row.text
        return
    assert explained.dtypes == ("int8", "int8", "int32") and explained.plan.element == "int8"
    assert -(-row.products // batch) == explained.products
    assert row.flops <= explained.products * 2 * batch * m * k * n


def test_explain_takes_two_quantised_matrices():
    x, w = np.ones((6, 300), np.float32), np.ones((300, 40), np.float32)
    left, right = npublas.quantize(x, axis=-2), npublas.quantize(w)
    assert npublas.explain(left, right, device="npu").shape == (1, 6, 300, 40)
    assert npublas.explain(left, right, device="npu").products == (1 if NUMPY_2 else 0)
    assert not npublas.explain(left, right, device="cpu").on_npu
    with pytest.raises(ValueError, match="can't be the right operand"):
        npublas.explain(x, npublas.quantize(w, axis=-2))
    with pytest.raises(ValueError, match="mismatch"):
        npublas.explain(x[:, :7], right)


def test_explain_predicts_for_products_worth_it():
    a = np.ones((4096, 4096), np.int8)
    explained = npublas.explain(a, a)
    assert explained.on_npu
    assert 0 < explained.npu_seconds < explained.cpu_seconds
    assert "published figures" in repr(explained)


def test_memory_info_shows_the_window():
    assert npublas.memory_info().limit == 0
    assert "closed" in repr(npublas.memory_info())
    npublas.matmul(I8, I8, device="npu")
    info = npublas.memory_info()
    assert 0 < info.used <= info.peak <= info.limit and info.buffers == 3
    assert info.contexts == 3  # to run, to sync through, and where memory comes from
    assert "simulated" in repr(info) and info.to_dict()["used"] == info.used


def test_tables_align_wrap_and_escape():
    text = text_table(("n", "why"), [("10", "a b c d"), ("9", "")], wrap=3)
    assert text.splitlines() == [" n  why", "--  ---", "10  a b", "    c d", " 9"]
    assert "&lt;x&gt;" in html_table("<x>", ("h",), [("<x>",)])
    assert [si(v, "s") for v in (0, 1e-9, 0.5, 2.0, 1.5e12)] == [
        "0 s", "1 ns", "500 ms", "2 s", "1.5 Ts",
    ]  # fmt: skip
