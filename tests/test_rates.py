"""Rates from measurements: an ideal machine's are found back, and what is odd does no harm."""

from __future__ import annotations

from statistics import median

import pytest

from npublas import _core, _measuring, _rates
from npublas._rates import Call, Cpu, Handoff, Host, Product, Run

START = _core.rates("target")
BITS = {"int8": (8, 32), "float16": (16, 32), "int4": (4, 16)}

# What docs/simulator.md says of the clock's profiles: share of the MACs, GB/s of a core and of all,
# seconds of a submission and of a run that waited.
CLOCKS = {
    "first": (0.88, 8.7e9, 15e9, 100e-6, 8.7e-6),
    "target": (0.95, 12.8e9, 24e9, 60e-6, 3e-6),
    "stretch": (0.95, 12.8e9, 28e9, 30e-6, 1.3e-6),
}


class Ideal:
    """Runs as the clock's model has them: B and A are read while C is written."""

    def __init__(self, efficiency, core, memory, submit, task, normal=1.05):
        self.efficiency, self.core, self.memory = efficiency, core, memory
        self.submit, self.task, self.normal = submit, task, normal

    def run(self, what, element, shape, cores=(0,), in_flight=1, native=True):
        m, k, n = shape
        operand, result = (bits / 8 for bits in BITS[element])
        macs_per_second = (
            self.efficiency * {"int8": 1024e9, "float16": 512e9, "int4": 2048e9}[element]
        )
        read, written = operand * (m * k + k * n), result * m * n
        factor = 1 if native else self.normal
        time = factor * max(
            m * k * n / macs_per_second,
            read / self.core,
            written / self.core,
            len(cores) * (read + written) / self.memory,
        )
        alone = self.submit + time
        period = time + self.task if in_flight > 1 else alone
        return Run(
            what, element, shape, cores, in_flight, native,
            seconds=in_flight * period, period=period,
        )  # fmt: skip

    def records(self):
        yield self.run("submit", "int8", _measuring._TINY)
        for in_flight in (1, 2):
            yield self.run("queue", "int8", _measuring._QUEUE, in_flight=in_flight)
        for cores in ((0,), (1,), (2,), (0, 1, 2)):
            yield self.run("stream", "int8", _measuring._STREAM, cores, in_flight=2)
            for element, shape in _measuring._MACS.items():
                yield self.run("macs", element, shape, cores, in_flight=2)
        for native in (True, False):
            yield self.run("layout", "int8", _measuring._LAYOUT, in_flight=2, native=native)


@pytest.mark.parametrize("profile", CLOCKS)
def test_the_constants_of_the_simulators_clock_are_found_back(profile):
    efficiency, core, memory, submit, task = CLOCKS[profile]
    rates = _rates.fit(Ideal(*CLOCKS[profile]).records(), START)
    assert rates["submit_seconds"] == pytest.approx(submit, rel=0.01)
    assert rates["queued_seconds"] == pytest.approx(task, rel=0.1)
    # A run with four rows of A reads B, and next to nothing else.
    assert rates["core_bytes_per_second"] == pytest.approx(core, rel=0.02)
    assert rates["memory_bytes_per_second"] == pytest.approx(memory, rel=0.02)
    for element, peak in (("int8", 1.024e12), ("float16", 0.512e12), ("int4", 2.048e12)):
        reached = rates["macs_per_second"][element] * START["efficiency"]
        assert reached == pytest.approx(peak * efficiency, rel=0.02)
    assert rates["normal_factor"] == pytest.approx(1.05, rel=0.01)


def test_the_shapes_measure_what_they_are_for():
    """MACs are the bottleneck where the MACs are measured, and B where memory is."""
    for clock in CLOCKS.values():
        half = Ideal(clock[0] / 2, *clock[1:])
        for element, shape in _measuring._MACS.items():
            fast, slow = (
                x.run("", element, shape, in_flight=2).period for x in (Ideal(*clock), half)
            )
            assert slow == pytest.approx(2 * fast, rel=0.03)
        fast, slow = (x.run("", "int8", _measuring._STREAM).seconds for x in (Ideal(*clock), half))
        assert slow == fast


def test_outliers_of_a_core_are_outvoted():
    records = list(Ideal(*CLOCKS["target"]).records())
    odd = [
        Run(r.what, r.element, r.shape, r.cores, r.in_flight, r.native, 9 * r.seconds, 9 * r.period)
        if r.cores == (1,) else r
        for r in records
    ]  # fmt: skip
    assert _rates.fit(odd, START) == _rates.fit(records, START)


def test_a_type_that_was_not_measured_follows_the_others():
    records = [r for r in Ideal(0.475, *CLOCKS["target"][1:]).records() if r.element != "int4"]
    peaks = _rates.fit(records, START)["macs_per_second"]
    assert peaks["int4"] == pytest.approx(START["macs_per_second"]["int4"] / 2, rel=0.02)


def test_a_queue_that_hides_nothing_is_no_negative_time():
    records = [
        Run("submit", "int8", (4, 32, 32), (0,), 1, True, 1e-3, 1e-3),
        Run("queue", "int8", (4, 2048, 2048), (0,), 1, True, 2e-3, 2e-3),
        Run("queue", "int8", (4, 2048, 2048), (0,), 2, True, 1e-3, 0.5e-3),
    ]
    assert _rates.fit(records, START)["queued_seconds"] == 0


def test_nothing_is_told_of_what_was_not_measured():
    assert _rates.fit([], START) == {}
    assert _rates.fit([Cpu((512, 512, 512), 0, 1e-3)], START).keys() == {"cpu_flops"}


def test_the_cpu_is_never_made_slower_than_it_was_seen():
    records = [Cpu((n, n, n), t, s) for n, t, s in ((256, 0, 1e-3), (512, 1, 1e-3), (1024, 0, 1))]
    rates = _rates.fit([*records, Cpu((1, 100, 100), 0, 1e-6), Cpu((1, 100, 100), 1, 1e-3)], START)
    assert rates["cpu_flops"] == 2 * 512**3 / 1e-3
    assert rates["cpu_bytes_per_second"] == pytest.approx(4 * 10200 / 1e-6)


def test_packing_is_the_mean_of_its_times():
    records = [Host("pack_b", 1, 2e9), Host("unpack_c", 1, 6e9), Host("pack_b", 4, 8e9)]
    rates = _rates.fit(records, START)
    assert rates["pack_bytes_per_second"] == pytest.approx(3e9)
    assert rates["pack_bytes_per_second_all"] == 8e9
    assert rates["threads"] == 4


def test_more_threads_that_pack_less_are_not_what_is_gone_by():
    rates = _rates.fit([Host("pack_b", 1, 5e9), Host("pack_b", 2, 4e9)], START)
    assert rates["pack_bytes_per_second_all"] == 5e9


def test_handing_work_to_a_thread_takes_what_it_was_seen_to_take():
    records = [Handoff(s) for s in (8e-6, 9e-6, 1e-3)]
    assert _rates.fit(records, START) == {"handoff_seconds": 9e-6}
    assert 1e-7 < _core.measure_handoff(0.01) < 1


def test_a_call_is_what_is_left_of_it_without_its_run():
    calls = [Call(s, 60e-6) for s in (100e-6, 110e-6, 5e-3)]
    assert _rates.fit(calls, START) == {"call_seconds": pytest.approx(50e-6)}
    assert _rates.fit([Call(50e-6, 60e-6)], START)["call_seconds"] == 1e-6


@pytest.mark.parametrize(
    ("ratios", "slack"),
    [
        ([1.0], 1.0),
        ([0.3, 0.5], 1.0),
        ([2.0], 2.0),
        ([1, 2, 3, 4], 3),
        ([1, 1, 1, 50], 1),
        ([1e9], 100),
    ],
)
def test_slack_covers_three_quarters_of_the_products(ratios, slack):
    records = [Product("", ratio * 1e-3, 1e-3) for ratio in ratios]
    assert _rates.fit(records, START) == {"slack": slack}
    assert sum(ratio <= slack for ratio in ratios) >= 0.75 * len(ratios) or slack == 100


def test_waking_up_is_what_a_pause_costs():
    def run(what, seconds):
        return Run(what, "int8", (4, 32, 32), (0,), 1, True, seconds, seconds)

    assert _rates.wake_seconds([run("submit", 1e-4), run("wake", 3e-4)]) == pytest.approx(2e-4)
    assert _rates.wake_seconds([run("submit", 1e-4), run("wake", 0.5e-4)]) == 0
    assert _rates.wake_seconds([run("submit", 1e-4)]) == 0


def test_the_records_of_a_measurement_are_medians_of_what_is_real():
    seconds, _ = _core.measure_runs(
        "simulator",
        "",
        20000,
        element="int8",
        shape=(4, 32, 32),
        cores=(0, 1),
        in_flight=2,
        times=5,
    )
    assert len(seconds) == 4 * 5 and median(seconds) > 0
