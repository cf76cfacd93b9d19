"""Profiles: what they see of products, and what they write."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npublas
from npublas import _charts, _core, _profile, _roof, _trace

FLOATS = ("float16", "float32", "int8")


@pytest.fixture(autouse=True)
def _simulator() -> None:
    npublas.set_config(runtime="simulator")


def operands(m: int, k: int, n: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return tuple(rng.integers(-9, 9, side).astype(dtype) / 8 for side in ((m, k), (k, n)))


def profiled(*calls: Any) -> npublas.Profile:
    with npublas.profile() as profile:
        for call in calls:
            call()
    return profile


# What is seen


@pytest.mark.parametrize("precision", FLOATS)
def test_a_product_on_the_npu_says_what_it_took(precision: Any) -> None:
    a, b = operands(40, 96, 64)
    profile = profiled(lambda: npublas.matmul(a, b, device="npu", precision=precision))
    (product,) = profile.products
    assert (product.shape, product.dtype) == ((1, 40, 96, 64), "float32")
    assert product.on_npu and product.simulated and profile.simulated and not product.fallback
    assert product.method == precision
    assert product.element == ("int8" if precision == "int8" else "float16")
    work = product.work
    assert work.products == 1
    assert work.flops == 2 * 40 * 96 * 64 <= work.npu_flops
    assert work.bytes > a.nbytes + b.nbytes
    for act in ("plan", "pack", "run", "unpack", "sync"):
        assert getattr(work, act) > 0, act
    assert work.cpu == 0
    assert 0 < work.seconds <= profile.seconds
    assert 0 <= product.start <= profile.seconds
    assert work.gflops == pytest.approx(work.flops / work.seconds / 1e9)
    assert 0 < work.roof_share == pytest.approx(work.roof_seconds / work.seconds)
    assert work.roof_seconds == _roof.seconds(product.element, product.shape, work.npu_flops)
    assert len(profile.busy) == 3 and 0 < max(profile.busy) <= 1


def test_a_product_on_the_cpu_has_cpu_time_and_no_roof() -> None:
    a, b = operands(64, 128, 64)
    (product,) = profiled(lambda: npublas.matmul(a, b, device="cpu")).products
    work = product.work
    assert not product.on_npu and not product.simulated and product.method == product.element == ""
    assert product.reason == 'device="cpu" was asked for'
    assert 0 < work.cpu <= work.seconds
    assert work.bytes == a.nbytes + b.nbytes + 64 * 64 * 4
    assert (work.roof_seconds, work.npu_flops, work.run) == (0, 0, 0)
    assert work.flops == 2 * 64 * 128 * 64


def test_a_product_that_comes_back_from_the_npu_is_one_product_with_its_reason() -> None:
    a, b = operands(40, 96, 64)
    a[3, 4] = np.nan
    (product,) = profiled(lambda: npublas.matmul(a, b, device="npu")).products
    assert product.fallback and not product.on_npu
    assert product.work.cpu > 0 and product.work.pack > 0
    assert product.label == "float32 40×96×64 on the CPU: operands contain NaN or infinity"


def test_products_of_every_door_are_seen_once() -> None:
    a, b = operands(40, 96, 64)
    quantized = npublas.quantize(b)
    packed = npublas.pack(b)
    stack = np.broadcast_to(a, (3, 40, 96))
    npublas.matmul(a, b, device="npu")
    npublas.reset_counters()
    with npublas.config_context(device="npu"):
        profile = profiled(
            lambda: npublas.matmul(a, b),
            lambda: a @ packed,
            lambda: npublas.linear(a, packed, np.ones(64, np.float32), activation="relu"),
            lambda: npublas.gemm(2.0, a, b),
            lambda: npublas.matmul(stack, b),
            lambda: a @ quantized,
        )
    counters = npublas.counters()
    assert profile.total.products == counters.npu.products + counters.cpu.products
    assert profile.total.flops == counters.npu.flops + counters.cpu.flops
    assert all(product.on_npu for product in profile.products)
    assert all(product.work.run > 0 for product in profile.products)
    with npublas.config_context(device="cpu"):
        profile = profiled(lambda: a @ packed, lambda: npublas.linear(a, b), lambda: a @ b)
    assert [product.on_npu for product in profile.products] == [False, False]  # a @ b is NumPy's
    assert all(product.work.cpu > 0 for product in profile.products)


def test_what_happens_outside_of_the_block_is_not_seen() -> None:
    a, b = operands(8, 32, 32)
    npublas.matmul(a, b, device="npu")
    profile = npublas.profile()
    npublas.matmul(a, b, device="npu")
    with profile:
        pass
    npublas.matmul(a, b, device="npu")
    assert profile.products == () and profile.busy == ()
    assert repr(profile).startswith("npublas: 0 products in ")


def test_profiles_nest_and_each_has_what_happened_in_its_block() -> None:
    a, b = operands(8, 32, 32)
    with npublas.profile() as outer:
        npublas.matmul(a, b, device="npu")
        inner = profiled(lambda: npublas.matmul(a, b, device="cpu"))
    assert [product.on_npu for product in inner.products] == [False]
    assert [product.on_npu for product in outer.products] == [True, False]
    assert outer.seconds >= inner.seconds


def test_a_profile_sees_the_products_of_all_threads() -> None:
    a, b = operands(64, 64, 64)
    profiles: list[npublas.Profile] = []

    def work() -> None:
        with npublas.profile() as profile:
            for _ in range(20):
                npublas.matmul(a, b, device="npu")
        profiles.append(profile)

    threads = [threading.Thread(target=work) for _ in range(3)]
    with npublas.profile() as outer:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(outer.products) == 60
    assert all(20 <= len(profile.products) <= 60 for profile in profiles)
    assert all(product.work.run > 0 for product in outer.products)
    assert max(outer.busy) <= 1


def test_an_error_in_the_block_ends_the_profile() -> None:
    profile = npublas.profile()
    with pytest.raises(ValueError, match="mismatch"), profile:
        npublas.matmul(np.ones((2, 3)), np.ones((2, 3)))
    assert profile.seconds > 0
    assert not _core.Recording().stop()["products"]


def test_a_profile_may_be_used_again_and_then_begins_anew() -> None:
    a, b = operands(8, 32, 32)
    profile = profiled(lambda: npublas.matmul(a, b), lambda: npublas.matmul(a, b))
    with profile:
        npublas.matmul(a, b)
    assert len(profile.products) == 1


def test_a_profile_that_is_not_over_says_so(tmp_path: Path) -> None:
    with npublas.profile() as profile:
        assert repr(profile) == "npublas: a profile that is being recorded"
        with pytest.raises(RuntimeError, match="after its with block"):
            profile.to_chrome_trace(tmp_path / "t.json")
        with pytest.raises(RuntimeError, match="already"), profile:
            pass
    assert profile.seconds > 0


def test_products_of_a_profile_that_is_not_over_are_not_nothing() -> None:
    with npublas.profile() as profile:
        npublas.matmul(np.ones((2, 2)), np.ones((2, 2)))
        for name in ("products", "total", "simulated"):
            with pytest.raises(RuntimeError, match="still being recorded"):
                getattr(profile, name)
        with pytest.raises(RuntimeError, match="still being recorded"):
            profile.to_dict()
        assert "is being recorded" in profile._repr_html_()
    assert profile.total.products == len(profile.products) == 1


def test_what_never_began_cannot_end() -> None:
    with pytest.raises(RuntimeError, match="is not being recorded"):
        npublas.profile().__exit__(None, None, None)


def test_a_profile_is_a_decorator_too() -> None:
    profile = npublas.profile()

    @profile
    def double(a: np.ndarray, *, times: int) -> Any:
        """Twice as much."""
        for _ in range(times):
            b = npublas.matmul(a, 2 * np.eye(2))
        return b

    assert (double.__name__, double.__doc__) == ("double", "Twice as much.")
    assert (double(np.eye(2), times=3) == 2 * np.eye(2)).all()
    assert len(profile.products) == 3
    double(np.eye(2), times=1)
    assert len(profile.products) == 1

    async def later() -> None: ...

    with pytest.raises(TypeError, match=r"can't record a coroutine function.*npublas\.profile"):
        profile(later)


@pytest.mark.filterwarnings("error")
def test_a_page_of_no_products_says_so_and_draws_nothing(tmp_path: Path) -> None:
    profiled().to_html(tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text("utf-8")
    assert "0 products in " in page and "<svg" not in page


def test_counters_say_how_busy_each_core_was_since_its_first_run() -> None:
    a, b = operands(64, 96, 96)
    npublas.matmul(a, b, device="npu")
    npublas.reset_counters()
    assert npublas.counters().busy == (0.0,) * 3
    npublas.matmul(a, b, device="npu")
    counters = npublas.counters()
    assert len(counters.busy) == 3 and 0 < max(counters.busy) <= 1
    assert counters.to_dict()["busy"] == list(counters.busy)
    assert "cores of the NPU (simulated) busy since the first product: " in repr(counters)


# What is shown


def test_the_table_groups_equal_products_and_adds_them_up() -> None:
    a, b = operands(40, 96, 64)
    profile = profiled(
        *[lambda: npublas.matmul(a, b, device="npu")] * 3,
        lambda: npublas.matmul(a, b, device="cpu"),
    )
    lines = repr(profile).splitlines()
    assert lines[0].startswith("npublas: 4 products in ")
    assert "cores of the NPU (simulated) busy: " in lines[0]
    assert lines[1].split()[:2] == ["time", "plan"]
    found = {line.split("  ")[-1].strip(): line.split()[0] for line in lines[3:]}
    assert found == {
        "float32 40×96×64 on the NPU (simulated)": "3",
        "float32 40×96×64 on the CPU": "1",
        "all": "4",
    }
    assert profile._repr_html_().count("<tr>") == 1 + 3


def test_the_label_says_what_a_float_was_multiplied_as() -> None:
    a, b = operands(8, 32, 32)
    with npublas.config_context(device="npu", precision="float16"):
        (product,) = profiled(lambda: npublas.matmul(a, b)).products
    assert product.label == "float32 8×32×32 as float16 on the NPU (simulated)"


def test_kinds_beyond_the_tables_length_are_one_line() -> None:
    profile = profiled(
        *(lambda n=n: npublas.matmul(np.ones((1, n)), np.ones((n, 1))) for n in range(1, 31))
    )
    assert "5 other kinds of products" in repr(profile)
    assert profile.total.products == 30


def test_dropped_events_are_said() -> None:
    profile = npublas.Profile(seconds=1.0, dropped=1234)
    assert repr(profile).endswith("; 1,234 events had no room")


def test_a_profile_as_a_dict_can_be_written_as_json() -> None:
    a, b = operands(40, 96, 64)
    profile = profiled(lambda: npublas.matmul(a, b, device="npu"))
    plain = json.loads(json.dumps(profile.to_dict()))
    assert plain["products"][0]["work"]["flops"] == plain["total"]["flops"] == 2 * 40 * 96 * 64
    assert plain["simulated"] is True and len(plain["busy"]) == 3


# The trace


def chrome(profile: npublas.Profile, path: Path) -> list[dict[str, Any]]:
    profile.to_chrome_trace(path)
    document = json.loads(path.read_text("utf-8"))
    assert document["otherData"]["simulated"] is True
    events: list[dict[str, Any]] = document["traceEvents"]
    return events


def test_the_trace_has_a_named_track_for_each_core_and_thread(tmp_path: Path) -> None:
    a, b = operands(200, 300, 200)
    profile = profiled(*[lambda: npublas.matmul(a, b, device="npu")] * 3)
    events = chrome(profile, tmp_path / "t.json")
    slices = [event for event in events if event["ph"] == "X"]
    for event in slices:
        assert event.keys() == {"name", "cat", "ph", "pid", "tid", "ts", "dur", "args"}
        assert event["ts"] >= 0 and event["dur"] >= 0
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["name"] == "thread_name"
    }
    assert {(event["pid"], event["tid"]) for event in slices} == names.keys()
    assert {name for (pid, _), name in names.items() if pid == _trace.NPU} <= {
        f"core {i}" for i in range(3)
    }
    acts = {event["name"] for event in slices if event["pid"] == _trace.NPU}
    assert acts == {"run"}
    assert sum("float32 200×300×200" in event["name"] for event in slices) == 3


def test_slices_of_a_track_of_the_trace_lie_apart_or_in_one_another(tmp_path: Path) -> None:
    a, b = operands(200, 300, 200)
    profile = profiled(*[lambda: npublas.matmul(a, b, device="npu")] * 5)
    tracks = defaultdict(list)
    for event in chrome(profile, tmp_path / "t.json"):
        if event["ph"] == "X":
            begin = round(event["ts"] * 1e3)
            tracks[event["pid"], event["tid"]].append((begin, -begin - round(event["dur"] * 1e3)))
    for slices in tracks.values():
        open_until: list[int] = []
        for begin, minus_end in sorted(slices):
            while open_until and open_until[-1] <= begin:
                open_until.pop()
            assert not open_until or -minus_end <= open_until[-1]
            open_until.append(-minus_end)


def synthetic(runs: list[tuple[int, int, int]]) -> _trace.Trace:
    """Of (core, begin, end)."""
    runs = sorted(runs, key=lambda run: run[1])
    core, begin, end = (np.array(column, np.int64) for column in zip(*runs, strict=True))
    act = np.full(len(runs), _core.ACTS.index("run"))
    zero = np.zeros(len(runs), np.int64)
    events = {
        "track": -1 - core, "begin": begin, "end": end, "act": act,
        "product": zero, "bytes": zero, "flops": zero, "element": zero,
    }  # fmt: skip
    return _trace.Trace(0, 100, 0, 0, {}, [], events)


def test_a_queued_run_begins_when_the_one_before_it_on_its_core_has_ended() -> None:
    trace = synthetic([(0, 0, 10), (0, 2, 20), (1, 3, 9), (0, 30, 40), (0, 31, 35)])
    assert trace.cores() == [0, 1]
    assert trace.running().tolist() == [0, 10, 3, 30, 35]
    assert _profile._busy(trace, 3) == pytest.approx((0.3, 0.06, 0.0))


def test_a_product_that_began_before_the_profile_gets_nothing_of_what_nobody_owns() -> None:
    trace = synthetic([(0, 0, 10)])
    product = {
        "product": 0, "begin": 50, "end": 90, "cpu_nanoseconds": 0, "shape": (1, 2, 3, 4),
        "dtype": "int8", "method": "", "on_npu": True, "reason": "", "fallback": False,
        "simulated": True, "thread": 0,
    }  # fmt: skip
    trace.products.append(product)
    (found,) = _profile._products(trace, 3)
    assert found.work.run == 0
    assert found.work.seconds == pytest.approx(40e-9)


# The page


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    a, b = operands(100, 200, 100)
    profile = profiled(
        *[lambda: npublas.matmul(a, b, device="npu")] * 2,
        lambda: npublas.matmul(a, b, device="cpu"),
    )
    profile.to_html(tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n")
    # Names of XML's own vocabularies are no links.
    assert not re.findall(r"(?:href|src)=\"(?!#)[^\"]*\"", page)
    assert not re.findall(r"url\((?!#)", page)
    assert page.count("<svg") == page.count("</svg>") == 3
    assert "The NPU is simulated" in page
    assert ">core 0<" in page and ">roof of float16, 3 cores: 3.07 Top/s<" in page


def test_a_page_of_the_cpu_alone_has_no_roof(tmp_path: Path) -> None:
    profile = profiled(lambda: npublas.matmul(np.ones((2, 2)), np.ones((2, 2))))
    profile.to_html(tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text("utf-8")
    assert page.count("<svg") == 2 and "simulated" not in page


def test_many_events_are_a_picture_in_the_page(tmp_path: Path) -> None:
    profile = profiled(*[lambda: npublas.matmul(np.ones((2, 2)), np.ones((2, 2)))] * 3500)
    profile.to_html(tmp_path / "p.html")
    assert (tmp_path / "p.html").stat().st_size < 300_000


def test_without_matplotlib_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    profile = profiled(lambda: npublas.matmul(np.ones((2, 2)), np.ones((2, 2))))
    with pytest.raises(ImportError, match=re.escape("pip install 'npublas[report]'")):
        profile.to_html(tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


def test_the_same_chart_is_the_same_text() -> None:
    bars = {"a product": {"pack": 1.0, "run": 3.0}}
    first, second = (_charts.svg(_charts.shares(bars)) for _ in range(2))
    assert first == second and first.startswith("<svg")


# The roof


@pytest.mark.parametrize(
    ("element", "side", "bound"),
    [("int8", 4096, 2 * 4096**3 / 6.144e12), ("float16", 32, 32 * 32 * 8 / 29e9)],
)
def test_the_roof_is_the_peak_of_the_cores_or_the_speed_of_the_memory(
    element: str, side: int, bound: float
) -> None:
    assert _roof.seconds(element, (1, side, side, side), 2.0 * side**3) == pytest.approx(bound)
