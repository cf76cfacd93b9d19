"""What calls take on the simulator's clock, beside what no plan can beat: the bound of bound.py.

    python benchmarks/wall_clock.py                     all shapes (some minutes)
    python benchmarks/wall_clock.py --shape 1 4096 4096 --calls 200
    python benchmarks/wall_clock.py --cores             three cores against one
    python benchmarks/wall_clock.py --memory            the most memory that a large product takes

*Simulated* device, real host: a run takes as long as the chip would by the model (computing is off,
after the same call was computed and checked by the same plan), while packing, unpacking, planning
and waiting are done here, and take what they take here. The host part of the bound is what has to
be moved at least, by the rate of packing and unpacking of these very calls. So a ratio says how
good scheduling is on this host; of a board it says nothing.

Plans are made as on a tuned machine: by the device's rates of the profile, and by what packing and
waking a thread take on this host, measured at the start. The last column is the replay of the plan
by the same rates.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import bound
import numpy as np

import npublas
from npublas import _core, _rates
from npublas._rates import Handoff, Host, Record
from npublas.testing import simulator

SHAPES = [
    (1, 4096, 4096),
    (16, 4096, 4096),
    (128, 1024, 1024),
    (128, 4096, 4096),
    (512, 4096, 4096),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (4096, 4096, 4096),
    (1500, 384, 384),
    (1500, 384, 1536),
    (1500, 1536, 384),
]
MOVING = ("pack_a", "pack_b", "unpack_c")
PRECISIONS = {"integers": "float32", "float16": "float16", "float32": "float32"}


def operands(m: int, k: int, n: int, method: str) -> tuple[Any, Any, Any, dict[str, Any]]:
    rng = np.random.default_rng(1)
    if method == "integers":
        a, b = (rng.integers(-99, 100, s, dtype=np.int8) for s in ((m, k), (k, n)))
        return a, b, np.empty((m, n), np.int32), {"dtype": np.int32}
    a, b = (rng.standard_normal(s, dtype=np.float32) for s in ((m, k), (k, n)))
    return a, b, np.empty((m, n), np.float32), {"precision": PRECISIONS[method]}


def is_right(got: Any, a: Any, b: Any, method: str) -> bool:
    """Of a few rows and columns, against NumPy in float64."""
    rows, columns = (np.unique(np.linspace(0, size - 1, 9, dtype=int)) for size in got.shape)
    x, w = a[rows].astype(np.float64), b[:, columns].astype(np.float64)
    unit = {"integers": 0.0, "float16": 2.0**-10, "float32": 10 * 2.0**-24}[method]
    return bool((np.abs(got[np.ix_(rows, columns)] - x @ w) <= unit * (abs(x) @ abs(w))).all())


def host_rates() -> dict[str, Any]:
    """What this host does, as `npublas tune` measures it."""
    threads = _core.host_threads(127, 0)
    records: list[Record] = [
        Host(work, count, _core.measure_host(work, count, 0.1))
        for count in sorted({1, threads})
        for work in MOVING
    ]
    records.append(Handoff(_core.measure_handoff(0.2)))
    return {
        **_rates.fit(records, _core.rates("target")),
        # The simulated chip's memory is not this host's.
        "dram_bytes_per_second": 1e12,
        "measured": True,
    }


def seconds_of(call: Callable[[], Any], calls: int, profile: str) -> list[float]:
    times = []
    with simulator.settings(clock=profile, compute=0):
        for _ in range(3):
            call()
        for _ in range(calls):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return sorted(times)


def measure(
    shape: tuple[int, int, int],
    method: str,
    b: str,
    profile: str,
    calls: int,
    here: dict[str, Any],
) -> str:
    m, k, n = shape
    _core.set_rates(profile, here)
    left, right, out, options = operands(m, k, n, method)
    weights = npublas.pack(right, precision=PRECISIONS[method]) if b == "packed" else right

    def call() -> Any:
        return npublas.matmul(left, weights, out=out, device="npu", **options)

    plan = npublas.explain(left, weights, device="npu", **options).plan
    call()
    if not is_right(out, left, right, method):
        raise SystemExit(f"{m} x {k} x {n} {method}: the answer is wrong")
    npublas.reset_counters()
    times = seconds_of(call, calls, profile)
    assert npublas.explain(left, weights, device="npu", **options).plan == plan
    work = npublas.counters().work
    moved = work["packed_bytes"] + work["unpacked_bytes"]
    rate = moved / max(work["pack_seconds"] + work["unpack_seconds"], 1e-9)
    rates = _core.rates(profile) | here
    device = bound.bound(m, k, n, method, b == "packed", rates).device
    # Bytes read and written, as the bound counts them; two threads of this host.
    host = bound.compulsory(m, k, n, method, b == "packed") / (2 * 2 * rate)
    least = max(device, host)
    asked = bound.arguments(m, k, n, method, b == "packed", rates)
    replayed = _core.replay(**asked)["seconds"] - rates["call_seconds"]
    median, p90 = statistics.median(times), times[int(0.9 * (len(times) - 1))]
    return (
        f"{f'{m} x {k} x {n}':>16} {method:8} {b:6} {profile:7} | {device * 1e3:8.3f} "
        f"{host * 1e3:8.3f} | {median * 1e3:8.3f} {p90 * 1e3:8.3f} | {median / least:5.2f} "
        f"{(median - least) * 1e6:+8.0f} {(p90 - least) * 1e6:+8.0f} | {replayed * 1e3:8.3f}"
    )


def three_cores(here: dict[str, Any]) -> None:
    """Against one, of products that the memory of the model can feed, B packed."""
    for method in PRECISIONS:
        times = {}
        for cores in (1, 3):
            npublas.set_config(cores=cores)
            left, right, out, options = operands(1536, 1024, 3072, method)
            weights = npublas.pack(right, precision=PRECISIONS[method])

            def call(x: Any = left, w: Any = weights, c: Any = out, o: Any = options) -> Any:
                return npublas.matmul(x, w, out=c, device="npu", **o)

            call()
            _core.set_rates("stretch", here)
            times[cores] = statistics.median(seconds_of(call, 15, "stretch"))
        print(f"1536 x 1024 x 3072 {method:8} one core / three: {times[1] / times[3]:.2f}")


def memory() -> None:
    """What the process grows by beyond operands, result and window, at the most."""
    npublas.set_config(memory_limit="256MiB")
    left, right, out, options = operands(4096, 4096, 4096, "float32")
    out[:] = 1
    npublas.matmul(left[:8], right, device="npu")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with simulator.settings(clock="target", compute=0):
        npublas.matmul(left, right, out=out, device="npu", **options)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"4096 x 4096 x 4096 float32: {grown:.0f} MiB more than operands and result; the window "
        f"had {npublas.memory_info().peak / 2**20:.0f} MiB at most, some of it before"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs=3, type=int, action="append", metavar=("M", "K", "N"))
    parser.add_argument("--method", action="append", choices=list(PRECISIONS))
    parser.add_argument("--profile", action="append", choices=["first", "target", "stretch"])
    parser.add_argument("--b", action="append", choices=["packed", "fresh"])
    parser.add_argument("--calls", type=int, help="of each; 50, and 200 for M = 1 and 16")
    parser.add_argument("--cores", action="store_true", help="three cores against one")
    parser.add_argument("--memory", action="store_true", help="the most memory")
    options = parser.parse_args()
    npublas.set_config(runtime="simulator", on_fallback="error")
    if options.memory:
        return memory()
    npublas.matmul(np.ones((4, 32), np.int8), np.ones((32, 32), np.int8), device="npu")
    here = host_rates()  # after the engine has opened, which sets rates
    one, both = (here[f"pack_bytes_per_second{which}"] / 1e9 for which in ("", "_all"))
    print(
        f"this host moves {one:.1f} GB/s with one thread and {both:.1f} with {here['threads']}, "
        f"and wakes one in {here['handoff_seconds'] * 1e6:.0f} us"
    )
    if options.cores:
        return three_cores(here)
    print(
        f"{'M x K x N':>16} {'method':8} {'B':6} {'profile':7} | {'device':>8} {'host':>8} | "
        f"{'median':>8} {'p90':>8} | {'ratio':>5} {'median':>8} {'p90':>8} | {'replay':>8}  "
        "(ms; ms; us above; ms)"
    )
    for profile in options.profile or ["target"]:
        for b in options.b or ["packed", "fresh"]:
            for method in options.method or list(PRECISIONS):
                for shape in options.shape or SHAPES:
                    print(
                        measure(tuple(shape), method, b, profile, options.calls, here), flush=True
                    )
    return None


if __name__ == "__main__":
    main()
