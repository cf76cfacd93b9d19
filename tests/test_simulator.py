"""The simulator as a program sees it that was written for the vendor's library: ctypes here, and a
C program. Every type and layout, against NumPy.
"""

from __future__ import annotations

import ctypes as ct
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import vendor
from vendor import Matmul

from npublas.testing import simulator

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def lib():
    return vendor.load(str(simulator.path()))


@pytest.fixture(autouse=True)
def _clean():
    """Every test starts with the settings and counters of a new process, and breaks no rule."""
    simulator.reset()
    before = simulator.counters()
    yield
    after = simulator.counters()
    simulator.reset()
    for name in ("contexts", "buffers", "bytes", "fds", "imports"):
        assert after[name] == before[name], f"{name} were not given back"
    assert after["violations"] == 0, simulator.last_violation()


def operands(kind, m, k, n, seed=0):
    rng = np.random.default_rng(seed)
    if kind in (vendor.FLOAT16_TO_FLOAT32, vendor.FLOAT16_TO_FLOAT16):
        return (
            rng.integers(-32, 33, (m, k)).astype(np.float16) / 16,
            rng.integers(-32, 33, (k, n)).astype(np.float16) / 16,
        )
    low, high = (-8, 8) if kind == vendor.INT4_TO_INT16 else (-128, 128)
    return rng.integers(low, high, (m, k), np.int8), rng.integers(low, high, (k, n), np.int8)


def expected(kind, a, b):
    """Exact: the operands are integers, or halves whose sums fit into a float32."""
    exact = a.astype(np.float64) @ b.astype(np.float64)
    result = vendor.DTYPES[kind][1]
    if np.issubdtype(result, np.integer) and result != np.int32:
        info = np.iinfo(result)
        exact = np.clip(exact, info.min, info.max)
    return exact.astype(result)


KINDS = [*vendor.DTYPES]
LAYOUTS = [
    (b, ac)
    for b in (vendor.NORMAL, vendor.NATIVE, vendor.TRANSPOSED)
    for ac in (vendor.NORMAL, vendor.NATIVE)
]


@pytest.mark.parametrize("strict", [0, 1])
@pytest.mark.parametrize(("b_layout", "ac_layout"), LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_in_every_layout(lib, kind, b_layout, ac_layout, strict):
    step = 64 if kind == vendor.INT4_TO_INT16 else 32
    with simulator.settings(strict=strict):
        for m, k, n in [(1, 32, step), (4, 96, 2 * step), (8, 160, 5 * step)]:
            a, b = operands(kind, m, k, n)
            with Matmul(lib, m, k, n, kind, b_layout, ac_layout) as matmul:
                np.testing.assert_array_equal(matmul(a, b), expected(kind, a, b))


@pytest.mark.parametrize("isa", ["baseline", "best"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [3, 5, 1023, 1025])
def test_any_height_in_the_normal_layout(lib, kind, m, isa):
    a, b = operands(kind, m, 64, 192)
    with simulator.settings(isa=isa), Matmul(lib, m, 64, 192, kind) as matmul:
        np.testing.assert_array_equal(matmul(a, b), expected(kind, a, b))


@pytest.mark.parametrize("isa", ["baseline", "best"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k", "n"), [(96, 448), (128, 512), (160, 576), (1056, 1088)])
def test_around_the_edges_of_its_own_blocks(lib, kind, k, n, isa):
    a, b = operands(kind, 6, k, n)
    with simulator.settings(isa=isa), Matmul(lib, 6, k, n, kind, vendor.NATIVE) as matmul:
        np.testing.assert_array_equal(matmul(a, b), expected(kind, a, b))


def test_float16_columns_step_by_sixteen(lib):
    a, b = operands(vendor.FLOAT16_TO_FLOAT32, 4, 32, 48)
    with Matmul(lib, 4, 32, 48, vendor.FLOAT16_TO_FLOAT32, vendor.NATIVE, vendor.NATIVE) as matmul:
        np.testing.assert_array_equal(matmul(a, b), expected(vendor.FLOAT16_TO_FLOAT32, a, b))


def test_the_deepest_product_of_the_most_negative_numbers(lib):
    a, b = np.full((4, 10240), -128, np.int8), np.full((10240, 32), -128, np.int8)
    with Matmul(lib, 4, 10240, 32, vendor.INT8_TO_INT32, vendor.NATIVE, vendor.NATIVE) as matmul:
        assert (matmul(a, b) == 10240 * 128 * 128).all()


def test_int32_sums_wrap_beyond_every_real_depth(lib):
    k = 131_072 + 32
    a, b = np.full((1, k), -128, np.int8), np.full((k, 32), -128, np.int8)
    with (
        simulator.settings(depth_limit=200_000),
        Matmul(lib, 1, k, 32, vendor.INT8_TO_INT32, vendor.NATIVE) as matmul,
    ):
        assert (matmul(a, b) == np.int64(k * 128 * 128).astype(np.int32)).all()


def test_what_create_reports(lib):
    with Matmul(lib, 8, 96, 64, vendor.INT8_TO_INT32) as matmul:
        io = matmul.io
        assert [(t.name, t.shape(), t.size, t.type) for t in (io.A, io.B, io.C)] == [
            (b"A", (8, 96), 768, 2),
            (b"B", (96, 64), 6144, 2),
            (b"C", (8, 64), 2048, 6),
        ]
    native = {
        vendor.FLOAT16_TO_FLOAT32: ((12, 8, 8), (4, 3, 16, 32), (16, 8, 4), 1, 0),
        vendor.INT8_TO_INT32: ((6, 8, 16), (2, 3, 32, 32), (16, 8, 4), 2, 6),
        vendor.FLOAT16_TO_FLOAT16: ((12, 8, 8), (4, 3, 16, 32), (8, 8, 8), 1, 1),
        vendor.INT8_TO_FLOAT32: ((6, 8, 16), (2, 3, 32, 32), (16, 8, 4), 2, 0),
        vendor.INT4_TO_INT16: ((3, 8, 32), (1, 3, 64, 32), (8, 8, 8), 10, 4),
    }
    for kind, (a, b, c, ab_type, c_type) in native.items():
        with Matmul(lib, 8, 96, 64, kind, vendor.NATIVE, vendor.NATIVE) as matmul:
            io = matmul.io
            assert [t.shape() for t in (io.A, io.B, io.C)] == [a, b, c]
            assert [t.type for t in (io.A, io.B, io.C)] == [ab_type, ab_type, c_type]
            bits = {1: 16, 2: 8, 10: 4}[ab_type]
            assert (io.A.size, io.B.size) == (8 * 96 * bits // 8, 96 * 64 * bits // 8)
    with Matmul(lib, 8, 96, 64, vendor.INT8_TO_INT32, vendor.TRANSPOSED) as matmul:
        assert matmul.io.B.shape() == (64, 96)


@pytest.mark.parametrize(
    ("kind", "m", "k", "n"),
    [
        (vendor.INT8_TO_INT32, 4, 33, 32),
        (vendor.INT8_TO_INT32, 4, 32, 16),
        (vendor.FLOAT16_TO_FLOAT32, 4, 32, 24),
        (vendor.INT4_TO_INT16, 4, 32, 32),
        (vendor.INT8_TO_INT32, 4, 10272, 32),
        (vendor.INT8_TO_INT32, 0, 32, 32),
        (vendor.INT8_TO_INT32, 4, 0, 32),
        (vendor.INT8_TO_INT32, 4, 32, 0),
        (vendor.INT8_TO_INT32, -4, 32, 32),
        *[(kind, 4, 64, 64) for kind in range(-1, 17) if kind not in vendor.DTYPES],
    ],
)
def test_what_create_refuses(lib, kind, m, k, n):
    with pytest.raises(OSError, match="rknn_matmul_create") as refused:
        Matmul(lib, m, k, n, kind)
    assert refused.value.errno == vendor.PARAM_INVALID


def test_null_and_zero_handles(lib):
    info, io, ctx = vendor.Info(4, 32, 32, 2), vendor.IoAttr(), vendor.CTX()
    assert lib.rknn_matmul_create(None, ct.byref(info), ct.byref(io)) == vendor.CTX_INVALID
    assert lib.rknn_matmul_create(ct.byref(ctx), None, ct.byref(io)) == vendor.PARAM_INVALID
    assert lib.rknn_matmul_create(ct.byref(ctx), ct.byref(info), None) == vendor.PARAM_INVALID
    assert ctx.value == 0
    assert lib.rknn_matmul_run(0) == vendor.CTX_INVALID
    assert lib.rknn_matmul_set_core_mask(0, 1) == vendor.CTX_INVALID
    assert lib.rknn_matmul_destroy(0) == vendor.CTX_INVALID
    assert lib.rknn_destroy_mem(0, None) == vendor.CTX_INVALID
    assert lib.rknn_query(0, 5, None, 0) == vendor.CTX_INVALID
    assert lib.rknn_mem_sync(0, None, vendor.TO_DEVICE) == vendor.PARAM_INVALID
    with Matmul(lib, 4, 32, 32, 2) as matmul:
        ctx = matmul.ctx
        assert lib.rknn_matmul_set_io_mem(ctx, None, ct.byref(matmul.io.A)) == vendor.PARAM_INVALID
        assert lib.rknn_matmul_set_io_mem(ctx, matmul.mems["A"], None) == vendor.PARAM_INVALID
        assert lib.rknn_destroy_mem(ctx, None) == vendor.PARAM_INVALID
        assert not lib.rknn_create_mem(ctx, 0)
        assert not lib.rknn_create_mem_from_phys(ctx, 4096, None, 4096)


def test_only_single_cores_can_be_chosen(lib):
    with Matmul(lib, 4, 32, 32, vendor.INT8_TO_INT32) as matmul:
        for mask in (0, 1, 2, 4):
            assert lib.rknn_matmul_set_core_mask(matmul.ctx, mask) == 0
        for mask in (3, 5, 6, 7, 8, 0xFFFF, -1):
            assert lib.rknn_matmul_set_core_mask(matmul.ctx, mask) == vendor.FAIL
        a, b = operands(vendor.INT8_TO_INT32, 4, 32, 32)
        np.testing.assert_array_equal(matmul(a, b), expected(vendor.INT8_TO_INT32, a, b))
    counters = simulator.counters()
    assert (counters["runs"], counters["runs_core_2"]) == (1, 1)


def test_a_memory_is_a_descriptor_and_a_mapping_of_it(lib):
    with Matmul(lib, 4, 32, 32, vendor.INT8_TO_INT32) as matmul:
        mem = matmul.mems["A"].contents
        assert mem.virt_addr % 4096 == 0 and mem.priv_data == mem.virt_addr
        assert (mem.offset, mem.size, mem.flags) == (0, 128, 1)
        vendor.bytes_of(matmul.mems["A"])[:] = 7
        assert os.pread(mem.fd, 128, 0) == b"\7" * 128


def test_memories_can_be_views_of_one_allocation(lib):
    a, b = operands(vendor.INT8_TO_INT32, 4, 64, 32)
    with Matmul(lib, 4, 64, 32, vendor.INT8_TO_INT32, vendor.NATIVE, vendor.NATIVE) as matmul:
        sizes = [getattr(matmul.io, name).size for name in "ABC"]
        base = lib.rknn_create_mem(matmul.ctx, sum(sizes) + 3 * 64)
        offset = 64
        own = dict(matmul.mems)
        for name, size in zip("ABC", sizes, strict=True):
            matmul.mems[name] = lib.rknn_create_mem_from_fd(
                matmul.ctx, base.contents.fd, base.contents.virt_addr, size, offset
            )
            mem = matmul.mems[name].contents
            assert (mem.virt_addr, mem.offset, mem.fd) == (
                base.contents.virt_addr,
                offset,
                base.contents.fd,
            )
            offset += size + 64
        np.testing.assert_array_equal(matmul(a, b), expected(vendor.INT8_TO_INT32, a, b))
        for view in matmul.mems.values():
            assert lib.rknn_destroy_mem(matmul.ctx, view) == 0
        # The views are gone, the allocation is not.
        assert vendor.bytes_of(base)[64] == vendor.bytes_of(base)[64]
        assert lib.rknn_destroy_mem(matmul.ctx, base) == 0
        matmul.mems = own


def test_foreign_memory_is_imported_when_it_is_bound(lib):
    a, b = operands(vendor.INT8_TO_INT32, 4, 32, 32)
    with Matmul(lib, 4, 32, 32, vendor.INT8_TO_INT32) as matmul, simulator.settings(strict=1):
        fd = os.memfd_create("foreign")
        os.write(fd, b"\0" * 16 + a.tobytes())
        address = 0x1000  # the runtime has no use for it
        view = lib.rknn_create_mem_from_fd(matmul.ctx, fd, address, a.size, 16)
        assert simulator.counters()["imports"] == 0
        own, matmul.mems["A"] = matmul.mems["A"], view
        matmul.write_b(b)
        matmul.bind()
        assert simulator.counters()["imports"] == 1
        assert matmul.run() == 0
        matmul.sync("C", vendor.FROM_DEVICE)
        np.testing.assert_array_equal(matmul.read_c(), expected(vendor.INT8_TO_INT32, a, b))
        # The driver has no cache operations for what it did not allocate.
        assert lib.rknn_mem_sync(matmul.ctx, view, vendor.TO_DEVICE) == vendor.FAIL
        lib.rknn_destroy_mem(matmul.ctx, view)
        matmul.mems["A"] = own
        os.close(fd)


def test_a_bad_descriptor_fails_when_it_is_bound(lib):
    with Matmul(lib, 4, 32, 32, vendor.INT8_TO_INT32) as matmul:
        view = lib.rknn_create_mem_from_fd(matmul.ctx, -1, None, 128, 0)
        assert view
        status = lib.rknn_matmul_set_io_mem(matmul.ctx, view, ct.byref(matmul.io.A))
        assert status == vendor.MALLOC_FAIL
        lib.rknn_destroy_mem(matmul.ctx, view)


def test_memory_without_a_context_leaks_its_descriptor(lib):
    no_context = 0x00020000
    fds = simulator.counters()["fds"]
    mem = lib.rknn_create_mem2(0, 4096, no_context)
    assert lib.rknn_destroy_mem(0, mem) == 0
    counters = simulator.counters()
    assert (counters["fds"], counters["leaked_fds"]) == (fds + 1, 1)
    simulator.reset()  # closes what leaked


def test_memory_of_another_context_can_be_bound(lib):
    a, b = operands(vendor.INT8_TO_INT32, 4, 32, 32)
    with Matmul(lib, 4, 32, 32, 2) as owner, Matmul(lib, 4, 32, 32, 2) as matmul:
        own, matmul.mems = matmul.mems, owner.mems
        np.testing.assert_array_equal(matmul(a, b), a.astype(np.int32) @ b.astype(np.int32))
        matmul.mems = own


def test_a_normal_b_is_what_it_was_when_it_was_bound(lib):
    a, b = operands(vendor.INT8_TO_INT32, 4, 32, 32)
    with Matmul(lib, 4, 32, 32, vendor.INT8_TO_INT32) as matmul:
        first = matmul(a, b)
        matmul.write_b(-b // 2)
        assert matmul.run() == 0
        np.testing.assert_array_equal(matmul.read_c(), first)
        matmul.bind("B")
        assert matmul.run() == 0
        np.testing.assert_array_equal(matmul.read_c(), expected(2, a, -b // 2))


def test_a_native_b_is_read_at_every_run(lib):
    a, b = operands(vendor.INT8_TO_INT32, 4, 32, 32)
    with Matmul(lib, 4, 32, 32, vendor.INT8_TO_INT32, vendor.NATIVE) as matmul:
        matmul(a, b)
        matmul.write_b(-b // 2)
        assert matmul.run() == 0
        np.testing.assert_array_equal(matmul.read_c(), expected(2, a, -b // 2))


def test_dynamic_shapes_share_one_b(lib):
    heights = [1, 8, 4]
    shapes = (vendor.Shape * 3)(*[vendor.Shape(m, 64, 32) for m in heights])
    ios, ctx = (vendor.IoAttr * 3)(), vendor.CTX()
    info = vendor.Info(0, 0, 0, vendor.INT8_TO_INT32, vendor.NORMAL, 0, vendor.NATIVE)
    create = lib.rknn_matmul_create_dynamic_shape
    assert create(ct.byref(ctx), ct.byref(info), 3, shapes, ios) == 0
    assert [io.A.shape() for io in ios] == [(4, m, 16) for m in heights]
    mems = [lib.rknn_create_mem(ctx, s) for s in (8 * 64, 64 * 32, 8 * 32 * 4)]
    _, b = operands(2, 8, 64, 32)
    vendor.bytes_of(mems[1])[:] = b.ravel().view(np.uint8)
    assert lib.rknn_matmul_run(ctx) == vendor.FAIL  # no shape yet
    for i, m in enumerate(heights):
        a, _ = operands(2, m, 64, 32, seed=m)
        assert lib.rknn_matmul_set_dynamic_shape(ctx, ct.byref(shapes[i])) == 0
        native = a.reshape(m, 4, 16).transpose(1, 0, 2).ravel()
        vendor.bytes_of(mems[0])[: native.size] = native.view(np.uint8)
        for mem, attr in zip(mems, (ios[i].A, ios[i].B, ios[i].C), strict=True):
            if i == 0 or attr.name != b"B":
                assert lib.rknn_matmul_set_io_mem(ctx, mem, ct.byref(attr)) == 0
        assert lib.rknn_matmul_run(ctx) == 0
        c = vendor.bytes_of(mems[2])[: m * 128].view(np.int32).reshape(8, m, 4)
        np.testing.assert_array_equal(c.transpose(1, 0, 2).reshape(m, 32), expected(2, a, b))
    other = vendor.Shape(2, 64, 32)
    assert lib.rknn_matmul_set_dynamic_shape(ctx, ct.byref(other)) == vendor.PARAM_INVALID
    for mem in mems:
        lib.rknn_destroy_mem(ctx, mem)
    assert lib.rknn_destroy(ctx) == 0


def test_dynamic_shapes_differ_in_m_alone(lib):
    ctx, ios, info = vendor.CTX(), (vendor.IoAttr * 2)(), vendor.Info(0, 0, 0, 2)
    create = lib.rknn_matmul_create_dynamic_shape
    for k, n in [(96, 32), (64, 64)]:
        shapes = (vendor.Shape * 2)(vendor.Shape(4, 64, 32), vendor.Shape(4, k, n))
        status = create(ct.byref(ctx), ct.byref(info), 2, shapes, ios)
        assert status == vendor.PARAM_INVALID
    assert create(ct.byref(ctx), ct.byref(info), 0, shapes, ios) == vendor.PARAM_INVALID
    assert create(ct.byref(ctx), ct.byref(info), 513, shapes, ios) == vendor.PARAM_INVALID


def quantise(lib, matmul, name, scales, zeros=None):
    count = len(scales)
    params = vendor.QuantParams(
        name,
        (ct.c_float * count)(*scales),
        count,
        (ct.c_int32 * count)(*zeros) if zeros is not None else None,
        count if zeros is not None else 0,
    )
    return lib.rknn_matmul_set_quant_params(matmul.ctx, ct.byref(params))


def test_int8_results_are_scaled_rounded_and_clipped(lib):
    a, b = operands(vendor.INT8_TO_INT8, 4, 64, 32)
    with Matmul(lib, 4, 64, 32, vendor.INT8_TO_INT8, vendor.NATIVE) as matmul:
        assert quantise(lib, matmul, b"A", [0.5], [3]) == 0
        assert quantise(lib, matmul, b"B", [0.25], [-2]) == 0
        assert quantise(lib, matmul, b"C", [64.0], [5]) == 0
        sums = (a.astype(np.int64) - 3) @ (b.astype(np.int64) + 2)
        scaled = np.rint(sums * (0.5 * 0.25 / 64)) + 5
        np.testing.assert_array_equal(matmul(a, b), np.clip(scaled, -128, 127).astype(np.int8))
        assert len(np.unique(matmul.read_c())) > 20  # and not all clipped


def test_int8_to_float32_is_scaled(lib):
    a, b = operands(vendor.INT8_TO_FLOAT32, 4, 64, 32)
    with Matmul(lib, 4, 64, 32, vendor.INT8_TO_FLOAT32) as matmul:
        assert quantise(lib, matmul, b"A", [0.5]) == 0
        np.testing.assert_array_equal(matmul(a, b), expected(2, a, b).astype(np.float32) * 0.5)


def test_scales_that_do_not_fit_are_refused(lib):
    with Matmul(lib, 4, 64, 32, vendor.INT8_TO_INT8) as matmul:
        assert quantise(lib, matmul, b"B", [1.0, 1.0]) == vendor.PARAM_INVALID
        assert quantise(lib, matmul, b"D", [1.0]) == vendor.PARAM_INVALID
        assert lib.rknn_matmul_set_quant_params(matmul.ctx, None) == vendor.PARAM_INVALID
    for kind in (vendor.FLOAT16_TO_FLOAT32, vendor.INT4_TO_INT16):
        with Matmul(lib, 4, 64, 64, kind) as matmul:
            assert quantise(lib, matmul, b"A", [1.0]) == vendor.PARAM_INVALID


@pytest.mark.parametrize(("kind", "quant"), [(2, 2), (2, 3), (3, 2), (9, 4), (2, 4)])
def test_per_channel_and_per_group_succeed_with_zeros_as_on_the_board(lib, kind, quant):
    a, b = operands(kind, 4, 64, 32)
    with Matmul(lib, 4, 64, 32, kind, vendor.NATIVE, b_quant=quant) as matmul:
        if quant in (2, 3):
            assert quantise(lib, matmul, b"B", [0.5] * 32) == 0
        assert not matmul(a, b).any()


def test_float_results_have_no_per_channel_quantisation(lib):
    with pytest.raises(OSError, match="create"):
        Matmul(lib, 4, 64, 32, vendor.INT8_TO_FLOAT32, b_quant=2)


def test_per_channel_scales_can_be_read_back(lib):
    with Matmul(lib, 4, 64, 32, vendor.INT8_TO_INT32, b_quant=2) as matmul:
        assert quantise(lib, matmul, b"B", [0.5] * 31 + [2.0]) == 0
        params, scale = vendor.QuantParams(), ct.c_float()
        get = lib.rknn_matmul_get_quant_params
        assert get(matmul.ctx, ct.byref(params), ct.byref(scale)) == 0
        assert (params.name, params.scale_len, params.scale[31], scale.value) == (b"B", 32, 2, 2)
    with Matmul(lib, 4, 64, 32, vendor.INT8_TO_INT32) as matmul:
        status = lib.rknn_matmul_get_quant_params(matmul.ctx, ct.byref(params), ct.byref(scale))
        assert status == vendor.PARAM_INVALID


@pytest.mark.parametrize(("kind", "y"), [(1, 16), (2, 32), (10, 64)])
def test_the_conversion_function_makes_native_b(lib, kind, y):
    k, n = 64, 2 * y
    _, b = operands(kind, 1, k, n)
    info = vendor.Info(0, 0, 0, kind)
    bits = {1: 16, 2: 8, 10: 4}[kind]
    out = np.zeros(k * n * bits // 8, np.uint8)
    convert = lib.rknn_B_normal_layout_to_native_layout
    # int4 comes as one value per byte.
    status = convert(b.ctypes.data, out.ctypes.data, k, n, ct.byref(info))
    assert status == 0
    native = b.reshape(k // 32, 32, n // y, y).transpose(2, 0, 3, 1).ravel()
    raw = vendor.pack_int4(native) if kind == 10 else native.view(np.uint8)
    np.testing.assert_array_equal(out, raw)
    assert convert(None, out.ctypes.data, k, n, ct.byref(info)) == vendor.PARAM_INVALID
    assert convert(b.ctypes.data, out.ctypes.data, k, n, None) == vendor.PARAM_INVALID


def test_the_conversion_function_fills_up_with_zeros(lib):
    b = np.arange(1, 31 * 5 + 1, dtype=np.uint8).view(np.int8).reshape(31, 5)
    out = np.full(32 * 32, 99, np.uint8)
    info = vendor.Info(0, 0, 0, vendor.INT8_TO_INT32)
    convert = lib.rknn_B_normal_layout_to_native_layout
    assert convert(b.ctypes.data, out.ctypes.data, 31, 5, ct.byref(info)) == 0
    full = np.zeros((32, 32), np.int8)
    full[:31, :5] = b
    np.testing.assert_array_equal(out.view(np.int8).reshape(32, 32), full.T)


def test_int4_nibbles_can_be_the_other_way_round(lib):
    a, b = operands(vendor.INT4_TO_INT16, 4, 32, 64)
    for b_layout in (vendor.NORMAL, vendor.NATIVE):
        with Matmul(lib, 4, 32, 64, vendor.INT4_TO_INT16, b_layout) as matmul:
            result = matmul(a, b)
            with simulator.settings(int4_high_first=1):
                matmul.bind("B")
                assert matmul.run() == 0
            # Pairs along K in both A and a native B: the order cancels. A normal B pairs along N.
            same = (matmul.read_c() == result).all()
            assert same == (b_layout == vendor.NATIVE)


def test_versions_and_memory_can_be_asked(lib):
    with Matmul(lib, 4, 32, 32, vendor.INT8_TO_INT32) as matmul:
        version, size = vendor.SdkVersion(), vendor.MemSize()
        assert lib.rknn_query(matmul.ctx, 5, ct.byref(version), 512) == 0
        assert version.api_version == b"2.3.2 (npublas simulator)"
        assert version.drv_version == b"0.9.8"
        with simulator.settings(api_version=10600, driver_version=906):
            lib.rknn_query(matmul.ctx, 5, ct.byref(version), 512)
        assert version.api_version == b"1.6.0 (npublas simulator)"
        assert version.drv_version == b"0.9.6"
        assert lib.rknn_query(matmul.ctx, 6, ct.byref(size), 64) == 0
        assert size.dma_total == simulator.counters()["bytes"] > 0
        assert lib.rknn_query(matmul.ctx, 5, ct.byref(version), 511) == vendor.PARAM_INVALID
        assert lib.rknn_query(matmul.ctx, 99, ct.byref(version), 512) == vendor.PARAM_INVALID


def test_the_file_says_that_it_is_a_simulator():
    found = re.findall(rb"librknnrt version: [ -~]*", simulator.path().read_bytes())
    assert found == [b"librknnrt version: 2.3.2 (npublas simulator)"]


def test_nothing_but_the_two_interfaces_is_exported():
    dump = subprocess.run(
        ["nm", "-D", "--defined-only", simulator.path()], capture_output=True, text=True, check=True
    )
    symbols = {line.split()[-1] for line in dump.stdout.splitlines()}
    own = {name for name in symbols if name.startswith("npublas_simulator_")}
    assert symbols - own == set(vendor.SIGNATURES)


def compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert found, "the C program needs a C compiler; g++ brings one"
    return found


def test_a_c_program_for_the_vendors_library_runs_unchanged(tmp_path):
    """It is linked against a library called librknnrt.so, and then finds the simulator there."""
    stub = tmp_path / "stub" / "librknnrt.so"
    stub.parent.mkdir()
    (tmp_path / "stub.c").write_text(
        "".join(f"void {name}(void) {{}}\n" for name in vendor.SIGNATURES)
    )
    build = [compiler(), "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror"]
    shared = ["-shared", "-fPIC", "-Wl,-soname,librknnrt.so"]
    subprocess.run([*build, *shared, tmp_path / "stub.c", "-o", stub], check=True)
    program = tmp_path / "matmul"
    subprocess.run([*build, ROOT / "tests" / "c" / "matmul.c", stub, "-o", program], check=True)
    (tmp_path / "librknnrt.so").symlink_to(simulator.path())
    done = subprocess.run(
        [program],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "runtime 2.3.2 (npublas simulator), driver 0.9.8",
        "int8, normal layouts: right",
        "int8, native layouts: right",
        "int8, transposed B: right",
        "float16, native layouts: right",
        "int4, native layouts: right",
        "views of one allocation: right",
        "dynamic shapes: right",
    ]
    assert done.stderr == ""


def test_a_setting_takes_no_fraction_and_no_number_beyond_64_bits():
    with pytest.raises(TypeError):
        simulator.set("strict", 1.7)
    with pytest.raises(ValueError, match="does not take"):
        simulator.set("fd_limit", 2**64 + 5)
    assert simulator.setting("strict") == 0
    assert simulator.setting("fd_limit") == 1024


def test_a_name_with_a_nul_is_no_name():
    for ask in (simulator.setting, simulator.fired, simulator.arm, simulator.disarm):
        name = "strict" if ask is simulator.setting else "zeros"
        with pytest.raises(ValueError, match="the simulator has no"):
            ask(f"{name}\0x")
    with pytest.raises(ValueError, match="the simulator has no setting"):
        simulator.set("strict\0x", 1)
    with pytest.raises(ValueError, match="does not take"):
        simulator.set("isa", "baseline\0x")


def test_kinds_of_names_are_listed_to_who_asks_for_another():
    with pytest.raises(ValueError, match="'settings'; the kinds are setting, fault, counter"):
        simulator.names("settings")
