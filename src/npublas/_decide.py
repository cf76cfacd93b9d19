"""Explaining: the decision about one product, its reasons, and the plan it would run by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npublas import _config, _core, _engine, _ufuncs
from npublas._table import html_table, mebibytes, si, text_table
from npublas._types import Device, Precision

_HEAD = ("", "")


@dataclass(frozen=True)
class Plan:
    """How a product would be cut.

    Attributes
    ----------
    element : str
        What the NPU multiplies: ``"int8"`` or ``"float16"``.
    tile : tuple of int
        (rows, depth, columns) of one run of the runtime.
    block : tuple of int
        (rows, columns) of the result that one core computes before it takes the next block.
    blocks, depth_tiles, runs : int
        How many there are of them; partial sums over ``depth_tiles`` are added on the CPU.
    cores : int
        NPU cores that have something to do.
    window_bytes : int
        NPU memory that the product needs at a time.
    """

    element: str
    tile: tuple[int, int, int]
    block: tuple[int, int]
    blocks: int
    depth_tiles: int
    runs: int
    cores: int
    window_bytes: int


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
        Predicted, from published figures of other boards; 0 where nothing was predicted.
    plan : Plan or None
        The tile plan; None if the NPU can't take the operands.
    simulated : bool
        True if the NPU is the simulator.
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
    simulated: bool

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
                    f"{si(self.cpu_seconds, 's')} on its CPU (from published figures)",
                )
            )
        if self.plan:
            plan = self.plan
            rows += [
                (
                    "tiles",
                    "{} × {} × {}".format(*plan.tile)
                    + f" {plan.element}; runs: {plan.runs}; parts of K: {plan.depth_tiles}",
                ),
                (
                    "blocks",
                    "{} of {} × {}".format(plan.blocks, *plan.block) + f"; cores: {plan.cores}",
                ),
                ("memory", f"{mebibytes(plan.window_bytes)} of the window at a time"),
            ]
        return rows

    def __repr__(self) -> str:
        lines = text_table(_HEAD, self._rows()).splitlines()[2:]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return html_table("npublas.explain", _HEAD, self._rows())


def explain(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
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
    a, b : array_like
        The operands.
    dtype : dtype, optional
        As in `matmul`; ``np.int32`` keeps int8 operands as they are.
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
    a, b = np.asarray(a), np.asarray(b)
    stack = _stack_shape(a, b)
    types = (a.dtype, b.dtype, None)
    if dtype is None:
        loop = _ufuncs.ufunc.resolve_dtypes(types)
    else:
        loop = _ufuncs.ufunc.resolve_dtypes(types, signature=(None, None, np.dtype(dtype)))
    m = a.shape[-2] if a.ndim > 1 else 1
    n = b.shape[-1] if b.ndim > 1 else 1
    batch = 1
    for length in stack:
        batch *= length
    settings = _config.packed(precision=precision, device=device)
    names = _config.unpacked(settings)
    arguments = (settings, loop[0].name, loop[2].name, batch, m, a.shape[-1], n)
    decision = _core.decide(*arguments)
    demanded = names["device"] == "npu" and batch * m * n * a.shape[-1] > 0
    if (decision["on_npu"] or demanded) and _core.engine_state() == "closed":
        _engine.open_engine()
        decision = _core.decide(*arguments)
    plan = decision.pop("plan")
    error = demanded and _core.engine_state() == "unavailable"
    if decision["on_npu"]:
        decision["reason"] = "device='npu' demands it" if demanded else "predicted to be faster"
    elif error:
        decision["reason"] = f"there is no NPU: {_core.engine_status()['unavailable_because']}"
        decision["fallback"] = False
    return Explanation(
        shape=(batch, m, a.shape[-1], n),
        dtypes=(loop[0].name, loop[1].name, loop[2].name),
        precision=names["precision"],
        device=names["device"],
        plan=Plan(**plan) if plan else None,
        simulated=_simulated(),
        error=error,
        **decision,
    )


def _simulated() -> bool:
    """Tell whether the NPU is the simulator, also while the engine is closed."""
    status = _core.engine_status()
    return bool(status["simulated"]) or _config.get_config().runtime == "simulator"


def _stack_shape(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[int, ...]:
    """Return the shape of the stack, or raise what NumPy raises for these shapes."""
    hollow = [np.broadcast_to(np.zeros((), np.bool_), x.shape) for x in (a, b)]  # of no memory
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        np.matmul(*hollow)  # raises
    return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
