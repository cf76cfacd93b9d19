"""Products in the background: one as a future, or a bounded pipeline of them.

A product spends its time in the core, without the interpreter's lock, so a few threads are all that
it takes: the engine runs products of several threads beside each other. What is bounded is what
waits, since it keeps its operands alive.
"""

from __future__ import annotations

import collections
import contextvars
import itertools
import os
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from npublas._matmul import ufunc

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["matmul_async", "pipeline"]

# One product fills the NPU but at its start and its end, which those of the others fill.
_THREADS = 3
_UNFINISHED = 32

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_room = threading.BoundedSemaphore(_UNFINISHED)
_here = threading.local()


def matmul_async(a: Any, b: Any, **keywords: Any) -> Future[Any]:
    """Multiply in the background, and return a future of the result at once.

    Parameters
    ----------
    a, b
        As for `matmul`: arrays, and packed or quantised matrices. They are not copied: don't change
        them before the future is done.
    **keywords
        Those of `matmul`, `precision` and `device` among them. The settings of the
        `config_context`, and all other context variables, are those that hold here and now.

    Returns
    -------
    concurrent.futures.Future
        Its ``result()`` is what ``matmul(a, b, **keywords)`` returns, or raises what that raises.
        Its ``cancel()`` succeeds until the product begins.

    Raises
    ------
    RuntimeError
        If the interpreter is about to end, which waits for the products that it has.

    Notes
    -----
    Products begin in the order of the calls, three at most at a time. With 32 that are not finished
    the call waits for one of them to be, so that operands don't pile up; but not if it is made by a
    callback of a future, which the others may wait for. A forked child has no part in its
    parent's futures: those that were not done stay so for it.

    See Also
    --------
    pipeline

    Examples
    --------
    >>> import numpy as np, npublas
    >>> a = np.arange(6.0).reshape(2, 3)
    >>> future = npublas.matmul_async(a, a.T)
    >>> future.result()
    array([[ 5., 14.],
           [14., 50.]])
    """
    return _submit(contextvars.copy_context(), a, b, keywords)


def pipeline(
    pairs: Iterable[tuple[Any, Any]], *, depth: int = 4, **keywords: Any
) -> Generator[Any, None, None]:
    """Multiply many pairs, some ahead of the one that is asked for, and yield the results in order.

    Parameters
    ----------
    pairs : iterable of (a, b)
        As for `matmul_async`; each is a tuple, or what unpacks like one, and no array. It is read
        in the thread that reads the results, and no further ahead than `depth`: an endless one will
        do.
    depth : int
        How many products may be under way, or done and not yet asked for; at least 1.
    **keywords
        Those of `matmul`, but not ``out``. The settings are those that hold at this call.

    Yields
    ------
    result
        Of each pair. What a product, or `pairs`, raises, is raised in its place; then it is over,
        and products that have not begun are cancelled. So they are if the iterator is closed.

    Examples
    --------
    >>> import numpy as np, npublas
    >>> weights = npublas.pack(np.ones((3, 2), np.float32))
    >>> batches = (np.full((1, 3), i, np.float32) for i in range(3))
    >>> for y in npublas.pipeline((x, weights) for x in batches):
    ...     print(y)
    [[0. 0.]]
    [[3. 3.]]
    [[6. 6.]]
    """
    if isinstance(depth, bool) or not isinstance(depth, int):
        raise TypeError(f"depth must be an integer, not {type(depth).__name__}")
    if depth < 1:
        raise ValueError(f"depth must be at least 1, not {depth}")
    if "out" in keywords:
        raise TypeError("pipeline() takes no out=: all results would share it")
    return _results(iter(pairs), depth, contextvars.copy_context(), keywords)


def _results(
    pairs: Iterator[tuple[Any, Any]],
    depth: int,
    context: contextvars.Context,
    keywords: dict[str, Any],
) -> Generator[Any, None, None]:
    ahead: collections.deque[Future[Any]] = collections.deque()
    failure: Exception | None = None
    try:
        while True:
            try:
                for pair in itertools.islice(pairs, depth - len(ahead) if not failure else 0):
                    a, b = _both(pair)
                    # A context is entered by one thread at a time.
                    ahead.append(_submit(context.copy(), a, b, keywords))
            except Exception as error:  # after the results of what came before it
                failure = error
            if not ahead:
                break
            yield ahead.popleft().result()
        if failure:
            raise failure
    finally:
        for future in ahead:
            future.cancel()


def _both(pair: Any) -> tuple[Any, Any]:
    """The operands. A matrix is no pair, even one of two rows."""
    found = "array"
    if not isinstance(pair, np.ndarray):
        try:
            parts = tuple(pair)
        except TypeError:
            found = type(pair).__name__
        else:
            if len(parts) == 2:
                return parts
            found = f"{type(pair).__name__} of {len(parts)}"
    raise TypeError(f"pipeline() takes pairs (a, b) of operands, and this item is: {found}")


def _submit(context: contextvars.Context, a: Any, b: Any, keywords: dict[str, Any]) -> Future[Any]:
    pool, room = _running()
    bounded = not getattr(_here, "is_ours", False)
    if bounded:
        room.acquire()
    try:
        future = pool.submit(context.run, _multiply, a, b, keywords)
    except BaseException:
        if bounded:
            room.release()
        raise
    if bounded:
        future.add_done_callback(lambda _: room.release())
    return future


def _multiply(a: Any, b: Any, keywords: dict[str, Any]) -> Any:
    return ufunc(a, b, **keywords)


def _running() -> tuple[ThreadPoolExecutor, threading.BoundedSemaphore]:
    global _pool
    with _lock:
        if _pool is None:
            from concurrent.futures import ThreadPoolExecutor

            _pool = ThreadPoolExecutor(_THREADS, "npublas", initializer=_mark)
        return _pool, _room


def _mark() -> None:
    _here.is_ours = True


def _restart_after_fork() -> None:
    global _lock, _pool, _room, _here
    _lock = threading.Lock()
    _pool = None
    _room = threading.BoundedSemaphore(_UNFINISHED)
    _here = threading.local()  # the child may have been forked by one of the pool's threads


os.register_at_fork(after_in_child=_restart_after_fork)
