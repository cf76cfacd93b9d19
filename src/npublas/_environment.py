"""Numbers from environment variables, checked where they are read."""

from __future__ import annotations

import math
import os

from npublas.errors import ConfigurationError


def seconds(variable: str, default: float) -> float:
    """Return the variable's value in seconds, or the default where it isn't set.

    Raises
    ------
    ConfigurationError
        If it is not a number of at least 0.
    """
    text = os.environ.get(variable, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (value >= 0 and math.isfinite(value)):
        raise ConfigurationError(f"{variable} must be a number of seconds, not {text!r}")
    return value
