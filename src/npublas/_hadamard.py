"""The Hadamard rotation, which spreads an outlier over its neighbours along K.

    H(1) = [1],   H(2n) = [[H(n),  H(n)],        Sylvester 1867, Phil. Mag. 34(232), 461-475
                           [H(n), -H(n)]]
    R    = H(n) / sqrt(n)                        R = R', R R = I

    x W = (x R)(R W)                             R on each block of n along K

An element of size s becomes n elements of size s / sqrt(n), so that the lane's largest magnitude,
and with it the step of its quantisation, comes down to the size of the rest. The weights are turned
once; activations at every product, by additions: x H is log2(n) steps of (a, b) -> (a + b, a - b).
They are float32, and their order is part of the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from npublas._symmetric import Float32s

# At 128 an outlier is a tenth of itself. Twice that wants one more step of additions, and more
# padding, for a factor of 1.4.
_LARGEST_BLOCK = 128
# The NPU multiplies int8 and int4 in multiples of this along K, so up to there padding is free.
_ALIGNMENT = 32


@dataclass(frozen=True)
class Rotation:
    """How a matrix was rotated along one axis.

    Attributes
    ----------
    block : int
        The power of two that is rotated together.
    length : int
        The axis before it was padded with zeros to a multiple of `block`.
    axis : int
        -2 (K of a right operand) or -1 (K of a left one).
    """

    block: int
    length: int
    axis: int

    def __post_init__(self) -> None:
        if self.block < 1 or self.block & (self.block - 1):
            raise ValueError(f"the block of a rotation must be a power of two, not {self.block}")
        if self.axis not in (-1, -2) or self.length < 0:
            raise ValueError(f"{self} is along no axis of a matrix")

    @property
    def padded(self) -> int:
        """The length of the axis after padding."""
        return -(-self.length // self.block) * self.block

    def transposed(self) -> Rotation:
        """The rotation of the transposed matrix."""
        return replace(self, axis=-3 - self.axis)


def block_for(length: int) -> int:
    """The block for a K of `length`: the largest power of two up to 128 that costs no padding.

    What the NPU would pad anyway, to a multiple of 32, doesn't count; below 32, the next power of
    two.

    >>> [block_for(k) for k in (384, 100, 96, 130, 5, 1)]
    [128, 128, 32, 32, 8, 1]
    """
    aligned = -(-length // _ALIGNMENT) * _ALIGNMENT
    block = _LARGEST_BLOCK
    while block > _ALIGNMENT and aligned % block:
        block //= 2
    while block // 2 >= max(length, 1):
        block //= 2
    return block


def rotate(x: Float32s, block: int) -> Float32s:
    """Pad the last axis with zeros to a multiple of `block`, and rotate it: x R, a new array.

    The same function turns it back, since R R = I.
    """
    blocks = -(-x.shape[-1] // block)
    padded = np.zeros((*x.shape[:-1], blocks * block), np.float32)
    padded[..., : x.shape[-1]] = x
    old = padded.reshape(*x.shape[:-1], blocks, block)
    new = np.empty_like(old)
    # Each step adds and subtracts neighbours and deals the results to the two halves. After log2(n)
    # steps every element is back in its place: the same sums as with neighbours at a distance of
    # 1, 2, 4, ... in place, but in long strides.
    for _ in range(block.bit_length() - 1):
        even, odd = old[..., 0::2], old[..., 1::2]
        np.add(even, odd, out=new[..., : block // 2])
        np.subtract(even, odd, out=new[..., block // 2 :])
        old, new = new, old
    with np.errstate(under="ignore"):
        old *= np.float32(block**-0.5)
    rotated: Float32s = old.reshape(padded.shape)
    return rotated
