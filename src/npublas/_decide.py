"""Explaining: the decision about one product, its reasons, and the plan it would run by."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from npublas import _config, _core, _engine, _lanes, _operands
from npublas._matmul import ufunc as matmul
from npublas._quantized import QuantizedMatrix
from npublas._table import html_table, mebibytes, si, text_table
from npublas._types import Device, Precision

_HEAD = ("", "")
_LAYOUTS = {"normal": "row-major", "native": "in native blocks"}


# What predictions go by: where a product runs is decided by the first, and how it is cut by the
# second. By whether the machine was measured.
_BASES = {
    False: (
        "from published figures, the slowest ones; they decide",
        "on a well tuned board, by which plans are compared",
    ),
    True: ("as measured", "by what was measured"),
}


def _moved(moved: float, least: float) -> str:
    return f"{mebibytes(int(moved))}, {moved / least:.2f} times the least possible"


@dataclass(frozen=True)
class RunnerUp:
    """Another way to cut a product, among those that are predicted to be the fastest.

    Attributes
    ----------
    element, layout, tile, block, cores
        As in `Plan`.
    seconds : float
        Predicted, by the same rates as `Plan.seconds`.
    """

    element: str
    layout: str
    tile: tuple[int, int, int]
    block: tuple[int, int]
    cores: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """How a product would be cut: the way that is predicted to take the least time.

    Attributes
    ----------
    method : str
        How it would be computed: ``"integers"``, ``"float16"``, ``"float32"`` (floats in two
        float16 parts each), ``"int8"`` (quantised floats), or ``"int4"`` (by weights of int4).
    element : str
        What the NPU multiplies: ``"int8"``, ``"float16"`` or ``"int4"``. Weights of int4 are
        multiplied as int8 where that is predicted to be faster.
    parts : int
        Of how many int4 an element of the left operand is made, both in one run: 1 or 2. 1 for the
        other elements.
    layout : str
        Of the left operand and the result in the NPU's memory: ``"normal"`` (row-major) or
        ``"native"`` (the NPU's own blocks).
    tile : tuple of int
        (rows, depth, columns) of one run of the runtime.
    block : tuple of int
        (rows, columns) of the result that one core computes before it takes the next block. The
        cores share out the columns first, then the rows.
    slots : tuple of int
        Tiles of the left and of the right operand that are kept at a time, for all cores.
    blocks, depth_tiles, runs : int
        How many there are of them; partial sums over ``depth_tiles`` are added on the CPU.
    cores : int
        NPU cores that have something to do.
    window_bytes : int
        NPU memory that the product needs at a time.
    seconds : float
        Predicted by the rates that plans are made for: this machine's if it was tuned, otherwise
        the published target for a well tuned RK3588.
    host_bytes, npu_bytes : float
        Predicted: what the CPU reads and writes to pack and unpack, and what the NPU streams.
    least_host_bytes, least_npu_bytes : float
        What no plan can avoid: every operand and result once, and their packed forms once.
    runners_up : tuple of RunnerUp
        The next best ways, the fastest first.
    """

    method: str
    element: str
    parts: int
    layout: str
    tile: tuple[int, int, int]
    block: tuple[int, int]
    slots: tuple[int, int]
    blocks: int
    depth_tiles: int
    runs: int
    cores: int
    window_bytes: int
    seconds: float
    host_bytes: float
    npu_bytes: float
    least_host_bytes: float
    least_npu_bytes: float
    runners_up: tuple[RunnerUp, ...]


@dataclass(frozen=True)
class Explanation:
    """What `explain` returns.

    Attributes
    ----------
    on_npu : bool
        Where the product would run.
    reason : str
        Why there, and where it helps, how to have it otherwise.
    error : bool
        True if `matmul` would raise `NpuUnavailableError`: an NPU is demanded, and there is none.
    fallback : bool
        True if it was decided for, or demanded of, the NPU and can't run there.
    shape : tuple of int
        (batch, m, k, n).
    dtypes : tuple of str
        Of the loop: both operands after NumPy's promotion, and the result.
    precision, device : str
        The settings that applied.
    cpu_seconds, npu_seconds : float
        Predicted, and what decides; 0 where nothing was predicted. Until the machine is measured it
        goes by the slowest published figures, so that `npu_seconds` is several times
        `Plan.seconds`: plans are compared by the figures of a well tuned board.
    plan : Plan or None
        The tile plan; None if the NPU can't take the operands.
    products : int
        Products of `plan.element` that one of these takes, 0 without a plan. For float32 it is 1,
        plus 1 for each operand that is not exact in one float16 part (of all that are in it: found
        out by looking at them). For int4 it is the plan's `parts`. For a quantised matrix it is how
        many groups it has along K, or parts that have scales of their own: `shape`, `plan` and what
        is predicted are those of one of them.
    simulated : bool
        True if the NPU is the simulator.
    measured : bool
        True if predictions go by what `tune` has measured; otherwise by published figures of other
        boards.
    """

    on_npu: bool
    reason: str
    error: bool
    fallback: bool
    shape: tuple[int, int, int, int]
    dtypes: tuple[str, str, str]
    precision: str
    device: str
    cpu_seconds: float
    npu_seconds: float
    plan: Plan | None
    products: int
    simulated: bool
    measured: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain dicts, lists and numbers."""
        return asdict(self)

    def _rows(self) -> list[tuple[str, str]]:
        batch, m, k, n = self.shape
        stack = f"{batch} × " if batch != 1 else ""
        npu = "the NPU (simulated)" if self.simulated else "the NPU"
        rows = [
            (
                "product",
                f"{stack}{m} × {k} × {n}, {', '.join(self.dtypes[:2])} -> {self.dtypes[2]}",
            ),
            ("settings", f"device={self.device!r}, precision={self.precision!r}"),
            ("runs on", npu if self.on_npu else "nothing: an error" if self.error else "the CPU"),
            ("because", self.reason),
        ]
        if self.fallback:
            rows.append(("fallback", "yes: it was meant for the NPU"))
        if self.npu_seconds:
            rows.append(
                (
                    "predicted",
                    f"{si(self.npu_seconds, 's')} on an RK3588's NPU, "
                    f"{si(self.cpu_seconds, 's')} on its CPU "
                    f"({_BASES[self.measured][0]})",
                )
            )
        if self.plan:
            plan = self.plan
            rows += [
                ("method", self._method),
                (
                    "tiles",
                    "{} × {} × {}".format(*plan.tile)
                    + f" {plan.element}, {_LAYOUTS[plan.layout]}; runs: {plan.runs}; "
                    + f"parts of K: {plan.depth_tiles}",
                ),
                (
                    "blocks",
                    "{} of {} × {}".format(plan.blocks, *plan.block) + f"; cores: {plan.cores}",
                ),
                (
                    "memory",
                    f"{mebibytes(plan.window_bytes)} of the window at a time: "
                    + "{} tiles of the left operand, {} of the right".format(*plan.slots),
                ),
                ("moved by the CPU", _moved(plan.host_bytes, plan.least_host_bytes)),
                ("moved by the NPU", _moved(plan.npu_bytes, plan.least_npu_bytes)),
                ("this plan", f"{si(plan.seconds, 's')} {_BASES[self.measured][1]}"),
            ]
            rows += [
                (
                    "runner-up",
                    f"{si(other.seconds, 's')}: "
                    + "{} × {} × {}".format(*other.tile)
                    + f" {other.element}, {_LAYOUTS[other.layout]}, "
                    + "blocks of {} × {}".format(*other.block)
                    + f", cores: {other.cores}",
                )
                for other in plan.runners_up[:3]
            ]
        return rows

    @property
    def _method(self) -> str:
        plan = cast(Plan, self.plan)
        if plan.method == "float32":
            parts = "product" if self.products == 1 else "products"
            return f"float32 as {self.products} {parts} of float16"
        names = {
            "integers": "exact integers",
            "float16": "one product of float16",
            "int8": "one product of floats quantised to int8",
        }
        if plan.method == "int4":
            if plan.element == "int8":
                return "weights of int4, unpacked to int8"
            return (
                f"weights of int4, by {plan.parts} part{'s' * (plan.parts > 1)} of int4 in one run"
            )
        return names[plan.method]

    def __repr__(self) -> str:
        lines = text_table(_HEAD, self._rows()).splitlines()[2:]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return html_table("npublas.explain", _HEAD, self._rows())


def explain(
    a: npt.ArrayLike,
    b: Any,
    *,
    dtype: npt.DTypeLike | None = None,
    precision: Precision | None = None,
    device: Device | None = None,
) -> Explanation:
    """Say where ``npublas.matmul(a, b)`` would run, why, and how it would be cut.

    The decision is the one that `matmul` itself would make now; nothing is multiplied. The engine
    is opened if the decision depends on it.

    Parameters
    ----------
    a : array_like or QuantizedMatrix
    b : array_like, PackedMatrix or QuantizedMatrix
        The operands. Those of float32 are looked at, for whether one float16 part of each element
        is enough. A quantised matrix is multiplied as integers, group by group along K, and what is
        explained is the product of one group.
    dtype : dtype, optional
        As in `matmul`; ``np.int32`` keeps int8 and uint8 operands as they are.
    precision, device : optional
        As in `matmul`; the current settings otherwise.

    Returns
    -------
    Explanation
        With a table as its ``repr`` and a ``to_dict`` method.

    Raises
    ------
    ValueError, TypeError
        NumPy's own, for operands that can't be multiplied.

    Examples
    --------
    >>> import numpy as np, npublas
    >>> print(npublas.explain(np.ones((8, 8)), np.ones((8, 8))).reason)
    operands are float64: use astype(float32) or float64="float32"
    """
    groups = 1
    if isinstance(a, QuantizedMatrix) or isinstance(b, QuantizedMatrix):
        a, b, groups = _integers(a, b)
        dtype = np.int32
    a = np.asarray(a)
    a_limit = 127
    if a.dtype.name == "int4":  # multiplied as int8 of a smaller range
        a, a_limit = a.astype(np.int8), 8
    packed = hasattr(b, "_weights")
    b = cast("_operands.Packed", b) if packed else np.asarray(b)
    stack = _stack_shape(a, b)
    types = _types_of(a.dtype, b.dtype, None if dtype is None else np.dtype(dtype), packed)
    m = a.shape[-2] if a.ndim > 1 else 1
    n = b.shape[-1] if b.ndim > 1 else 1
    batch = math.prod(stack)
    if packed:  # of which all products with one matrix are one
        matrices = math.prod(b.shape[:-2])
        batch, m = (matrices, m * batch // matrices) if matrices else (0, m)
        precision = _operands.precision_for(b, precision)
    settings = _config.packed(precision=precision, device=device)
    names = _config.unpacked(settings)
    arguments = (
        settings, types.a.name, types.b.name, types.out.name, batch, m, a.shape[-1], n,
        None if isinstance(b, np.ndarray) else b._weights,
    )  # fmt: skip
    decision = _core.decide(*arguments)
    demanded = names["device"] == "npu" and batch * m * n * a.shape[-1] > 0
    if (decision["on_npu"] or demanded) and _core.engine_state() == "closed":
        _engine.open_engine()
        decision = _core.decide(*arguments)
    plan = None
    # Neither a plan nor a prediction for what these settings keep off the NPU anyway.
    if decision.pop("code") not in ("float64", "device_cpu"):
        plan = _core.plan_for(*arguments, a_limit=a_limit)
    if plan:
        for name in ("cpu_seconds", "npu_seconds"):
            decision[name] = plan.pop(name)
    error = demanded and _core.engine_state() == "unavailable"
    if decision["on_npu"]:
        decision["reason"] = "device='npu' demands it" if demanded else "predicted to be faster"
    elif error:
        decision["reason"] = f"there is no NPU: {_core.engine_status()['unavailable_because']}"
        decision["fallback"] = False
    return Explanation(
        shape=(batch, m, a.shape[-1], n),
        dtypes=(types.a.name, types.b.name, types.out.name),
        precision=names["precision"],
        device=names["device"],
        plan=_plan_from(plan) if plan else None,
        products=groups * _products(a, b, types, plan) if plan else 0,
        simulated=_simulated(),
        measured=bool(_core.current_rates()["measured"]),
        error=error,
        **decision,
    )


def _plan_from(fields: dict[str, Any]) -> Plan:
    others = tuple(RunnerUp(**other) for other in fields["runners_up"])
    return Plan(**{**fields, "runners_up": others})


def _integers(a: Any, b: Any) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8], int]:
    """The integers of one group of K, as arrays that take no memory; and how many groups there are.

    What meets a quantised matrix becomes integers as it is multiplied: row by row, and for a left
    one, which is the right one of the transposed product, column by column.
    """
    left = a._operand(-1) if isinstance(a, QuantizedMatrix) else None
    right = b._operand(-2) if isinstance(b, QuantizedMatrix) else None
    a = a if left else np.asarray(a)
    b = b if right else np.asarray(b)
    _operands.result_shape(*(np.broadcast_to(np.int8(0), x.shape) for x in (a, b)))  # may raise
    lanes = right or left
    assert lanes is not None
    *stack, columns, depth = lanes.data.shape
    size = lanes.group_size
    if left and right:
        rows = left.data.shape[:-1]
        size = left.group_size or right.group_size or depth
    else:
        q, x = (b, a) if right else (a, b)
        rows = x.shape[:-1] if right or x.ndim == 1 else (*x.shape[:-2], x.shape[-1])
        if q.ndim == 2:  # all of a stack is one product
            rows = (math.prod(rows),)
        size = size or _lanes.tiles(q.bits, depth, columns, None).depth
    size = min(size, max(depth, 1))
    one_group = [
        np.broadcast_to(np.int8(0), shape) for shape in ((*rows, size), (*stack, size, columns))
    ]
    return one_group[0], one_group[1], -(-depth // size)


def _products(
    a: npt.NDArray[Any],
    b: npt.NDArray[Any] | _operands.Packed,
    types: _operands.Types,
    plan: dict[str, Any],
) -> int:
    """Of one element type, for each tile at most: the low parts of an operand take one more."""
    if plan["method"] != "float32":
        return int(plan["parts"])
    depth = plan["tile"][1]

    def low(operand: npt.NDArray[Any], dtype: np.dtype[Any], is_a: bool) -> bool:
        matrices = _operands.plain(operand)
        if matrices.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
            matrices = matrices.astype(dtype)
        if matrices.ndim == 1:
            matrices = matrices[np.newaxis] if is_a else matrices[:, np.newaxis]
        flat = matrices.reshape(-1, *matrices.shape[-2:])
        return _core.has_low_parts(flat, is_a=is_a, tile_depth=depth)

    if isinstance(b, np.ndarray):
        b_low = low(b, types.b, False)
    else:
        b_low = any(entry[3] for entry in b._weights.entries)
        a = b._prepare(a)
    return 1 + low(a, types.a, True) + b_low


def _types_of(
    a: np.dtype[Any], b: np.dtype[Any], out: np.dtype[Any] | None, packed: bool
) -> _operands.Types:
    """The types that are multiplied: in NumPy's loop or, with packed weights, without one."""
    types = _operands.types_of(a, b, out)
    if packed or types.a == types.out or np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        return types
    if types.a.name not in ("int8", "uint8"):
        return types
    # NumPy 1.26 has no loops from bytes to longer integers, and widens the operands.
    wanted: dict[str, Any] = {} if out is None else {"signature": (None, None, out)}
    return _operands.Types(*matmul.resolve_dtypes((a, b, None), **wanted))


def _simulated() -> bool:
    """Tell whether the NPU is the simulator, also while the engine is closed."""
    status = _core.engine_status()
    return bool(status["simulated"]) or _config.get_config().runtime == "simulator"


def _stack_shape(a: npt.NDArray[Any], b: npt.NDArray[Any] | _operands.Packed) -> tuple[int, ...]:
    """Return the shape of the stack, or raise what NumPy raises for these shapes."""
    shape = _operands.result_shape(a, b)
    return shape[: len(shape) - min(a.ndim - 1, 1) - min(b.ndim - 1, 1)]
