from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Literal, SupportsIndex, TypeAlias, final

from numpy import _CastingKind, _OrderKACF, dtype  # of NumPy's stubs, not of its module
from numpy.typing import ArrayLike, DTypeLike, NDArray

from npublas._types import Device, Precision

_Axes: TypeAlias = Sequence[SupportsIndex | tuple[SupportsIndex, ...]]

# In truth a numpy.ufunc, which NumPy's stubs don't allow to be extended.
@final
class _Matmul:
    @property
    def __name__(self) -> Literal["matmul"]: ...
    @property
    def __doc__(self) -> str: ...  # type: ignore[override]
    @property
    def nin(self) -> Literal[2]: ...
    @property
    def nout(self) -> Literal[1]: ...
    @property
    def nargs(self) -> Literal[3]: ...
    @property
    def ntypes(self) -> int: ...
    @property
    def types(self) -> list[str]: ...
    @property
    def identity(self) -> None: ...
    @property
    def signature(self) -> Literal["(n?,k),(k,m?)->(n?,m?)"]: ...
    def resolve_dtypes(
        self,
        dtypes: tuple[dtype[Any] | type | None, ...],
        *,
        signature: tuple[dtype[Any] | None, ...] | None = None,
        casting: _CastingKind | None = None,
        reduction: bool = False,
    ) -> tuple[dtype[Any], ...]: ...
    def __call__(
        self,
        x1: ArrayLike,
        x2: ArrayLike,
        /,
        out: NDArray[Any] | tuple[NDArray[Any]] | None = None,
        *,
        precision: Precision | None = None,
        device: Device | None = None,
        casting: _CastingKind = ...,
        order: _OrderKACF = ...,
        dtype: DTypeLike | None = None,
        subok: bool = True,
        signature: str | tuple[DTypeLike | None, ...] | None = None,
        axes: _Axes = ...,
    ) -> Any: ...

ufunc: _Matmul  # npublas.matmul

# The settings that a context changed, packed: mask << 8 | values.
override: ContextVar[int]

# The ufunc called for a product that another door has decided for the CPU, and counts.
def on_cpu(
    ufunc: _Matmul,
    x1: NDArray[Any],
    x2: NDArray[Any],
    /,
    out: NDArray[Any] | None = None,
    *,
    dtype: DTypeLike | None = None,
) -> Any: ...

# For a recording: a product of another door begins.
def begin_product() -> None: ...
def learn_bfloat16(ufunc: _Matmul, /) -> None: ...
def watch_overrides() -> None: ...
def set_default_settings(settings: int, /) -> None: ...
def set_verbose(verbose: bool, /) -> None: ...
def set_hooks(
    *,
    open_engine: Callable[[], object] | None = None,
    fallback: Callable[[str, str, str], object] | None = None,
    product: Callable[[str, tuple[int, int, int, int], bool, str, float], object] | None = None,
    cached: Callable[[NDArray[Any], NDArray[Any], int], object] | None = None,
    news: Callable[[], object] | None = None,
) -> None: ...
