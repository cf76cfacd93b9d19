"""How near plans come to what the chip could do at best: bounds, plans and replays side by side.

    python benchmarks/bound.py                     all shapes, types and profiles (minutes)
    python benchmarks/bound.py --shape 512 4096 4096 --method float16 --wide

Everything here is *simulated*: rates are those of published measurements (`_core.rates`), and no
board took part. For each product:

device      the least device time of all legal tiles, with a host that costs nothing: every height
            (multiples of 32) and width (of 32), every K tile (of 128), both layouts of A and C, the
            runs shared out among three cores that share one memory
host        the least that a host must move (every operand read and packed once, one surface of
            sums read, the result written), by the rate of the host
bound       the larger of the two, which no plan can beat; none can reach it either, where device
            and host need different tiles, or the memory can't feed both
least       the same with what goes together: the least, over all tiles, of the larger of device
            time, host time with the sums of all K tiles, and all bytes through one memory
plan        the device time of the plan that npublas chooses
replay      of that plan, in simulated time, without the cost of the call
wide        the shortest replay of a wide grid of tiles, with K tiles and weights as npublas has
            them: what a better planner could gain

The formulas are a reading of their own of how the runtime cuts a product for the on-chip buffer;
`--check` compares them with the core's.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npublas import _core

Array = npt.NDArray[np.float64]
Rates = dict[str, Any]

BANKS, BANK_BYTES, BANK_ENTRIES, RESIDENT_BANKS = 12, 32768, 512, 8
MAX_ROWS, MAX_COLUMNS, MAX_DEPTH = 2044, 8192, 8192
CORES = 3
ELEMENT = {"integers": "int8", "float16": "float16", "float32": "float16"}
BYTES = {"int8": 1, "float16": 2}
GROUP = {"int8": 32, "float16": 16}
SOURCE = {"integers": (1, 1, 4), "float16": (4, 4, 4), "float32": (4, 4, 4)}

SHAPES = [
    (128, 1024, 1024),
    (512, 1024, 1024),
    (128, 4096, 4096),
    (512, 4096, 4096),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (4096, 4096, 4096),
    (512, 4096, 11008),
    (1000, 3000, 1111),
    (1500, 384, 384),
    (1500, 384, 1536),
    (1500, 1536, 384),
    (1, 4096, 4096),
    (16, 4096, 4096),
]


def up(a: Any, b: Any) -> Any:
    return -(-a // b)


def cut(element: str, normal: bool, rows: Any, depth: int, columns: Any) -> tuple[Any, Any]:
    """Tasks of a run, and how many times it streams B; arrays that broadcast."""
    row_bytes = depth * BYTES[element]
    chunks = row_bytes // 16
    piece = 8160
    tasks: Any = 0
    passes: Any = 0
    for first in range(0, int(np.max(columns)), piece):
        width = np.clip(columns - first, 0, piece)
        if normal:
            entries = chunks // 4 + (chunks % 4 > 0)
            whole = up(width * row_bytes, BANK_BYTES)
            weights = up(np.minimum(2 * GROUP[element], width) * row_bytes, BANK_BYTES)
            weights = np.where(
                weights > BANKS - 1, up(GROUP[element] * row_bytes, BANK_BYTES), weights
            )
            one = up(rows * entries, BANK_ENTRIES) <= BANKS - weights
            stays = whole <= RESIDENT_BANKS
            weights = np.where(stays, np.maximum(whole, weights), weights)
            fit = (BANKS - weights) * BANK_ENTRIES // entries
        else:
            rest = chunks % 4
            entries = chunks // 4 * rows + (rows if rest == 3 else up(rest * rows, 4))
            banks = BANKS - max(RESIDENT_BANKS, up(GROUP[element] * row_bytes, BANK_BYTES))
            one = up(entries, BANK_ENTRIES) <= banks
            stays = np.bool_(False)
            fit = np.full_like(rows, banks * BANK_BYTES // row_bytes)
            exact = banks * BANK_BYTES % row_bytes == 0
            fit = np.where(rows % fit != 0, fit - 2, fit) if exact else fit // 2 * 2
        these = np.where(one, 1, up(rows, np.maximum(fit, 1))) * (width > 0)
        tasks = tasks + these
        passes = passes + np.where(stays | one, 1, these) * width / columns
    return tasks, passes


def factor_of(c_row_bytes: Any) -> Any:
    """What writing row-major C costs, by the bytes of its rows."""
    return np.interp(c_row_bytes, [4096, 8192, 16384, 32768], [1.05, 1.2, 1.5, 2.15])


def run_seconds(
    element: str, normal: bool, rows: Any, depth: int, columns: Any, busy: Any, rates: Rates
) -> tuple[Any, Any]:
    """Time of a run beside so many others, and the bytes that it streams."""
    size = BYTES[element]
    tasks, passes = cut(element, normal, rows, depth, columns)
    read = size * depth * (columns * passes + rows * up(columns, 8160))
    written = 4.0 * rows * columns
    computing = rows * depth * columns / (rates["macs_per_second"][element] * rates["efficiency"])
    factor = np.where(rows > 1, factor_of(4 * columns), 1.0) if normal else 1.0
    streaming = np.maximum(read, written) / rates["core_bytes_per_second"]
    shared = (read + written) * busy / rates["memory_bytes_per_second"]
    gaps = (tasks - 1) * rates["queued_seconds"]
    return gaps + factor * np.maximum(np.maximum(computing, streaming), shared), read + written


@dataclass
class Bound:
    device: float
    device_tiles: str
    least: float
    least_tiles: str


def heights(m: int) -> npt.NDArray[np.int64]:
    if m == 1:
        return np.array([1])
    most = min(up(m, 4) * 4, MAX_ROWS)
    return np.unique(np.append(np.arange(32, most + 1, 32), most))


def bound(m: int, k: int, n: int, method: str, b_is_packed: bool, rates: Rates) -> Bound:
    """The least over the whole grid."""
    element = ELEMENT[method]
    size, split = BYTES[element], method == "float32"
    rows = heights(m)[:, None]
    columns = np.arange(32, min(up(n, 32) * 32, MAX_COLUMNS) + 1, 32)[None, :]
    best = Bound(np.inf, "", np.inf, "")
    least_depths = {min(depth, up(k, 32) * 32) for depth in range(128, MAX_DEPTH + 1, 128)}
    a_source, b_source, out = SOURCE[method]
    for depth, normal in itertools.product(sorted(least_depths), (True, False)):
        high = 2 if split and normal else 1
        legal = high * rows <= MAX_ROWS
        steps = up(m, rows) * up(k, depth) * up(n, columns)
        if not split:
            runs = [rows]
        elif normal:
            runs = [2 * rows, rows]
        else:
            runs = [rows, rows, rows]

        def of_step(busy: Any, runs: Any = runs, depth: int = depth, normal: bool = normal) -> Any:
            each = [run_seconds(element, normal, r, depth, columns, busy, rates) for r in runs]
            return sum(t + rates["queued_seconds"] for t, _ in each), sum(b for _, b in each)

        all_busy, streamed = of_step(CORES)
        left = steps % CORES
        last = np.where(left > 0, of_step(np.maximum(left, 1))[0], 0)
        device = rates["submit_seconds"] + steps // CORES * all_busy + last
        device = np.where(legal, device, np.inf)
        depths = up(k, depth)
        sums = 12 if split else 4
        host_bytes = m * k * (a_source + size * (1 + split)) + m * n * (sums * depths + out)
        if not b_is_packed:
            host_bytes += k * n * (b_source + size * (1 + split))
        host = host_bytes / rates["pack_bytes_per_second_all"]
        memory = (streamed * steps + host_bytes) / rates["dram_bytes_per_second"]
        least = np.maximum(np.maximum(device, host), memory)
        for times, name in ((device, "device"), (least, "least")):
            at = np.unravel_index(np.argmin(times), times.shape)
            if times[at] < getattr(best, name):
                setattr(best, name, float(times[at]))
                tiles = f"{rows[at[0], 0]}x{depth}x{columns[0, at[1]]} "
                setattr(best, name + "_tiles", tiles + ("normal" if normal else "native"))
    return best


def compulsory(m: int, k: int, n: int, method: str, b_is_packed: bool) -> int:
    size, split = BYTES[ELEMENT[method]], method == "float32"
    a, b, out = SOURCE[method]
    packed = size * (1 + split)
    moved = m * k * (a + packed) + m * n * ((12 if split else 4) + out)
    return moved if b_is_packed else moved + k * n * (b + packed)


def arguments(
    m: int, k: int, n: int, method: str, b_is_packed: bool, rates: Rates
) -> dict[str, Any]:
    """Of the core's planner, for the product."""
    packed = None
    if b_is_packed:
        depth = _core.plan(1, m, k, n, method)["tile"][1]
        packed = (depth, _core.columns_of_weights(1, n, method))
    return {
        "batch": 1, "m": m, "k": k, "n": n, "method": method, "packed": packed,
        "source_bytes": SOURCE[method], "rates": rates,
    }  # fmt: skip


def wide_grid(asked: dict[str, Any]) -> Iterator[tuple[str, int, int, int, int]]:
    """Many more tiles than the planner tries."""
    m, n, packed = asked["m"], asked["n"], asked["packed"]
    depth = _core.plan(**asked)["tile"][1]
    rows = {
        min(r, up(m, 4) * 4) if m > 1 else 1 for r in (*range(32, 385, 16), 512, 768, 1024, 2044)
    }
    if packed:
        widths = {packed[1]}
    else:
        wanted = {up(up(n, parts), 32) * 32 for parts in range(1, 26)}
        widths = {w for w in wanted | {256, 512, 768, 1024} if w <= max(2048, 32) and w >= 64}
    for layout, row, width in itertools.product(("normal", "native"), sorted(rows), sorted(widths)):
        down = up(m, row)
        for blocks in {1, 2, 3, down} if packed is None else {down}:
            if blocks <= down:
                yield layout, row, depth, width, blocks


def best_of(
    asked: dict[str, Any], grid: Iterator[tuple[str, int, int, int, int]]
) -> tuple[float, str]:
    best, named = np.inf, ""
    for tiles in grid:
        replayed = _core.replay(**asked, tiles=tiles)
        if replayed and replayed["seconds"] < best:
            best, named = replayed["seconds"], "{1}x{2}x{3} {0}, {4} row blocks".format(*tiles)
    return best, named


def check(rates: Rates) -> int:
    """Compare the formulas with the core's, over random runs."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(5000):
        element = str(random.choice(list(BYTES)))
        layout = str(random.choice(["normal", "native"]))
        rows = int(random.integers(1, 512)) * 4
        depth, columns = int(random.integers(1, 256)) * 32, int(random.integers(1, 257)) * 32
        theirs = _core.run_of(element, layout, rows, depth, columns, CORES)
        mine, _ = run_seconds(
            element, layout == "normal", np.array(rows), depth, np.array(columns), CORES, rates
        )
        if abs(mine / theirs["seconds"] - 1) > 1e-9:
            wrong += 1
            print(element, layout, rows, depth, columns, float(mine), theirs)
    print(f"{wrong} of 5000 runs take another time by the core's formulas")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs=3, type=int, action="append", metavar=("M", "K", "N"))
    parser.add_argument("--method", action="append", choices=list(SOURCE))
    parser.add_argument("--profile", action="append", choices=["first", "target", "stretch"])
    parser.add_argument("--b", action="append", choices=["packed", "fresh"])
    parser.add_argument("--hosts", nargs="+", type=float, default=[8, 14], help="GB/s")
    parser.add_argument("--wide", action="store_true", help="also the best of a wide grid (slow)")
    parser.add_argument("--check", action="store_true", help="compare the formulas, and no more")
    options = parser.parse_args()
    if options.check:
        return 1 if check(_core.rates("target")) else 0

    print(
        f"{'M x K x N':>16} {'method':8} {'B':6} {'profile':7} {'host':>4} | "
        f"{'device':>8} {'host':>8} {'bound':>8} {'least':>8} | {'plan':>8} {'replay':>8} "
        f"{'/bound':>6} {'/least':>6}  tiles (ms, simulated)"
    )
    for method, b, (m, k, n), profile, host in itertools.product(
        options.method or list(SOURCE),
        options.b or ["packed", "fresh"],
        options.shape or SHAPES,
        options.profile or ["target", "stretch"],
        options.hosts,
    ):
        rates = _core.rates(profile) | {
            "call_seconds": 0.0,
            "pack_bytes_per_second": host * 0.5e9,
            "pack_bytes_per_second_all": host * 1e9,
        }
        packed = b == "packed"
        least = bound(m, k, n, method, packed, rates)
        moving = compulsory(m, k, n, method, packed) / rates["pack_bytes_per_second_all"]
        both = max(least.device, moving)
        asked = arguments(m, k, n, method, packed, rates)
        plan, replayed = _core.plan(**asked), _core.replay(**asked)
        device = plan["estimate"]["device"] + rates["submit_seconds"]
        seconds = replayed["seconds"]
        print(
            f"{f'{m} x {k} x {n}':>16} {method:8} {b:6} {profile:7} {host:4.0f} | "
            f"{least.device * 1e3:8.3f} {moving * 1e3:8.3f} {both * 1e3:8.3f} "
            f"{least.least * 1e3:8.3f} | {device * 1e3:8.3f} {seconds * 1e3:8.3f} "
            f"{seconds / both:6.2f} {seconds / least.least:6.2f}  "
            + "{}x{}x{} ".format(*plan["tile"])
            + plan["layout"],
            flush=True,
        )
        if options.wide:
            best, tiles = best_of(asked, wide_grid(asked))
            print(f"{'':>46} wide: {best * 1e3:.3f} ms, {seconds / best:.3f}, {tiles}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
