"""Seconds of calls, for what stands beside a benchmark's own figure."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter, perf_counter_ns


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = perf_counter()
    call()
    return perf_counter() - start


def fastest(call: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of some calls."""
    return min(seconds(call) for _ in range(rounds))


def nanoseconds(call: Callable[[], object], calls: int) -> float:
    """Of each of many calls."""
    start = perf_counter_ns()
    for _ in range(calls):
        call()
    return (perf_counter_ns() - start) / calls


def difference(
    one: Callable[[], object], other: Callable[[], object], calls: int, pairs: int = 401
) -> tuple[float, float]:
    """How many nanoseconds a call of `one` takes more than one of `other`, and what this takes.

    The medians of many pairs, some calls of the one and as many of the other in turns, because the
    machine's mood changes faster than a call takes.
    """
    differences, others = [], []
    for pair in range(pairs):
        order = (one, other) if pair % 2 else (other, one)
        times = {id(call): nanoseconds(call, calls) for call in order}
        differences.append(times[id(one)] - times[id(other)])
        others.append(times[id(other)])
    return round(median(differences), 1), round(median(others), 1)
