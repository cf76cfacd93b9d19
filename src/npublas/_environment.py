"""Environment variables that are no settings: which there are, and what they may be.

All are checked when npublas is imported, so that a slip of the pen is seen at once and not when the
NPU is wanted. Timeouts are read again when they are needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from npublas.errors import ConfigurationError

_TIMEOUTS = ("NPUBLAS_LOCK_TIMEOUT", "NPUBLAS_RUN_TIMEOUT", "NPUBLAS_TRIAL_TIMEOUT")
_SWITCHES = ("NPUBLAS_UNSUPPORTED_RUNTIME", "NPUBLAS_VERBOSE")
_MAX_SECONDS = 86400

# Read by the simulator (which says itself what it does not know), by the tests, and by the build
# for AArch64.
_OTHERS = ("NPUBLAS_SIMULATOR_", "NPUBLAS_TEST_", "NPUBLAS_AARCH64")


def check(environment: Mapping[str, str], settings: Iterable[str]) -> None:
    """Check all variables of npublas but the values of `settings`. Empty counts as not set.

    Raises
    ------
    ConfigurationError
        That names the variable, its value and the right ones, or the right names.
    """
    known = sorted((*settings, *_TIMEOUTS, *_SWITCHES, "NPUBLAS_LOCK_FILE"))
    for variable, text in environment.items():
        if (
            text
            and variable.startswith("NPUBLAS_")
            and variable not in known
            and not variable.startswith(_OTHERS)
        ):
            raise ConfigurationError(
                f"environment variable {variable}={text}: npublas has no such variable; "
                f"it has {', '.join(known)}"
            )
    for variable in _TIMEOUTS:
        seconds(variable, 1.0, environment)
    for variable in _SWITCHES:
        switch(variable, environment)


def seconds(variable: str, default: float, environment: Mapping[str, str] = os.environ) -> float:
    """Return a timeout in seconds, or the default where it isn't set.

    Raises
    ------
    ConfigurationError
        If it is not a number in its range.
    """
    text = environment.get(variable, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    zero = variable == "NPUBLAS_LOCK_TIMEOUT"  # not to wait at all is a choice there
    if 0 < value <= _MAX_SECONDS or (zero and value == 0):
        return value
    least = "at least" if zero else "more than"
    raise ConfigurationError(
        f"environment variable {variable}={text}: must be a number of seconds, {least} 0 and at "
        f"most {_MAX_SECONDS}"
    )


def switch(variable: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a variable is 1.

    Raises
    ------
    ConfigurationError
        If it is neither 0 nor 1.
    """
    text = environment.get(variable, "")
    if text not in ("", "0", "1"):
        raise ConfigurationError(f"environment variable {variable}={text}: must be 0 or 1")
    return text == "1"
