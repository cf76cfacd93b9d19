"""Products in the background: results, errors, settings, bounds, cancellation, forks, the end."""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import os
import threading
import weakref

import numpy as np
import pytest
from processes import run_python

import npublas
from npublas import _async

A = np.arange(-60, 60, dtype=np.float32).reshape(10, 12)
PATIENCE = 60  # seconds, for what takes milliseconds


class Gate:
    """An operand whose products begin, and then wait until it is opened."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.opened = threading.Event()

    def __array_ufunc__(self, ufunc, method, *inputs, **keywords):
        self.begun.release()
        assert self.opened.wait(PATIENCE)
        return "through"

    def wait_for(self, products: int) -> None:
        for _ in range(products):
            assert self.begun.acquire(timeout=PATIENCE)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.opened.set()


def fill(gate: Gate) -> list[concurrent.futures.Future]:
    """Keep all threads busy."""
    futures = [npublas.matmul_async(gate, A) for _ in range(_async._THREADS)]
    gate.wait_for(len(futures))
    return futures


def test_a_product_in_the_background_is_that_of_matmul(device):
    b = A.T.copy()
    futures = [npublas.matmul_async(A * i, b, device="npu") for i in range(40)]
    for i, future in enumerate(futures):
        expected = npublas.matmul(A * i, b, device="npu")
        np.testing.assert_array_equal(future.result(PATIENCE), expected)


def test_it_takes_the_keywords_of_matmul():
    out = np.empty((10, 10), np.float64)
    future = npublas.matmul_async(A, A.T, out=out, dtype=np.float64, device="cpu")
    assert future.result(PATIENCE) is out
    np.testing.assert_array_equal(out, A.astype(np.float64) @ A.T)


@pytest.mark.parametrize("make", [npublas.pack, npublas.quantize])
def test_packed_and_quantised_matrices_are_operands(device, make):
    weights = make(A.T)
    result = npublas.matmul_async(A, weights).result(PATIENCE)
    np.testing.assert_array_equal(result, npublas.matmul(A, weights))


@pytest.mark.parametrize(
    ("b", "keywords", "error"),
    [
        (A, {}, ValueError),
        (A.T, {"devise": "npu"}, TypeError),
        (A.T, {"device": "gpu"}, npublas.ConfigurationError),
    ],
)
def test_errors_come_through_the_future(b, keywords, error):
    future = npublas.matmul_async(A, b, **keywords)
    assert isinstance(future.exception(PATIENCE), error)


def test_the_settings_and_context_variables_of_the_caller_hold():
    variable = contextvars.ContextVar("variable", default="the thread's own")

    class Asks:
        def __array_ufunc__(self, ufunc, method, *inputs, **keywords):
            config = npublas.get_config()
            return config.precision, config.threads, variable.get()

    with npublas.config_context(precision="float16", threads=2):
        variable.set("the caller's")
        future = npublas.matmul_async(Asks(), A)
    assert future.result(PATIENCE) == ("float16", 2, "the caller's")
    with np.errstate(over="raise"):
        future = npublas.matmul_async(np.full((2, 2), 60000, np.float16), np.eye(2, dtype="f2") * 2)
    assert isinstance(future.exception(PATIENCE), FloatingPointError)


def test_operands_live_until_the_product_is_done_and_no_longer(gate):
    fill(gate)
    array = A.copy()
    ref = weakref.ref(array)
    future = npublas.matmul_async(array, A.T)
    del array
    gc.collect()
    assert ref() is not None
    gate.opened.set()
    np.testing.assert_array_equal(future.result(PATIENCE), A @ A.T)
    # The thread lets go of it when it has taken the next one.
    for other in [npublas.matmul_async(A, A.T) for _ in range(8)]:
        other.result(PATIENCE)
    gc.collect()
    assert ref() is None


def test_what_has_not_begun_can_be_cancelled(gate):
    busy = fill(gate)
    waiting = npublas.matmul_async(A, A.T)
    assert waiting.cancel() and waiting.cancelled()
    assert not busy[0].cancel()
    gate.opened.set()
    assert [future.result(PATIENCE) for future in busy] == ["through"] * len(busy)


def test_with_too_many_unfinished_the_next_call_waits(gate):
    fill(gate)
    waiting = [npublas.matmul_async(A, A.T) for _ in range(_async._UNFINISHED - _async._THREADS)]
    handed_in = threading.Event()

    def one_more():
        future = npublas.matmul_async(A, A.T)
        handed_in.set()
        return future.result(PATIENCE)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        result = pool.submit(one_more)
        assert not handed_in.wait(0.05)
        assert waiting[0].cancel()  # makes room
        assert handed_in.wait(PATIENCE)
        gate.opened.set()
        np.testing.assert_array_equal(result.result(PATIENCE), A @ A.T)


def test_a_failed_product_makes_room_too():
    for _ in range(3 * _async._UNFINISHED):
        assert npublas.matmul_async(A, A).exception(PATIENCE)
    npublas.matmul_async(A, A.T).result(PATIENCE)


def test_a_callback_may_hand_in_more_than_there_is_room_for(gate):
    more = []

    def hand_in(_):
        more.extend(npublas.matmul_async(A, A.T) for _ in range(2 * _async._UNFINISHED))
        done.set()

    done = threading.Event()
    first = fill(gate)[0]
    first.add_done_callback(hand_in)
    gate.opened.set()
    assert done.wait(PATIENCE)
    for future in more:
        np.testing.assert_array_equal(future.result(PATIENCE), A @ A.T)


def test_threads_start_with_the_first_product_only():
    out = run_python(
        """
        import sys, threading, npublas
        assert "concurrent.futures.thread" not in sys.modules
        assert threading.active_count() == 1
        import numpy as np
        a = np.ones((2, 2))
        futures = [npublas.matmul_async(a, a) for _ in range(100)]
        for future in futures:
            future.result()
        print(sum(t.name.startswith("npublas") for t in threading.enumerate()) <= 3)
        """
    )
    assert out == "True"


def test_a_forked_child_has_a_pool_of_its_own(gate):
    fill(gate)
    child = os.fork()
    if child == 0:
        good = False
        try:
            for _ in range(2 * _async._UNFINISHED):  # nothing of the parent's takes room
                result = npublas.matmul_async(A, A.T).result(PATIENCE)
            good = bool((result == A @ A.T).all())
        finally:
            os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_end_of_the_process_waits_for_products_that_were_handed_in():
    out = run_python(
        """
        import atexit, numpy as np, npublas
        npublas.set_config(runtime="simulator")
        a = np.ones((256, 256), np.int8)
        futures = [npublas.matmul_async(a, a, device="npu") for _ in range(20)]
        atexit.register(lambda: print(sum(future.done() for future in futures)))
        """
    )
    assert out == "20"


# --- Pipelines ------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_pairs(device):
    b = A.T.copy()
    pairs = ((A * i, b) for i in range(50))
    results = list(npublas.pipeline(pairs, device="npu"))
    assert len(results) == 50
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result, npublas.matmul(A * i, b, device="npu"))


@pytest.mark.parametrize("depth", [1, 2, 5, 2 * _async._UNFINISHED])
def test_pairs_are_read_no_further_ahead_than_the_depth(depth):
    last = -1

    def endless():
        nonlocal last
        while True:
            last += 1
            yield A, A.T

    results = npublas.pipeline(endless(), depth=depth)
    assert last == -1  # nothing is read before the first result is asked for
    for asked in range(5):
        np.testing.assert_array_equal(next(results), A @ A.T)
        assert last == asked + depth - 1
    results.close()


def test_no_pairs_give_no_results():
    assert list(npublas.pipeline([])) == []


def test_the_error_of_a_product_is_raised_in_its_place_and_ends_it():
    results = npublas.pipeline([(A, A.T), (A, A), (A, A.T)])
    next(results)
    with pytest.raises(ValueError, match="mismatch"):
        next(results)
    assert list(results) == []


def test_the_error_of_the_pairs_is_raised_after_the_results_before_it():
    def pairs():
        yield A, A.T
        yield A, A.T
        raise LookupError("no more batches")

    results = npublas.pipeline(pairs(), depth=8)
    next(results)
    next(results)
    with pytest.raises(LookupError, match="no more batches"):
        next(results)


def test_closing_it_cancels_what_has_not_begun(gate):
    multiplied = []

    class Counts:
        def __array_ufunc__(self, ufunc, method, *inputs, **keywords):
            multiplied.append(1)
            return "counted"

    first = npublas.matmul(A, A.T)

    def pairs():
        yield A, A.T
        for _ in range(_async._THREADS):
            yield gate, A
        while True:
            yield Counts(), A

    results = npublas.pipeline(pairs(), depth=10)
    np.testing.assert_array_equal(next(results), first)
    gate.wait_for(_async._THREADS)
    results.close()
    gate.opened.set()
    npublas.matmul_async(A, A.T).result(PATIENCE)  # begins after all that was there
    assert multiplied == []


def test_the_settings_of_the_call_hold_however_late_results_are_asked_for():
    class Asks:
        def __array_ufunc__(self, ufunc, method, *inputs, **keywords):
            return npublas.get_config().precision

    with npublas.config_context(precision="float16"):
        results = npublas.pipeline((Asks(), A) for _ in range(9))
    assert list(results) == ["float16"] * 9


@pytest.mark.parametrize(
    ("item", "found"),
    [(A, "array"), ((A, A, A), "tuple of 3"), ([A], "list of 1"), (5, "int"), (A[:2], "array")],
)
def test_what_is_no_pair_is_said_after_the_results_of_those_before_it(item, found):
    results = npublas.pipeline([(A, A.T), item, (A, A.T)])
    np.testing.assert_array_equal(next(results), A @ A.T)
    with pytest.raises(TypeError, match=rf"takes pairs \(a, b\) of operands.* {found}$"):
        next(results)


def test_packed_weights_go_through_a_pipeline(device):
    weights = npublas.pack(A.T)
    for i, y in enumerate(npublas.pipeline((A * i, weights) for i in range(9))):
        np.testing.assert_array_equal(y, npublas.matmul(A * i, weights))


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"depth": 0}, ValueError),
        ({"depth": 1.5}, TypeError),
        ({"depth": True}, TypeError),
        ({"out": np.empty((10, 10))}, TypeError),
    ],
)
def test_what_a_pipeline_cannot_be_is_refused_at_the_call(keywords, error):
    with pytest.raises(error):
        npublas.pipeline([(A, A.T)], **keywords)
    with pytest.raises(TypeError):
        npublas.pipeline(3)
