"""`npublas bench`: how fast is it here, beside NumPy on the CPU and under the roof?

on the NPU if there is one, else on the simulator and its clock, which is said first
a table, shape by shape; the same as JSON, and as charts if matplotlib is there
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import npublas
from npublas import _charts, _report, _roof
from npublas._table import si
from npublas.cli import _bench_cases, _demo
from npublas.cli._bench_cases import Case, Result
from npublas.cli._failure import Failure
from npublas.cli._terminal import progress, say, table, wrap

SECONDS, QUICK_SECONDS = 0.3, 0.05  # of each case
_MOST_BARS = 40


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    quick: bool = False
    shapes: str | None = None
    dtypes: str = ",".join(_bench_cases.DTYPES)
    precisions: str = ",".join(_bench_cases.PRECISIONS)
    output: Path = Path("npublas-bench")
    report: Path | None = None


def run(options: Options) -> int:
    """Prints the table and writes the files. 0 if every answer is right."""
    shapes = _bench_cases.read_shapes(
        options.shapes
        if options.shapes is not None
        else (_bench_cases.QUICK if options.quick else _bench_cases.SHAPES)
    )
    dtypes = _bench_cases.read_names(options.dtypes, _bench_cases.DTYPES, "dtype")
    precisions = _bench_cases.read_names(options.precisions, _bench_cases.PRECISIONS, "precision")
    _check_writable(options)
    _bench_cases.check_memory(shapes)
    _demo.choose_device()
    say("", *sources_page())
    found = list(_bench_cases.cases(shapes, dtypes, precisions))
    results = measure(found, QUICK_SECONDS if options.quick else SECONDS)
    say("", *results_page(results))
    say("", *write_files(results, options.output))
    if options.report:
        from npublas.cli import _bench_report

        say("", *_bench_report.write(results, options.report))
    wrong = [result for result in results if not result.right]
    if wrong:
        say("", *(f"WRONG: {r.kind} {r.size}: off by {r.error:.1e} of |A||B|" for r in wrong))
    return 1 if wrong else 0


def _check_writable(options: Options) -> None:
    """Says at once what would be found out after minutes."""
    options.output.mkdir(parents=True, exist_ok=True)
    if options.report and not options.report.parent.is_dir():
        raise Failure(f"there is no folder {options.report.parent} for the report")
    if options.report and options.report.suffix.lower() != ".zip":
        raise Failure(f"{options.report}: a report is a .zip")


def sources() -> dict[str, str]:
    """Where the figures come from."""
    simulated = npublas.info().simulated
    return {
        "NPU": f"simulated: the clock of a model of the chip, profile {_bench_cases.PROFILE!r}"
        if simulated
        else "board-measured",
        "host": "host-measured on this machine: packing, unpacking, NumPy",
        "roof": "published: an RK3588's cores at 1 GHz, and 29 GB/s of memory",
    }


def sources_page() -> list[str]:
    """The same in lines."""
    return [line for name, what in sources().items() for line in wrap(f"{name}: {what}")]


def measure(cases: Sequence[Case], seconds: float) -> list[Result]:
    """All cases, with a bar on the terminal."""
    results: list[Result] = []
    with progress("products", len(cases)) as step:
        for shape, group in itertools.groupby(cases, lambda case: case.shape):
            before = _bench_cases.numpy_float32(shape, seconds)
            mine = []
            for case in group:
                mine.append(_bench_cases.measure(case, before, seconds))
                step()
            # Whoever disturbed it before may be gone, and the best is what is wanted.
            after = _bench_cases.numpy_float32(shape, seconds)
            numpy = min(before, after, key=lambda times: times.best)
            results += [
                replace(
                    result,
                    numpy_float32_seconds=numpy.median,
                    numpy_float32_best=numpy.best,
                )
                for result in mine
            ]
    return results


def results_page(results: Sequence[Result]) -> list[str]:
    """A line per case."""
    rows = [("M×K×N", "type", "B", "time", "GFLOP/s", "NumPy f32", "faster", "roof", "error")]
    size = ""
    for result in results:
        rows.append(
            (
                result.size if result.size != size else "",
                result.kind,
                "packed" if result.packed else "",
                si(result.seconds, "s"),
                f"{result.gflops:.3g}",
                si(result.numpy_float32_best, "s"),
                f"{result.speedup:.2g} x" if result.speedup < 10 else f"{result.speedup:.0f} x",
                f"{result.roof_share:.0%}",
                f"{result.error:.0e}" if result.error else "exact",
            )
        )
        size = result.size
    return [
        *table(rows, right=[3, 4, 5, 6, 7, 8]),
        "",
        *wrap(
            "time: the median of a call. NumPy f32: its float32 product on this machine's CPU, at "
            "its best. faster: time against that. roof: the least time for what the NPU did, as a "
            "share of the call's. error: the largest |C - AB| / |A||B|, against float64.",
            indent="",
        ),
        *(wrap(_report.SIMULATED, indent="") if npublas.info().simulated else []),
        *(wrap(disturbance(results), indent="") if disturbance(results) else []),
    ]


def disturbance(results: Sequence[Result]) -> str:
    """What to say if other programs have had their part in the figures."""
    count = sum(result.disturbed for result in results)
    if not count:
        return ""
    return (
        f"{count} of {len(results)} cases were disturbed: the median of the calls, or of NumPy's, "
        "is more than three times the best. Let the machine be idle, and measure again."
    )


def document(results: Sequence[Result]) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "npublas": npublas.__version__,
        "simulated": npublas.info().simulated,
        "sources": sources(),
        "results": [result.to_dict() for result in results],
    }


def charts(results: Sequence[Result]) -> dict[str, Any]:
    """The pictures by name."""
    cores = npublas.get_config().cores
    drawn = {}
    square = [r for r in results if r.shape[0] == 1 and len(set(r.shape[1:])) == 1]
    if square:
        speed: dict[str, list[tuple[float, float]]] = {}
        for r in square:
            speed.setdefault(_series(r), []).append((r.shape[1], r.gflops))
        cpu = {r.shape[1]: 2e-9 * r.shape[1] ** 3 / r.numpy_float32_best for r in square}
        speed[_charts.CPU] = sorted(cpu.items())
        roofs = []
        for element in sorted({r.plan["element"] for r in square}):
            name = f"roof of {element}"
            roofs.append(name)
            sides = sorted({r.shape[1] for r in square})
            speed[name] = [
                (n, 2e-9 * n**3 / _roof.seconds(element, (1, n, n, n), 2.0 * n**3, cores))
                for n in sides
            ]
        labels = ("M = K = N", "GFLOP/s")
        drawn["speed"] = _charts.lines(speed, labels, dashed=roofs)
        errors: dict[str, list[tuple[float, float]]] = {}
        for r in square:
            if r.error and not r.packed:
                errors.setdefault(r.kind, []).append((r.shape[1], r.error))
        if errors:
            drawn["error"] = _charts.lines(errors, (labels[0], "largest |C - AB| / |A||B|"))
    points: dict[str, list[_charts.Point]] = {}
    for r in results:
        flops = r.work["npu_flops"]
        intensity = flops / _roof.compulsory_bytes(r.plan["element"], r.shape)
        points.setdefault(_series(r), []).append(_charts.Point(intensity, flops / r.seconds))
    drawn["roofline"] = _charts.roofline(
        points, sorted({r.plan["element"] for r in results}), cores
    )
    bars = results if len(results) <= _MOST_BARS else [r for r in results if r.packed]
    drawn["shares"] = _charts.shares({f"{r.size} {_series(r)}": r.work for r in bars[:_MOST_BARS]})
    for chart in drawn.values():
        _charts.entitle(chart, title())
    return drawn


def title() -> str:
    """Of every chart: where its figures come from."""
    return f"npublas bench. NPU: {sources()['NPU']}. Host: measured on this machine."


def _series(result: Result) -> str:
    return result.kind + _charts.PACKED if result.packed else result.kind


def write_files(results: Sequence[Result], folder: Path) -> list[str]:
    """Writes JSON and charts; returns what to say of it."""
    data = folder / "bench.json"
    data.write_text(json.dumps(document(results), indent=1), encoding="utf-8")
    written = [str(data)]
    try:
        for name, chart in charts(results).items():
            for ending in ("png", "svg"):
                _charts.save(chart, folder / f"{name}.{ending}")
            written.append(str(folder / f"{name}.png, .svg"))
    except _charts.MissingCharts as error:
        return [f"Written: {data}", *wrap(f"No charts: {error}")]
    return ["Written:", *(f"  {name}" for name in written)]
