"""The simulator's clock: how products are cut, how long a run takes, how runs share the chip, and
what is charged to whom. All of it in modelled time, which is the same on every machine.
"""

from __future__ import annotations

import csv
import heapq
import math
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import vendor
from hypothesis import given
from hypothesis import strategies as st
from vendor import Matmul

import npublas
from npublas.testing import simulator

ROOT = Path(__file__).parent.parent

BITS = {"float16": 16, "int8": 8, "int4": 4}
C_BYTES = {"float16": 4, "int8": 4, "int4": 2}
MACS = {"float16": 512, "int8": 1024, "int4": 2048}  # per ns, at 1 GHz
# The profile `target`: ns, and GB/s.
EFFICIENCY, CORE, MEMORY, SUBMIT, TASK = 0.95, 12.8, 24.0, 60_000.0, 3_000.0


@pytest.fixture(scope="module")
def lib():
    return vendor.load(str(simulator.path()))


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    simulator.reset()
    yield
    simulator.reset()


# ## Cutting

# Heights at which the rule is wrong, by type and depth: rows of A fill banks without a rest there.
MISSED = {
    ("int8", 2048): [1000, 2000],
    ("int8", 4096): [1000],
    ("int8", 8192): [31, 33, 48, 400],
    ("float16", 1024): [1000, 2000],
    ("float16", 2048): [1000, 2000],
    ("float16", 4096): [31, 33, 48, 400, 1000],
    ("float16", 8192): [15, 31, 33, 48, 100, 200, 400, 1000],
}


def observed():
    """The products that the vendor's runtime was seen to cut, and how."""
    lines = (ROOT / "tests/data/cutting-1.6.0.csv").read_text().splitlines()
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        shape = row["type"], row["layout"], int(row["m"]), int(row["k"])
        cut = int(row["tasks"]), int(row["tile_rows"]), int(row["reusing"]), int(row["passes"])
        for n in row["n"].split():
            yield *shape, int(n), cut


def cut_by_rule(kind, layout, m, k, n):
    run = simulator.run_time(kind, m, k, n, native=layout == "native")
    return run.tasks, run.tile_rows, run.reusing, run.passes


def test_products_are_cut_as_the_vendors_runtime_was_seen_to_cut_them() -> None:
    simulator.set("native_row_step", 1)  # the heights are those of the surfaces
    seen = {"normal": 0, "native": 0}
    wrong: dict[tuple[str, int], set[int]] = {}
    missed = 0
    for kind, layout, m, k, n, cut in observed():
        if layout == "native" and m > 2047:
            continue
        seen[layout] += 1
        if cut_by_rule(kind, layout, m, k, n) != cut:
            assert layout == "native"
            wrong.setdefault((kind, k), set()).add(m)
            missed += 1
    assert seen == {"normal": 2472, "native": 2676}
    assert missed == 49
    assert {key: sorted(heights) for key, heights in wrong.items()} == MISSED


def test_where_the_rule_is_wrong_it_is_a_quarter_below_to_half_above_what_was_seen() -> None:
    simulator.set("native_row_step", 1)
    off = []
    for kind, layout, m, k, n, cut in observed():
        if layout == "native" and m <= 2047:
            by_rule = cut_by_rule(kind, layout, m, k, n)
            assert by_rule[0] / cut[0] == by_rule[3] / cut[3]  # a task more is a pass more of B
            if by_rule != cut:
                off.append(by_rule[0] / cut[0])
    assert len(off) == 49
    assert (min(off), off.count(min(off))) == (3 / 4, 8)
    assert (max(off), off.count(max(off))) == (3 / 2, 3)
    assert off.count(1) == 12


def test_native_products_of_great_height_are_not_taken_for_cheaper_than_they_were() -> None:
    simulator.set("native_row_step", 1)
    tall = [row for row in observed() if row[1] == "native" and row[2] > 2047]
    assert len(tall) == 197
    for kind, layout, m, k, n, (*_, passes) in tall:
        assert cut_by_rule(kind, layout, m, k, n)[3] >= passes


def test_columns_are_cut_where_a_field_of_13_bits_ends() -> None:
    for kind, most in (("float16", 8160), ("int8", 8160), ("int4", 8128)):
        assert simulator.run_time(kind, 4, 32, most).tasks == 1
        assert simulator.run_time(kind, 4, 32, most + 64).tasks == 2
        assert simulator.run_time(kind, 4, 32, most + 64).piece_columns == most


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", ["float16", "int8", "int4"])
def test_b_is_streamed_in_each_pass_a_once_for_each_piece_and_c_once(kind, native) -> None:
    for m, k, n in [(1, 32, 64), (128, 1024, 1024), (516, 2048, 8192), (64, 8224, 192)]:
        run = simulator.run_time(kind, m, k, n, native=native)
        pieces = -(-n // run.piece_columns)
        streamed = (run.passes * k * n + pieces * m * k) * BITS[kind] / 8 + m * n * C_BYTES[kind]
        assert run.bytes == streamed


def test_native_surfaces_have_a_multiple_of_four_rows_but_for_a_single_one() -> None:
    assert simulator.run_time("int8", 5, 64, 64) == simulator.run_time("int8", 8, 64, 64)
    assert simulator.run_time("int8", 1, 64, 64).tile_rows == 1
    assert simulator.run_time("int8", 5, 64, 64, native=False).tile_rows == 5


def test_row_major_int4_goes_row_by_row() -> None:
    assert simulator.run_time("int4", 100, 1024, 64, native=False).passes == 100


# ## One run


def alone(kind, m, k, n, run, factor=1.0):
    """The formula of the documentation."""
    c = m * n * C_BYTES[kind]
    macs = m * k * n / (MACS[kind] * EFFICIENCY)
    fixed = (run.tasks - 1) * TASK
    return fixed + factor * max(macs, (run.bytes - c) / CORE, c / CORE)


@pytest.mark.parametrize(
    ("bound", "kind", "m", "k", "n"),
    [
        ("MACs", "int8", 128, 1024, 1024),
        ("MACs", "float16", 128, 512, 1024),
        ("A and B", "float16", 4, 4096, 4096),
        ("A and B", "int4", 1, 10240, 8192),
        ("C", "int8", 2000, 32, 4096),
    ],
)
def test_a_run_takes_as_long_as_the_slowest_of_macs_reads_and_writes(bound, kind, m, k, n) -> None:
    run = simulator.run_time(kind, m, k, n)
    assert run.core_nanoseconds == pytest.approx(alone(kind, m, k, n, run))
    assert run.nanoseconds == run.core_nanoseconds + SUBMIT
    speeds = {"MACs": "efficiency_permille", "A and B": "core_mb_s", "C": "core_mb_s"}
    with simulator.settings(**{speeds[bound]: 999 if bound == "MACs" else 14_000}):
        assert simulator.run_time(kind, m, k, n).nanoseconds < run.nanoseconds


@pytest.mark.parametrize(
    ("columns", "factor"),
    [
        (32, 1.05),
        (1024, 1.05),
        (1536, 1.125),
        (2048, 1.2),
        (4096, 1.5),
        (8160, 2.147),
        (8192, 2.15),
    ],
)
def test_row_major_c_costs_what_its_pitch_costs(columns, factor) -> None:
    run = simulator.run_time("float16", 64, 512, columns, native=False)
    expected = alone("float16", 64, 512, columns, run, factor)
    assert run.core_nanoseconds == pytest.approx(expected, rel=1e-3)


def test_rows_that_go_one_by_one_are_the_same_in_both_layouts() -> None:
    for m, k, n in [(1, 1024, 8192), (1, 32, 32)]:
        native = simulator.run_time("int8", m, k, n)
        assert native == simulator.run_time("int8", m, k, n, native=False)
    deep = simulator.run_time("int8", 3, 10240, 4096, native=False)
    assert deep.core_nanoseconds == pytest.approx(alone("int8", 3, 10240, 4096, deep))


def test_clocks_scale_what_hangs_on_them() -> None:
    macs, stream = ("int8", 128, 1024, 1024), ("int8", 1, 4096, 4096)
    fast = simulator.run_time(*macs).core_nanoseconds
    read = simulator.run_time(*stream).core_nanoseconds
    shared = simulator.run_time(*stream, cores=3).core_nanoseconds
    with simulator.settings(npu_mhz=500):
        assert simulator.run_time(*macs).core_nanoseconds == pytest.approx(2 * fast)
        assert simulator.run_time(*stream).core_nanoseconds == read
    with simulator.settings(ddr_mhz=1584):
        assert simulator.run_time(*macs).core_nanoseconds == fast
        assert simulator.run_time(*stream, cores=3).core_nanoseconds == pytest.approx(
            4 / 3 * shared
        )


def test_three_cores_share_the_memory() -> None:
    run = simulator.run_time("int8", 1, 4096, 4096, cores=3)
    assert run.core_nanoseconds == pytest.approx(3 * run.bytes / MEMORY)
    with simulator.settings(npu_mhz=500):
        busy = simulator.run_time("int8", 128, 1024, 1024)
        assert busy.bytes / busy.core_nanoseconds < MEMORY / 3
        assert simulator.run_time("int8", 128, 1024, 1024, cores=3) == busy


def test_profiles_differ_and_settings_go_before_them() -> None:
    times = {}
    for profile in ("first", "target", "stretch"):
        simulator.set("clock", profile)
        times[profile] = simulator.run_time("float16", 128, 1024, 8192, cores=3).nanoseconds
    assert times["first"] > times["target"] > times["stretch"]
    with simulator.settings(submit_ns=0, task_ns=0):
        run = simulator.run_time("float16", 128, 1024, 4096)
        assert run.nanoseconds == run.core_nanoseconds
    with simulator.settings(memory_mb_s=1000):
        run = simulator.run_time("float16", 1, 1024, 1024)
        assert run.core_nanoseconds == pytest.approx(run.bytes)


def test_the_model_answers_for_many_products_as_for_one() -> None:
    m, n = np.meshgrid([1, 4, 100], [64, 8192])
    runs = simulator.run_times("int4", m, 1024, n, cores=2)
    assert runs.shape == (2, 3)
    for row in runs.ravel():
        one = simulator.run_time("int4", int(row["m"]), 1024, int(row["n"]), cores=2)
        assert one == tuple(row[name] for name in one._fields)


@pytest.mark.parametrize(
    "product",
    [
        ("int8", 0, 32, 32),
        ("int8", 1, 33, 32),
        ("int8", 1, 32, 16),
        ("int4", 1, 32, 32),
        ("bfloat16", 1, 32, 32),
    ],
)
def test_the_model_refuses_what_no_context_could_run(product) -> None:
    with pytest.raises(ValueError, match=r"no type|no context"):
        simulator.run_time(*product)


@pytest.mark.parametrize("cores", [0, 4])
def test_the_model_knows_one_to_three_cores(cores) -> None:
    with pytest.raises(ValueError, match="cores"):
        simulator.run_time("int8", 4, 32, 32, cores=cores)


# ## The timeline


def replay(runs, memory, submit, task):
    """What the timeline must say, slowly: small steps of an obvious simulation."""
    queues: list[list[int]] = [[], [], []]
    for i in sorted(range(len(runs)), key=lambda i: (runs[i]["arrival"], i)):
        queues[runs[i]["core"]].append(i)
    previous = [-math.inf] * 3
    started: list[float | None] = [None] * 3
    left = [1.0] * 3
    starts, ends = [0.0] * len(runs), [0.0] * len(runs)
    now = 0.0
    while any(queues):
        events = []
        flowing = []
        for core in range(3):
            if not queues[core]:
                continue
            run = runs[queues[core][0]]
            if started[core] is None:
                start = max(run["arrival"] + submit, previous[core] + task)
                heapq.heappush(events, (start, core, "start"))
            elif now < started[core] + run["fixed"]:
                heapq.heappush(events, (started[core] + run["fixed"], core, "flow"))
            else:
                flowing.append((run["bytes"] / run["alone"], core))
        rest, speed = memory, {}
        for position, (wanted, core) in enumerate(sorted(flowing)):
            got = min(wanted, rest / (len(flowing) - position))
            run = runs[queues[core][0]]
            speed[core] = got / run["bytes"]
            rest -= got
            heapq.heappush(events, (now + left[core] / speed[core], core, "end"))
        then, core, event = heapq.heappop(events)
        for other in speed:
            left[other] -= (then - now) * speed[other]
        now = then
        if event == "start":
            started[core], left[core] = now, 1.0
            starts[queues[core][0]] = now
        elif event == "end":
            ends[queues[core].pop(0)] = previous[core] = now
            started[core] = None
    return starts, ends


def ask(runs, memory=MEMORY, submit=SUBMIT, task=TASK):
    column = {name: [run[name] for run in runs] for name in runs[0]}
    return simulator.timeline(
        column["core"],
        column["arrival"],
        alone=column["alone"],
        bytes=column["bytes"],
        fixed=column["fixed"],
        memory=memory,
        submit=submit,
        task=task,
    )


def a_run(core, arrival=0.0, alone=1e6, bytes=1e6, fixed=0.0):
    return {"core": core, "arrival": arrival, "alone": alone, "bytes": bytes, "fixed": fixed}


RUNS = st.lists(
    st.fixed_dictionaries(
        {
            "core": st.integers(0, 2),
            "arrival": st.integers(0, 5_000).map(float),
            "alone": st.integers(1, 2_000).map(float),
            "bytes": st.integers(1, 50_000).map(float),
            "fixed": st.sampled_from([0.0, 0.0, 30.0]),
        }
    ),
    min_size=1,
    max_size=12,
)


@given(RUNS)
def test_starts_and_ends_are_those_of_an_obvious_simulation(runs) -> None:
    starts, ends = ask(runs, submit=60.0, task=3.0)
    expected_starts, expected_ends = replay(runs, MEMORY, 60.0, 3.0)
    np.testing.assert_allclose(starts, expected_starts, rtol=1e-9)
    np.testing.assert_allclose(ends, expected_ends, rtol=1e-9)


@given(RUNS, st.randoms(use_true_random=False))
def test_the_order_in_which_arrivals_are_told_does_not_matter(runs, random) -> None:
    """A thread that woke late tells of a run that should have come before others that are known."""
    for i, run in enumerate(runs):
        run["arrival"] += i / 16  # no two at once: those go by the order
    shuffled = list(range(len(runs)))
    random.shuffle(shuffled)
    starts, ends = ask(runs)
    again_starts, again_ends = ask([runs[i] for i in shuffled])
    np.testing.assert_array_equal(again_starts, starts[shuffled])
    np.testing.assert_array_equal(again_ends, ends[shuffled])


@given(RUNS)
def test_no_run_is_faster_than_alone_and_the_memory_moves_no_more_than_it_can(runs) -> None:
    starts, ends = ask(runs)
    for run, start, end in zip(runs, starts, ends, strict=True):
        assert start >= run["arrival"] + SUBMIT
        assert end >= (start + run["fixed"] + run["alone"]) * (1 - 1e-12)
    moved = sum(run["bytes"] for run in runs)
    assert (ends.max() - starts.min()) * MEMORY >= moved * (1 - 1e-9)


def test_an_idle_core_starts_after_the_submit() -> None:
    starts, ends = ask([a_run(0, 1_000, fixed=9_000)])
    assert starts == [1_000 + SUBMIT]
    assert ends == [1_000 + SUBMIT + 9_000 + 1e6]


def test_a_queue_hides_the_submit() -> None:
    starts, ends = ask([a_run(1), a_run(1, 500_000), a_run(1, 3_000_000)])
    assert starts[1] == ends[0] + TASK
    assert starts[2] == 3_000_000 + SUBMIT
    late_starts, late_ends = ask([a_run(1), a_run(1, SUBMIT + 990_000)])
    assert late_starts[1] == SUBMIT + 990_000 + SUBMIT > late_ends[0] + TASK


def test_equal_streams_get_equal_shares() -> None:
    _, ends = ask([a_run(core, bytes=12e6) for core in range(3)])
    np.testing.assert_allclose(ends, SUBMIT + 36e6 / MEMORY)


def test_who_needs_less_than_its_share_is_not_slowed() -> None:
    # 2 GB/s alone, and two that want 20 each and get 11.
    _, ends = ask([a_run(0, bytes=2e6), a_run(1, bytes=20e6), a_run(2, bytes=20e6)])
    assert ends[0] == pytest.approx(SUBMIT + 1e6)
    first = 11e6  # of the bytes of each, while the first runs
    np.testing.assert_allclose(ends[1:], SUBMIT + 1e6 + (20e6 - first) / 12)


def test_a_later_arrival_slows_what_is_on() -> None:
    _, alone_ends = ask([a_run(0, bytes=20e6)])
    _, ends = ask([a_run(0, bytes=20e6), a_run(1, 500_000, bytes=20e6)])
    assert alone_ends[0] == pytest.approx(SUBMIT + 1e6)
    assert ends[0] == pytest.approx(SUBMIT + 0.5e6 + 10e6 / 12)


def test_any_core_is_the_one_that_starts_first() -> None:
    starts, _ = ask([a_run(0), a_run(1), a_run(-1), a_run(-1)])
    assert list(starts[:3]) == [SUBMIT] * 3
    assert starts[3] == SUBMIT + 1e6 + TASK


@pytest.mark.parametrize("wrong", [a_run(3), a_run(-2), a_run(0, -1.0), a_run(0, alone=0.0)])
def test_the_timeline_refuses_what_can_not_be(wrong) -> None:
    with pytest.raises(ValueError, match="core"):
        ask([wrong])


# ## Runs that take their time


def in_a_thread(work):
    """In a thread of its own, whose ideal clock is the wall clock at first."""
    result = []
    thread = threading.Thread(target=lambda: result.append(work()))
    thread.start()
    thread.join()
    return result[0]


def bound(lib, m, k, n, core=0):
    matmul = Matmul(lib, m, k, n, vendor.INT8_TO_INT32, vendor.NATIVE, vendor.NATIVE)
    assert lib.rknn_matmul_set_core_mask(matmul.ctx, 1 << core) == 0
    matmul.bind()
    return matmul


def test_runs_keep_their_cores_busy_for_the_modelled_time(lib) -> None:
    run = simulator.run_time("int8", 32, 256, 512)
    for core in range(3):
        with bound(lib, 32, 256, 512, core) as matmul:
            simulator.set("clock", "target")
            simulator.reset_counters()
            for _ in range(4):
                assert matmul.run() == 0
            counters = simulator.counters()
            simulator.set("clock", "off")
        busy = [counters[f"busy_ns_core_{i}"] for i in range(3)]
        assert busy.pop(core) == pytest.approx(4 * run.core_nanoseconds, abs=8)
        assert busy == [0, 0]
        assert counters["streamed_bytes"] == 4 * run.bytes
        assert counters["runs"] == 4


def test_without_the_clock_nothing_is_counted(lib) -> None:
    with bound(lib, 4, 32, 32) as matmul:
        matmul.run()
    counters = simulator.counters()
    assert counters["busy_ns_core_0"] == counters["streamed_bytes"] == counters["host_ns"] == 0


def test_syncs_binds_and_creates_cost_what_the_constants_say(lib) -> None:
    simulator.set("clock", "target")
    with Matmul(lib, 64, 1024, 1024, vendor.INT8_TO_INT32, vendor.NATIVE, vendor.NATIVE) as matmul:
        assert simulator.counters()["host_ns"] == 2_600_000
        simulator.reset_counters()
        matmul.bind()
        assert simulator.counters()["host_ns"] == 3 * 5_000
        simulator.reset_counters()
        matmul.sync("A", vendor.TO_DEVICE)
        matmul.sync("C", vendor.FROM_DEVICE)
        expected = 2 * 1_100 + (64 * 1024 + 64 * 1024 * 4) / 10.6
        assert simulator.counters()["host_ns"] == pytest.approx(expected, abs=2)
        with simulator.settings(sync_ns=0, sync_mb_s=1_000_000, bind_ns=7):
            simulator.reset_counters()
            matmul.bind("A")
            matmul.sync("A", vendor.TO_DEVICE)
        assert simulator.counters()["host_ns"] == 7 + 65


def test_refused_calls_cost_nothing(lib) -> None:
    simulator.set("clock", "target")
    simulator.set("log", 0)
    with pytest.raises(OSError, match="create"):
        Matmul(lib, 1, 33, 32, vendor.INT8_TO_INT32)
    with bound(lib, 4, 32, 32) as matmul:
        simulator.reset_counters()
        with simulator.fault("bind_failure"), pytest.raises(OSError, match="set_io_mem"):
            matmul.bind("A")
        with simulator.fault("sync_failure"), pytest.raises(OSError, match="sync"):
            matmul.sync("A", vendor.TO_DEVICE)
        with simulator.fault("submit_failure"):
            assert matmul.run() == vendor.FAIL
    counters = simulator.counters()
    assert counters["host_ns"] == counters["busy_ns_core_0"] == 0


def test_a_timed_run_does_not_end_before_its_time(lib) -> None:
    with bound(lib, 4, 64, 64) as matmul:
        simulator.set("clock", "target")
        simulator.set("submit_ns", 3_000_000)

        def three() -> float:
            begun = time.perf_counter()
            for _ in range(3):
                matmul.run()
            return time.perf_counter() - begun

        elapsed = in_a_thread(three)
    assert elapsed >= 3 * 3e-3


def test_debts_of_a_thread_are_paid_by_its_next_run(lib) -> None:
    with bound(lib, 4, 64, 64) as matmul:
        simulator.set("clock", "target")
        simulator.set("bind_ns", 45_000)  # too short to be slept off by itself

        def bind_and_run() -> float:
            begun = time.perf_counter()
            for _ in range(20):
                matmul.bind("A")
                matmul.run()
            return time.perf_counter() - begun

        elapsed = in_a_thread(bind_and_run)
    assert elapsed >= 20 * (45e-6 + 60e-6)


def test_debts_of_a_thread_are_slept_off_before_they_are_long(lib) -> None:
    with bound(lib, 4, 64, 64) as matmul:
        simulator.set("clock", "target")
        simulator.set("bind_ns", 45_000)

        def bind() -> float:
            begun = time.perf_counter()
            for _ in range(40):
                matmul.bind("A")
            return time.perf_counter() - begun

        elapsed = in_a_thread(bind)
    assert elapsed >= 40 * 45e-6 - 200e-6


def test_a_run_that_takes_its_time_takes_no_cpu(lib) -> None:
    with bound(lib, 4, 64, 64) as matmul:
        simulator.set("clock", "target")
        simulator.set("submit_ns", 200_000_000)

        def cpu_seconds() -> float:
            begun = time.thread_time()
            matmul.run()
            return time.thread_time() - begun

        assert in_a_thread(cpu_seconds) < 0.05


def test_runs_on_three_cores_are_on_at_the_same_time(lib) -> None:
    simulator.set("clock", "target")
    simulator.set("submit_ns", 20_000_000)
    matmuls = [bound(lib, 4, 64, 64, core) for core in range(3)]
    simulator.reset_counters()
    threads = [threading.Thread(target=matmul.run) for matmul in matmuls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert simulator.counters()["runs_at_once_peak"] == 3
    for matmul in matmuls:
        matmul.__exit__(None, None, None)


# ## Without computing


@pytest.mark.parametrize("layout", [vendor.NORMAL, vendor.NATIVE])
@pytest.mark.parametrize("kind", [*vendor.DTYPES])
def test_without_computing_c_is_ones_at_first(lib, kind, layout) -> None:
    simulator.set("compute", 0)
    with Matmul(lib, 4, 32, 64, kind, vendor.NATIVE, layout) as matmul:
        matmul.bind()
        assert matmul.run() == 0
        np.testing.assert_array_equal(matmul.read_c(), np.ones((4, 64)))


def test_without_computing_c_is_filled_once(lib) -> None:
    simulator.set("compute", 0)
    with bound(lib, 4, 32, 64) as matmul:
        matmul.run()
        c = vendor.bytes_of(matmul.mems["C"])
        c[16:32] = 7  # the simulator looks at three places, and leaves what it has filled
        matmul.run()
        assert (c[16:32] == 7).all()
    assert simulator.counters()["runs"] == 2


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_npublas_accepts_what_it_gets_without_computing(precision) -> None:
    npublas.set_config(runtime="simulator")
    rng = np.random.default_rng(0)
    a = rng.standard_normal((40, 96)).astype(np.float32)
    b = rng.standard_normal((96, 64)).astype(np.float32)
    computed = npublas.matmul(a, b, precision=precision, device="npu")
    np.testing.assert_allclose(computed, a @ b, atol=0.5)
    with simulator.settings(compute=0):
        npublas.matmul(a[:, ::-1], b, precision=precision, device="npu")
        npublas.matmul(a.T, b[:40], precision=precision, device="npu")  # in memory of its own


# ## The table of the documentation


def measured_rows():
    page = (ROOT / "docs/simulator.md").read_text()
    (table,) = re.findall(r"^\| source \|.*\n\|---.*\n((?:\|.*\n)+)", page, re.M)
    for line in table.splitlines():
        source, shape, kind, layout, cores, *numbers = [
            cell.strip() for cell in line.split("|")[1:-1]
        ]
        yield source, tuple(map(int, shape.split("×"))), kind, layout, int(cores), numbers


def test_the_table_of_measurements_says_what_the_model_says() -> None:
    simulator.set("clock", "target")
    for source, (m, k, n), kind, layout, cores, (measured, modelled, ratio) in measured_rows():
        step = {"float16": 16, "int8": 32, "int4": 64}[kind]
        columns = -(-n // cores // step) * step  # a core's part
        run = simulator.run_time(kind, m, k, columns, native=layout == "native", cores=cores)
        expected = run.nanoseconds / 1e6
        assert modelled == f"{expected:.3f}", (source, m, k, n, kind, layout)
        assert ratio == f"{expected / float(measured):.2f}", (source, m, k, n, kind, layout)


def test_the_vendors_native_products_are_met_within_15_percent() -> None:
    rows = [row for row in measured_rows() if row[0] == "matmul API"]
    assert [row[1:4] for row in rows] == [
        ((128, 1024, 8192), "float16", "native"),
        ((128, 1024, 8192), "int8", "native"),
        ((128, 1024, 8192), "int4", "native"),
        ((1, 4096, 4096), "float16", "native"),
    ]
    for _, (m, k, n), kind, _, _, (measured, *_) in rows:
        simulator.set("clock", "target")
        modelled = simulator.run_time(kind, m, k, n).nanoseconds / 1e6
        assert 0.85 <= modelled / float(measured) <= 1.15
