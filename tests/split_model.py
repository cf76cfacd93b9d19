"""The product of `precision="float32"` as a slow and obvious NumPy program: its specification.

    for each tile of K:                        at most 1024 deep
        scale rows of A and columns of B       by powers of two, into [2^14, 2^15)
        A = hi + lo / 2^12, B likewise         two halves for each element
        main  = hi_A · hi_B                    what the NPU computes, with its own roundings
        a_low = lo_A · hi_B
        b_low = hi_A · lo_B
        C     = float32(C + scaled back (main + (a_low + b_low) / 2^12))
    where the halves may have lost too much: recompute the element, or refuse the product

docs/precision.md derives from it what the result promises.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

U = 2.0**-24  # the unit roundoff of float32
GROUP = 32  # depths whose products the NPU sums exactly
DEEPEST = 1024  # of a tile
LOW = 2.0**12  # by which the low half is scaled up: it stays below 2^15
SMALLEST = 2.0**-14  # the smallest normal half
LARGE = 2.0**9  # elements of this magnitude count as large ones of their lane
COVERED = 2 * U  # of |A||B|: a loss that a tile may have at once
GOOD = 4 * U  # of |C|: a loss that the other tiles of an element may have in all
REPAIRED = 1 / 32  # of the elements may be recomputed
ALWAYS_REPAIRED = 16  # and so many of a small product

NOT_FINITE = "operands contain NaN or infinity"
OVERFLOW = "a sum left the range of float32"
TOO_WIDE = "magnitudes are too far apart"


def tiles(k: int) -> list[slice]:
    """The parts of K: equal ones, in whole groups."""
    depth = -(-k // -(-k // DEEPEST))
    depth = -(-depth // GROUP) * GROUP
    return [slice(start, min(start + depth, k)) for start in range(0, k, depth)]


def exponents(lanes: np.ndarray) -> np.ndarray:
    """The power of two that brings each row's largest magnitude into [2^14, 2^15)."""
    largest = np.abs(lanes).max(axis=1)
    return np.where(largest > 0, 15 - np.frexp(largest)[1], 0)


@dataclass
class Lanes:
    """Rows of A, or columns of B as rows, of one tile."""

    high: np.ndarray  # halves, in doubles: none of them is subnormal
    low: np.ndarray
    exponents: np.ndarray
    largest: np.ndarray  # loss of an element, of each lane
    total: np.ndarray  # loss of all its elements
    size: np.ndarray  # sum of the magnitudes
    top: np.ndarray  # largest magnitude
    large: np.ndarray  # how many magnitudes are at least LARGE


def normal_halves(x: np.ndarray) -> np.ndarray:
    """Rounds to the eleven bits of a half, ties to even, and to zero below its normal range."""
    fractions, shifts = np.frexp(x)
    rounded = np.ldexp(np.rint(fractions * 2**11) / 2**11, shifts)
    return np.where(np.abs(rounded) < SMALLEST, 0, rounded)


def losses(x: np.ndarray, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """What an element's halves lose beyond 2^-23 of it, times the partner's magnitude."""
    # Without a high half, 2^-11 goes in rounding the low one, and 2^-11 with low · low.
    return np.where(low == 0, np.abs(x - high), np.where(high == 0, 2.0**-10 * np.abs(x), 0))


def pack(lanes: np.ndarray) -> Lanes:
    shifts = exponents(lanes)
    x = np.ldexp(lanes.astype(np.float64), shifts[:, None])
    high = normal_halves(x)
    low = normal_halves((x - high) * LOW)
    loss = losses(x, high, low)
    return Lanes(
        high=high,
        low=low,
        exponents=shifts,
        largest=loss.max(axis=1),
        total=loss.sum(axis=1),
        size=np.abs(x).sum(axis=1),
        top=np.abs(x).max(axis=1),
        large=(np.abs(x) >= LARGE).sum(axis=1),
    )


def device_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A·Bᵀ of halves, as the NPU sums: groups exactly, rounded once, added in order in float32."""
    padding = ((0, 0), (0, -a.shape[1] % GROUP))
    a, b = np.pad(a, padding), np.pad(b, padding)
    result = np.zeros((len(a), len(b)), np.float32)
    for start in range(0, a.shape[1], GROUP):
        part = slice(start, start + GROUP)
        result = result + exact_product(a[:, part], b[:, part])
    return result


def exact_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A·Bᵀ of halves, at most 32 deep, rounded to float32 only once."""
    # Above and below 2^-4 each product has at most 45 bits of a double, also summed.
    coarse_a, coarse_b = np.trunc(a * 16) / 16, np.trunc(b * 16) / 16
    fine_a, fine_b = a - coarse_a, b - coarse_b
    upper, rest = two_sum(coarse_a @ coarse_b.T, coarse_a @ fine_b.T + fine_a @ coarse_b.T)
    total, rest = two_sum(upper, rest + fine_a @ fine_b.T)
    # Rounded to odd, so that rounding again to float32 is as if there had been no first time.
    even = total.view(np.int64) % 2 == 0
    odd = np.nextafter(total, np.where(rest > 0, np.inf, -np.inf))
    return np.where((rest != 0) & even, odd, total).astype(np.float32)


def two_sum(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded sum, and what rounding took."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def flushed(halves: np.ndarray) -> np.ndarray:
    """What a device that takes subnormal halves for zeros makes of them."""
    return np.where(np.abs(halves) < SMALLEST, 0, halves)


def loss_of_tile(a: Lanes, b: Lanes) -> np.ndarray:
    """A bound on what the halves of A and B lose of each element of the product, still scaled."""
    return np.minimum(np.outer(a.largest, b.size), np.outer(a.total, b.top)) + np.minimum(
        np.outer(a.size, b.largest), np.outer(a.top, b.total)
    )


def certain_size(a: Lanes, b: Lanes, depth: int) -> np.ndarray:
    """A lower bound of |A||B|: so many large elements of a row and a column must meet."""
    meeting = np.maximum(a.large[:, None] + b.large - depth, 0)
    return meeting * LARGE**2


@dataclass
class Product:
    refused: str | None  # the reason, or None
    values: np.ndarray | None = None  # the result; None if refused before anything was multiplied
    repaired: np.ndarray | None = None  # which elements need to be recomputed
    covered: np.ndarray | None = None  # which elements are good by counting large elements alone
    products: int = 0  # at most, of any tile, in units of a tile: 1, 2 or 3


def multiply(a: np.ndarray, b: np.ndarray, *, flush: bool = False) -> Product:
    """A·B of float32 matrices. `flush`: the device takes subnormal halves for zeros."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Product(NOT_FINITE)
    shape = len(a), b.shape[1]
    values, lost = np.zeros(shape, np.float32), np.zeros(shape)
    covered = np.ones(shape, bool)
    products = 1
    take = flushed if flush else np.asarray
    for part in tiles(a.shape[1]):
        left, right = pack(a[:, part]), pack(b[part].T)
        main = device_product(take(left.high), take(right.high)).astype(np.float64)
        a_low = device_product(take(left.low), take(right.high)).astype(np.float64)
        b_low = device_product(take(left.high), take(right.low)).astype(np.float64)
        products = max(products, 1 + left.low.any() + right.low.any())

        back = -(left.exponents[:, None] + right.exponents)
        tile = np.ldexp(main + (a_low + b_low) / LOW, back)
        with np.errstate(over="ignore"):
            values = (values.astype(np.float64) + tile).astype(np.float32)

        loss = loss_of_tile(left, right)
        fine = loss <= COVERED * certain_size(left, right, part.stop - part.start)
        covered &= fine
        lost += np.where(fine, 0, np.ldexp(loss, back))

    if not np.isfinite(values).all():
        return Product(OVERFLOW)
    # Half of float32's smallest subnormal is lost by any rounding.
    repaired = lost > np.maximum(GOOD * np.abs(values.astype(np.float64)), 2.0**-150)
    refused = None
    if repaired.sum() > max(REPAIRED * repaired.size, ALWAYS_REPAIRED):
        refused = TOO_WIDE
    exact = a.astype(np.float64) @ b.astype(np.float64)
    values = np.where(repaired, exact.astype(np.float32), values)
    return Product(refused, values, repaired, covered, products)


def magnitudes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|A||B|, which errors are measured by."""
    return np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)


def bound(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """docs/precision.md: the largest error of a product that was not refused, for any operands."""
    parts = tiles(a.shape[1])
    groups = -(-(parts[0].stop - parts[0].start) // GROUP)
    return (16 + groups + len(parts)) * U * magnitudes(a, b) + (1 + len(parts)) * 2.0**-149
