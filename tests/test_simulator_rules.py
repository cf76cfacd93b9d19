"""What the simulator finds out, refuses, counts and breaks on request."""

from __future__ import annotations

import ctypes as ct
import doctest
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import vendor
from vendor import Matmul

from npublas.testing import simulator

INT8 = vendor.INT8_TO_INT32
ALIVE = ("contexts", "buffers", "bytes", "fds", "imports")


@pytest.fixture(scope="module")
def lib():
    return vendor.load(str(simulator.path()))


@pytest.fixture(autouse=True)
def _clean():
    simulator.reset()
    before = simulator.counters()
    yield
    after = simulator.counters()
    simulator.reset()
    assert {n: after[n] for n in ALIVE} == {n: before[n] for n in ALIVE}


def operands(m=4, k=32, n=32):
    rng = np.random.default_rng(7)
    return rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (k, n), np.int8)


def exact(a, b):
    return a.astype(np.int32) @ b.astype(np.int32)


# ## Strict mode: CPU and device see different copies


@pytest.mark.parametrize("ac", [vendor.NORMAL, vendor.NATIVE])
def test_strict_mode_needs_a_sync_of_a_and_of_native_b_and_of_c(lib, ac):
    a, b = operands()
    with simulator.settings(strict=1), Matmul(lib, 4, 32, 32, INT8, vendor.NATIVE, ac) as matmul:
        matmul.write_a(a)
        matmul.write_b(b)
        matmul.bind()
        for name in ("A", "B"):  # one of them alone is not enough
            assert matmul.run() == 0
            matmul.sync("C", vendor.FROM_DEVICE)
            assert (matmul.read_c() != exact(a, b)).any()
            matmul.sync(name, vendor.TO_DEVICE)
        assert simulator.counters()["stale_inputs"] == 2
        vendor.bytes_of(matmul.mems["C"])[:] = 0
        assert matmul.run() == 0
        assert simulator.counters()["stale_inputs"] == 2
        assert not matmul.read_c().any()  # still what the CPU wrote
        matmul.sync("C", vendor.FROM_DEVICE)
        np.testing.assert_array_equal(matmul.read_c(), exact(a, b))


def test_strict_mode_keeps_what_was_synced_while_the_cpu_writes_on(lib):
    a, b = operands()
    with simulator.settings(strict=1), Matmul(lib, 4, 32, 32, INT8, vendor.NATIVE) as matmul:
        first = matmul(a, b)
        matmul.write_a(a // 2)
        assert matmul.run() == 0
        matmul.sync("C", vendor.FROM_DEVICE)
        np.testing.assert_array_equal(matmul.read_c(), first)
        matmul.sync("A", vendor.BIDIRECTIONAL)
        assert matmul.run() == 0
        matmul.sync("C", vendor.BIDIRECTIONAL)  # which first gives the CPU's old C to the device
        np.testing.assert_array_equal(matmul.read_c(), first)


def test_a_sync_from_the_device_discards_what_the_cpu_wrote(lib):
    a, b = operands()
    with simulator.settings(strict=1), Matmul(lib, 4, 32, 32, INT8, vendor.NATIVE) as matmul:
        first = matmul(a, b)
        matmul.write_a(a // 2)
        matmul.sync("A", vendor.FROM_DEVICE)
        assert matmul.run() == 0
        matmul.sync("C", vendor.FROM_DEVICE)
        np.testing.assert_array_equal(matmul.read_c(), first)


def test_a_view_syncs_its_own_part(lib):
    with simulator.settings(strict=1), Matmul(lib, 4, 32, 32, INT8) as matmul:
        base = matmul.mems["B"]
        cpu = vendor.bytes_of(base)
        cpu[:] = 1
        view = lib.rknn_create_mem_from_fd(matmul.ctx, base.contents.fd, None, 100, 50)
        assert lib.rknn_mem_sync(matmul.ctx, view, vendor.TO_DEVICE) == 0
        matmul.sync("B", vendor.FROM_DEVICE)
        assert (cpu[50:150] == 1).all() and (cpu[:50] != 1).all() and (cpu[150:] != 1).all()
        lib.rknn_destroy_mem(matmul.ctx, view)


def test_a_normal_b_is_converted_by_the_cpu_and_needs_no_sync(lib):
    a, b = operands()
    with simulator.settings(strict=1), Matmul(lib, 4, 32, 32, INT8) as matmul:
        matmul.write_a(a)
        matmul.write_b(b)
        matmul.sync("A", vendor.TO_DEVICE)
        matmul.bind()
        assert matmul.run() == 0
        matmul.sync("C", vendor.FROM_DEVICE)
        np.testing.assert_array_equal(matmul.read_c(), exact(a, b))


def test_the_older_protocol_syncs_in_bind_and_run(lib):
    a, b = operands()
    with (
        simulator.settings(strict=1, bind_syncs=1, run_syncs=1),
        Matmul(lib, 4, 32, 32, INT8, vendor.NATIVE, vendor.NATIVE) as matmul,
    ):
        matmul.write_a(np.zeros_like(a))
        matmul.write_b(b)
        matmul.bind()
        matmul.write_a(a)  # run syncs A
        assert matmul.run() == 0
        np.testing.assert_array_equal(matmul.read_c(), exact(a, b))
        matmul.write_b(b // 2)  # but not B
        assert matmul.run() == 0
        np.testing.assert_array_equal(matmul.read_c(), exact(a, b))
        matmul.bind("B")
        assert matmul.run() == 0
        np.testing.assert_array_equal(matmul.read_c(), exact(a, b // 2))


def test_uncached_memory_needs_no_sync(lib):
    a, b = operands()
    with simulator.settings(strict=1), Matmul(lib, 4, 32, 32, INT8) as matmul:
        own = dict(matmul.mems)
        for name, mem in own.items():
            matmul.mems[name] = lib.rknn_create_mem2(matmul.ctx, mem.contents.size, 2)
        matmul.write_a(a)
        matmul.write_b(b)
        matmul.bind()
        assert matmul.run() == 0
        np.testing.assert_array_equal(matmul.read_c(), exact(a, b))
        for mem in matmul.mems.values():
            lib.rknn_destroy_mem(matmul.ctx, mem)
        matmul.mems = own


def test_without_strict_mode_there_is_one_copy(lib):
    a, b = operands()
    with Matmul(lib, 4, 32, 32, INT8, vendor.NATIVE, vendor.NATIVE) as matmul:
        matmul.bind()
        matmul.write_a(a)
        matmul.write_b(b)
        assert matmul.run() == 0
        np.testing.assert_array_equal(matmul.read_c(), exact(a, b))


@pytest.mark.parametrize("mode", [0, 4, 7, -1])
def test_unknown_sync_modes_fail(lib, mode):
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        assert lib.rknn_mem_sync(matmul.ctx, matmul.mems["A"], mode) == vendor.FAIL


# ## Native surfaces have a multiple of four rows


@pytest.mark.parametrize("m", [2, 3, 5, 6, 7])
def test_odd_heights_touch_memory_past_the_reported_size(lib, m):
    a, b = operands(m)
    with Matmul(lib, m, 32, 32, INT8, vendor.NATIVE, vendor.NATIVE) as matmul:
        assert matmul.io.A.shape()[1] == m  # and nothing says so
        guard = vendor.bytes_of(matmul.mems["C"]).copy()
        with pytest.raises(OSError, match="run"):
            matmul(a, b)
        np.testing.assert_array_equal(vendor.bytes_of(matmul.mems["C"]), guard)
    assert simulator.counters()["violations_out_of_bounds"] == 1
    assert "multiple of 4 rows" in simulator.last_violation()


@pytest.mark.parametrize("m", [2, 3, 5])
def test_odd_heights_are_wrong_with_larger_buffers_and_the_reported_positions(lib, m):
    a, b = operands(m)
    with Matmul(lib, m, 32, 32, INT8, vendor.NATIVE, vendor.NATIVE, padded_m=8) as matmul:
        assert (matmul(a, b) != exact(a, b)).any()


@pytest.mark.parametrize("m", [2, 3, 5])
def test_odd_heights_are_right_at_the_padded_positions(lib, m):
    a, b = operands(m)
    rows = -(-m // 4) * 4
    padded = np.zeros((rows, 32), np.int8)
    padded[:m] = a
    with Matmul(lib, m, 32, 32, INT8, vendor.NATIVE, vendor.NATIVE, padded_m=rows) as matmul:
        matmul(padded, b)
        np.testing.assert_array_equal(matmul.read_c(rows), exact(a, b))


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_the_other_reading_needs_no_padding(lib, m):
    a, b = operands(m)
    with (
        simulator.settings(native_row_step=1),
        Matmul(lib, m, 32, 32, INT8, vendor.NATIVE, vendor.NATIVE) as matmul,
    ):
        np.testing.assert_array_equal(matmul(a, b), exact(a, b))


def test_b_can_be_read_as_cut_into_segments(lib):
    a, b = operands(4, 96, 64)
    with (
        simulator.settings(native_b_segment=64),
        Matmul(lib, 4, 96, 64, INT8, vendor.NATIVE) as matmul,
    ):
        tiled = [
            part.reshape(len(part) // 32, 32, 2, 32).transpose(2, 0, 3, 1).ravel()
            for part in (b[:64], b[64:])
        ]
        matmul.write_a(a)
        vendor.bytes_of(matmul.mems["B"])[:] = np.concatenate(tiled).view(np.uint8)
        matmul.bind()
        assert matmul.run() == 0
        np.testing.assert_array_equal(matmul.read_c(), exact(a, b))
    with simulator.settings(native_b_segment=64), Matmul(lib, 4, 96, 64, INT8) as matmul:
        np.testing.assert_array_equal(matmul(a, b), exact(a, b))


# ## What a board would not survive is reported, and touches nothing


def test_buffers_that_are_too_small(lib, capfd):
    for name in "ABC":
        a, b = operands()
        with Matmul(lib, 4, 32, 32, INT8, vendor.NATIVE) as matmul:
            own = matmul.mems[name]
            matmul.write_a(a)
            matmul.write_b(b)
            size = own.contents.size - 1
            matmul.mems[name] = lib.rknn_create_mem(matmul.ctx, size)
            matmul.bind()  # checks nothing
            assert matmul.run() == vendor.FAIL
            assert f"bytes of {name}, its memory has {size}" in simulator.last_violation()
            lib.rknn_destroy_mem(matmul.ctx, matmul.mems[name])
            matmul.mems[name] = own
    assert simulator.counters()["violations_out_of_bounds"] == 3
    assert capfd.readouterr().err.count("npublas simulator: VIOLATION: ") == 3


def test_a_view_past_the_end_of_its_buffer(lib):
    with Matmul(lib, 4, 32, 32, INT8, vendor.NATIVE) as matmul:
        own = matmul.mems["A"]
        for offset in (1, -1):
            view = lib.rknn_create_mem_from_fd(matmul.ctx, own.contents.fd, None, 128, offset)
            matmul.mems["A"] = view
            matmul.bind()
            assert matmul.run() == vendor.FAIL
            lib.rknn_destroy_mem(matmul.ctx, view)
        matmul.mems["A"] = own
    assert simulator.counters()["violations_out_of_bounds"] == 2


def test_a_view_that_is_too_small_in_a_buffer_that_is_large_enough(lib):
    with Matmul(lib, 4, 32, 32, INT8, vendor.NATIVE) as matmul:
        base = lib.rknn_create_mem(matmul.ctx, 4096)
        view = lib.rknn_create_mem_from_fd(matmul.ctx, base.contents.fd, None, 511, 0)
        own, matmul.mems["C"] = matmul.mems["C"], view
        matmul.bind()
        assert matmul.run() == vendor.FAIL  # it would write into the neighbour's bytes
        assert "512 bytes of C, its memory has 511" in simulator.last_violation()
        lib.rknn_destroy_mem(matmul.ctx, view)
        lib.rknn_destroy_mem(matmul.ctx, base)
        matmul.mems["C"] = own


def test_a_normal_b_that_is_too_small_is_found_when_it_is_bound(lib):
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        with pytest.raises(OSError, match="set_io_mem B"):
            matmul.mems["B"], own = matmul.mems["A"], matmul.mems["B"]
            matmul.bind("B")
        matmul.mems["B"] = own
    assert simulator.counters()["violations_out_of_bounds"] == 1


@pytest.mark.parametrize("b_layout", [vendor.NORMAL, vendor.NATIVE])
@pytest.mark.parametrize("missing", "ABC")
def test_running_with_something_unbound(lib, missing, b_layout):
    with Matmul(lib, 4, 32, 32, INT8, b_layout) as matmul:
        matmul.bind(*{"A", "B", "C"} - {missing})
        assert matmul.run() == vendor.FAIL
    assert simulator.counters()["violations_unbound"] == 1
    assert f"{missing} is not bound" in simulator.last_violation()


def test_running_with_a_memory_that_was_freed(lib):
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        extra = lib.rknn_create_mem(matmul.ctx, 128)
        own, matmul.mems["A"] = matmul.mems["A"], extra
        matmul.bind()
        lib.rknn_destroy_mem(matmul.ctx, extra)
        matmul.mems["A"] = own
        assert matmul.run() == vendor.FAIL
        assert "A was freed" in simulator.last_violation()
        assert lib.rknn_destroy_mem(matmul.ctx, extra) == vendor.FAIL  # twice
        assert lib.rknn_mem_sync(matmul.ctx, extra, vendor.TO_DEVICE) == vendor.FAIL
        status = lib.rknn_matmul_set_io_mem(matmul.ctx, extra, ct.byref(matmul.io.A))
        assert status == vendor.FAIL
    assert simulator.counters()["violations_stale_handle"] == 4


def test_a_view_does_not_outlive_its_buffer(lib):
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        base = lib.rknn_create_mem(matmul.ctx, 128)
        view = lib.rknn_create_mem_from_fd(matmul.ctx, base.contents.fd, None, 128, 0)
        own, matmul.mems["A"] = matmul.mems["A"], view
        matmul.bind()
        lib.rknn_destroy_mem(matmul.ctx, base)
        assert matmul.run() == vendor.FAIL
        with pytest.raises(OSError, match="set_io_mem A"):
            matmul.bind("A")
        lib.rknn_destroy_mem(matmul.ctx, view)
        matmul.mems["A"] = own
    assert simulator.counters()["violations_stale_handle"] == 2


def test_contexts_that_are_gone(lib):
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        pass
    gone = matmul.ctx
    assert lib.rknn_matmul_run(gone) == vendor.CTX_INVALID
    assert lib.rknn_matmul_destroy(gone) == vendor.CTX_INVALID
    assert lib.rknn_destroy(12345) == vendor.CTX_INVALID
    assert lib.rknn_query(gone, 5, None, 0) == vendor.CTX_INVALID
    assert not lib.rknn_create_mem(gone, 64)
    assert not lib.rknn_create_mem(0, 64)
    assert simulator.counters()["violations_stale_handle"] == 5
    assert simulator.counters()["violations"] == 6


def test_a_tensor_of_another_name_is_not_bound(lib):
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        matmul.io.A.name = b"D"
        matmul.bind("A")  # success, as the vendor's runtime says
        assert simulator.counters()["violations_misuse"] == 1


def test_matrices_of_another_iommu_domain(lib):
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        info = vendor.Info(4, 32, 32, INT8, iommu_domain_id=1)
        ctx, io = vendor.CTX(), vendor.IoAttr()
        assert lib.rknn_matmul_create(ct.byref(ctx), ct.byref(info), ct.byref(io)) == 0
        own, matmul.mems["A"] = matmul.mems["A"], lib.rknn_create_mem(ctx, 128)
        matmul.bind()
        assert matmul.run() == vendor.FAIL
        assert "iommu domain 1" in simulator.last_violation()
        lib.rknn_destroy_mem(ctx, matmul.mems["A"])
        lib.rknn_matmul_destroy(ctx)
        matmul.mems["A"] = own
        info.iommu_domain_id = 16
        status = lib.rknn_matmul_create(ct.byref(ctx), ct.byref(info), ct.byref(io))
        assert status == vendor.PARAM_INVALID


def test_two_threads_in_one_context(lib):
    a, b = operands()
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        matmul(a, b)
        with simulator.fault("hang"):
            inside = threading.Thread(target=matmul.run)
            inside.start()
            while simulator.fired("hang") == 0:
                pass
            assert matmul.run() == vendor.FAIL
            assert simulator.counters()["violations_concurrent"] == 1
            simulator.release()
            inside.join()
        np.testing.assert_array_equal(matmul(a, b), exact(a, b))


# ## Accounting and limits


def test_what_lives_is_counted(lib):
    before = simulator.counters()
    with Matmul(lib, 4, 32, 32, INT8):
        after = simulator.counters()
        # Three memories, and the context's own two.
        assert [after[n] - before[n] for n in ALIVE] == [1, 5, 5 * 4096, 5, 0]
        assert after["allocations"] == 5
    for name in ("contexts", "buffers", "bytes", "fds"):
        assert simulator.counters()[f"{name}_peak"] == after[name]


def test_binding_a_normal_b_takes_a_second_buffer(lib):
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        before = simulator.counters()
        for _ in range(3):
            matmul.bind("B")
        after = simulator.counters()
        assert after["buffers"] == before["buffers"] + 1
        assert after["allocations"] == before["allocations"] + 3


def test_descriptors_are_real_and_are_closed(lib):
    def opened():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = opened()
    with Matmul(lib, 4, 32, 32, INT8):
        assert opened() == before + 5
    assert opened() == before


def test_calls_and_work_are_counted(lib):
    a, b = operands(4, 64, 32)
    with Matmul(lib, 4, 64, 32, INT8) as matmul:
        matmul(a, b)
        matmul.run()
    counters = simulator.counters()
    assert counters["rknn_matmul_create"] == counters["rknn_matmul_destroy"] == 1
    assert counters["rknn_matmul_run"] == counters["runs"] == counters["runs_core_auto"] == 2
    assert counters["rknn_mem_sync"] == counters["rknn_create_mem"] == 3
    assert counters["operations"] == 2 * 2 * 4 * 64 * 32
    assert counters["runs_at_once_peak"] == 1
    simulator.reset_counters()
    counters = simulator.counters()
    assert not any(n for name, n in counters.items() if name not in ALIVE and "peak" not in name)


def test_the_window_is_a_limit(lib):
    used = simulator.counters()["bytes"]
    with simulator.settings(window_bytes=used + 8 * 4096), Matmul(lib, 4, 32, 32, INT8) as matmul:
        assert lib.rknn_create_mem(matmul.ctx, 3 * 4096 + 1).__bool__() is False
        mem = lib.rknn_create_mem(matmul.ctx, 3 * 4096)
        assert mem
        assert not lib.rknn_create_mem(matmul.ctx, 1)
        lib.rknn_destroy_mem(matmul.ctx, mem)


def test_the_number_of_contexts_is_a_limit(lib):
    alive = simulator.counters()["contexts"]
    with simulator.settings(context_limit=alive + 2):
        with (
            Matmul(lib, 4, 32, 32, INT8),
            Matmul(lib, 4, 32, 32, INT8),
            pytest.raises(OSError, match="create") as refused,
        ):
            Matmul(lib, 4, 32, 32, INT8)
        assert refused.value.errno == vendor.FAIL
        with Matmul(lib, 4, 32, 32, INT8):
            pass


def test_the_number_of_descriptors_is_a_limit(lib):
    fds = simulator.counters()["fds"]
    with simulator.settings(fd_limit=fds + 6), Matmul(lib, 4, 32, 32, INT8) as matmul:
        mem = lib.rknn_create_mem(matmul.ctx, 64)
        assert mem and not lib.rknn_create_mem(matmul.ctx, 64)
        with pytest.raises(OSError, match="set_io_mem B") as refused:
            matmul.bind("B")
        assert refused.value.errno == vendor.MALLOC_FAIL
        lib.rknn_destroy_mem(matmul.ctx, mem)
        matmul.bind("B")


def test_the_depth_is_a_limit(lib):
    with simulator.settings(depth_limit=64):
        with pytest.raises(OSError, match="create"):
            Matmul(lib, 4, 96, 32, INT8)
        with Matmul(lib, 4, 64, 32, INT8):
            pass


def test_what_older_drivers_do_not_survive_beside_a_run_is_counted(lib):
    with Matmul(lib, 4, 32, 32, INT8) as busy, Matmul(lib, 1020, 1024, 1024, INT8) as matmul:
        matmul.bind()
        done = threading.Event()

        def keep_running():
            while not done.is_set():
                matmul.run()

        runner = threading.Thread(target=keep_running)
        runner.start()
        while simulator.counters()["managed_during_run"] == 0:
            lib.rknn_destroy_mem(busy.ctx, lib.rknn_create_mem(busy.ctx, 64))
        done.set()
        runner.join()


# ## Faults


def test_faults_fire_at_the_nth_chance_and_count_times(lib):
    a, b = operands()
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        matmul(a, b)
        with simulator.fault("submit_failure", nth=2, count=2):
            assert [matmul.run() for _ in range(4)] == [0, -1, -1, 0]
            assert simulator.fired("submit_failure") == 2
        with simulator.fault("submit_failure", count=0):
            assert {matmul.run() for _ in range(5)} == {-1}
        assert matmul.run() == 0


@pytest.mark.parametrize(("kind", "status"), [("timeout", -1), ("timeout_status", -2)])
def test_a_timeout(lib, kind, status):
    with Matmul(lib, 4, 32, 32, INT8) as matmul, simulator.fault(kind):
        matmul.bind()
        assert [matmul.run(), matmul.run()] == [status, 0]


def test_zeros_with_success(lib):
    a, b = operands()
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        with simulator.fault("zeros"):
            assert not matmul(a, b).any()
        np.testing.assert_array_equal(matmul(a, b), exact(a, b))


def test_a_refused_mask(lib):
    with Matmul(lib, 4, 32, 32, INT8) as matmul, simulator.fault("refused_mask"):
        assert lib.rknn_matmul_set_core_mask(matmul.ctx, 1) == vendor.FAIL
        assert lib.rknn_matmul_set_core_mask(matmul.ctx, 1) == 0


def test_a_failing_bind_and_sync_and_create(lib):
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        with simulator.fault("bind_failure", nth=2), pytest.raises(OSError, match="B") as failed:
            matmul.bind()
        assert failed.value.errno == vendor.MALLOC_FAIL
        with simulator.fault("sync_failure"), pytest.raises(OSError, match="sync"):
            matmul.sync("A", vendor.TO_DEVICE)
        with simulator.fault("create_failure"), pytest.raises(OSError, match="create") as failed:
            Matmul(lib, 4, 32, 32, INT8)
        assert failed.value.errno == vendor.FAIL


def test_no_memory_for_a_buffer(lib):
    with Matmul(lib, 4, 32, 32, INT8) as matmul, simulator.fault("enomem", nth=2):
        mem = lib.rknn_create_mem(matmul.ctx, 64)
        assert mem and not lib.rknn_create_mem(matmul.ctx, 64)
        lib.rknn_destroy_mem(matmul.ctx, mem)


@pytest.mark.parametrize("nth", [1, 2])
def test_no_memory_for_a_context_is_hidden_by_create_and_fails_the_run(lib, nth):
    with simulator.fault("enomem", nth=nth), Matmul(lib, 4, 32, 32, INT8) as matmul:
        matmul.bind()
        assert matmul.run() == vendor.FAIL


@pytest.mark.parametrize("nth", [1, 2])
def test_no_memory_for_a_context_can_be_an_error(lib, nth):
    with (
        simulator.settings(create_reports_enomem=1),
        simulator.fault("enomem", nth=nth),
        pytest.raises(OSError, match="create") as failed,
    ):
        Matmul(lib, 4, 32, 32, INT8)
    assert failed.value.errno == vendor.MALLOC_FAIL


def test_no_memory_for_the_copy_of_a_normal_b(lib):
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        with simulator.fault("enomem"), pytest.raises(OSError, match="set_io_mem B"):
            matmul.bind()
        assert matmul.run() == vendor.FAIL  # it has no B now
    assert simulator.counters()["violations_unbound"] == 1


def test_a_lost_device_fails_every_call_and_frees_all_the_same(lib):
    a, b = operands()
    with (
        simulator.fault("lost_device", nth=10_000, count=0),
        Matmul(lib, 4, 32, 32, INT8) as matmul,
    ):
        matmul(a, b)
        simulator.arm("lost_device", count=0)
        assert matmul.run() == vendor.FAIL
        assert lib.rknn_matmul_set_core_mask(matmul.ctx, 1) == vendor.FAIL
        assert lib.rknn_mem_sync(matmul.ctx, matmul.mems["A"], 1) == vendor.FAIL
        assert not lib.rknn_create_mem(matmul.ctx, 64)
        version = vendor.SdkVersion()
        assert lib.rknn_query(matmul.ctx, 5, ct.byref(version), 512) == vendor.FAIL
        with pytest.raises(OSError, match="set_io_mem"):
            matmul.bind()
        with pytest.raises(OSError, match="create"):
            Matmul(lib, 4, 32, 32, INT8)
        for name in "ABC":
            mem = matmul.mems.pop(name)
            assert lib.rknn_destroy_mem(matmul.ctx, mem) == vendor.FAIL
        assert lib.rknn_matmul_destroy(matmul.ctx) == vendor.FAIL
        # Matmul.__exit__ destroys once more, which is one stale handle.
    assert simulator.counters()["violations_stale_handle"] == 1


def test_a_hung_run_comes_back_when_it_is_released(lib):
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        matmul.bind()
        results: list[int] = []
        with simulator.fault("hang"):
            hung = threading.Thread(target=lambda: results.append(matmul.run()))
            hung.start()
            hung.join(0.05)
            assert hung.is_alive() and not results
        hung.join()
        assert results == [0]
        assert matmul.run() == 0


# ## The Python side, and the environment


def test_settings_come_back_also_after_an_error():
    with pytest.raises(RuntimeError), simulator.settings(strict=1, isa="baseline"):
        assert (simulator.setting("strict"), simulator.setting("isa")) == (1, 1)
        raise RuntimeError
    assert (simulator.setting("strict"), simulator.setting("isa")) == (0, 0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("strikt", 1, "no setting 'strikt'; it has strict, bind_syncs"),
        ("strict", 2, "'strict' does not take 2"),
        ("strict", "yes", "'strict' does not take 'yes'"),
        ("native_row_step", 2, "does not take 2"),
        ("native_b_segment", 33, "does not take 33"),
        ("isa", "sse9", "does not take 'sse9'"),
        ("fd_limit", "12 ", "does not take '12 '"),
        ("fd_limit", "", "does not take ''"),
    ],
)
def test_wrong_settings_are_errors(name, value, message):
    with pytest.raises(ValueError, match=message):
        simulator.set(name, value)


def test_wrong_faults_are_errors():
    for wrong in (lambda: simulator.arm("enomen"), lambda: simulator.fired("x")):
        with pytest.raises(ValueError, match=r"no fault .*; it has enomem, "):
            wrong()
    with pytest.raises(ValueError, match="no fault"):
        simulator.disarm("enomen")
    for nth, count in [(0, 1), (1, -1)]:
        with pytest.raises(ValueError, match=r"nth=.* count="):
            simulator.arm("enomem", nth, count)


def test_reset_restores_everything(lib):
    simulator.set("strict", 1)
    simulator.arm("zeros", count=0)
    lib.rknn_matmul_run(99)
    assert simulator.last_violation()
    simulator.reset()
    assert simulator.setting("strict") == 0
    assert simulator.counters()["rknn_matmul_run"] == 0
    assert simulator.last_violation() == ""
    a, b = operands()
    with Matmul(lib, 4, 32, 32, INT8) as matmul:
        np.testing.assert_array_equal(matmul(a, b), exact(a, b))


def in_a_new_process(code: str, **environment: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", f"from npublas.testing import simulator as s; {code}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr


def test_the_environment_gives_the_starting_values():
    code = "s.set('strict', 0); s.reset(); print(s.setting('strict'), s.setting('isa'))"
    out, err = in_a_new_process(
        code, NPUBLAS_SIMULATOR_STRICT="1", NPUBLAS_SIMULATOR_ISA="baseline"
    )
    assert (out, err) == ("1 1", "")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [("STRICT", "yes", "no such value"), ("STRICT", "2", "no such value"), ("X", "1", "no such s")],
)
def test_a_wrong_environment_is_said_and_ignored(name, value, complaint):
    variable = f"NPUBLAS_SIMULATOR_{name}"
    out, err = in_a_new_process("print(s.setting('strict'))", **{variable: value})
    assert out == "0"
    assert variable in err and complaint in err


def test_create_can_set_the_threads_nice_value_as_the_driver_does(lib):
    higher = min(os.getpriority(os.PRIO_PROCESS, 0) + 1, 19)  # which every user may ask for

    def nice_after_create():
        with simulator.settings(create_nice=higher), Matmul(lib, 4, 32, 32, INT8):
            values.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    values: list[int] = []
    thread = threading.Thread(target=nice_after_create)  # its priority goes with it
    thread.start()
    thread.join()
    assert values == [higher]


def test_refusals_can_be_silent_and_violations_never_are(lib, capfd):
    with simulator.settings(log=0):
        with pytest.raises(OSError, match="create"):
            Matmul(lib, 4, 33, 32, INT8)
        assert capfd.readouterr().err == ""
        lib.rknn_matmul_run(99)
    with pytest.raises(OSError, match="create"):
        Matmul(lib, 4, 33, 32, INT8)
    lines = capfd.readouterr().err.splitlines()
    assert "VIOLATION" in lines[0] and "K must be aligned with 32" in lines[1]


def test_a_forked_child_goes_on_while_other_threads_were_inside():
    code = (
        "import os, threading, vendor\n"
        "lib = vendor.load(str(s.path())); done = False\n"
        "def work():\n"
        "    with vendor.Matmul(lib, 4, 32, 32, 2) as m:\n"
        "        while not done: lib.rknn_destroy_mem(m.ctx, lib.rknn_create_mem(m.ctx, 64))\n"
        "threads = [threading.Thread(target=work) for _ in range(3)]\n"
        "[t.start() for t in threads]\n"
        "for _ in range(100):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        with vendor.Matmul(lib, 4, 32, 32, 2) as m: m.bind(); os._exit(m.run())\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "done = True; [t.join() for t in threads]; print('went on')"
    )
    code = f"exec({code!r})"
    folder = os.path.dirname(vendor.__file__)  # noqa: PTH120
    out, _ = in_a_new_process(code, PYTHONPATH=f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    assert out == "went on"


def test_every_example_of_the_module_runs():
    results = doctest.testmod(simulator)
    assert results.attempted > 10 and results.failed == 0


@pytest.mark.parametrize("kind", ["setting", "fault", "counter"])
def test_the_documentation_lists_every_name(kind):
    page = (Path(__file__).parent.parent / "docs" / "simulator.md").read_text()
    (table,) = re.findall(rf"^\| {kind} \|.*\n\|---.*\n((?:\|.*\n)+)", page, re.M)
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()]
    documented = {name for row in rows for name in row}
    assert documented == {n for n in simulator.names(kind) if not n.startswith("rknn_")}


def test_the_documentation_gives_the_defaults():
    page = (Path(__file__).parent.parent / "docs" / "simulator.md").read_text()
    (table,) = re.findall(r"^\| setting \|.*\n\|---.*\n((?:\|.*\n)+)", page, re.M)
    for row in table.splitlines():
        name, default = (cell.strip(" `") for cell in row.split("|")[1:3])
        before = simulator.setting(name)
        simulator.set(name, default)
        assert simulator.setting(name) == before
