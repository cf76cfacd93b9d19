"""Networks in plain NumPy whose every matrix product goes through a function of the caller's.

Just what `npublas demo` needs: a BERT sentence encoder. It knows neither npublas nor a device: the
caller says what multiplies, and can compare one multiplication with another on real work.
"""

from npublas.nn._bert import Encoder

__all__ = ["Encoder"]
