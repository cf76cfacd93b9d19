"""The Hadamard rotation: Sylvester's matrices, and how they meet a K of any length."""

from __future__ import annotations

import numpy as np
import pytest

from npublas._hadamard import Rotation, block_for, rotate

BLOCKS = [1, 2, 4, 8, 16, 32, 64, 128]


def sylvester(n: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


@pytest.mark.parametrize("n", BLOCKS)
def test_it_multiplies_by_sylvesters_matrix_over_the_root_of_its_size(n: int) -> None:
    identity = rotate(np.eye(n, dtype=np.float32), n)
    np.testing.assert_array_equal(identity, (sylvester(n) * np.float32(n**-0.5)).astype("f4"))


@pytest.mark.parametrize("n", BLOCKS)
def test_it_is_orthonormal_and_its_own_inverse(n: int) -> None:
    x = np.random.default_rng(n).standard_normal((9, n)).astype(np.float32)
    turned = rotate(x, n)
    np.testing.assert_allclose((turned**2).sum(axis=1), (x**2).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(rotate(turned, n), x, atol=1e-5)


def test_its_sums_are_those_of_neighbours_at_a_distance_of_one_two_four() -> None:
    """The order of additions is part of the result: another one differs in the last bits."""
    x = np.random.default_rng(0).standard_normal((20, 128)).astype(np.float32)
    expected = x.copy()
    distance = 1
    while distance < 128:
        pairs = expected.reshape(20, -1, 2, distance)
        pairs[:] = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2)
        distance *= 2
    expected *= np.float32(128**-0.5)
    np.testing.assert_array_equal(rotate(x, 128), expected, strict=True)


@pytest.mark.parametrize("k", [0, 1, 31, 32, 33, 63, 65])
def test_k_is_padded_with_zeros_to_whole_blocks_that_turn_apart(k: int) -> None:
    x = np.random.default_rng(k).standard_normal((2, 3, k)).astype(np.float32)
    padded = np.zeros((2, 3, -(-k // 32) * 32), np.float32)
    padded[..., :k] = x
    turned = rotate(x, 32)
    assert turned.shape == padded.shape
    for start in range(0, padded.shape[-1], 32):
        block = np.s_[..., start : start + 32]
        np.testing.assert_array_equal(turned[block], rotate(padded[block], 32))
    np.testing.assert_allclose(rotate(turned, 32)[..., k:], 0, atol=1e-6)


@pytest.mark.parametrize("k", [*range(300), 384, 768, 1000, 1536, 4096])
def test_a_block_needs_no_more_padding_than_the_npu(k: int) -> None:
    block = block_for(k)
    assert block in BLOCKS
    padded = Rotation(block, k, -2).padded
    if k > 32:
        assert padded == -(-k // 32) * 32
        assert block == 128 or padded % (2 * block)
    else:
        assert padded <= block < max(2 * k, 2)


@pytest.mark.parametrize("wrong", [(3, 3, -1), (0, 3, -1), (4, 3, 0), (4, -1, -2)])
def test_a_rotation_that_can_not_be_is_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"power of two|no axis"):
        Rotation(*wrong)


def test_what_is_rotated_is_left_alone() -> None:
    x = np.ones((2, 4), np.float32)
    rotate(x, 4)
    assert (x == 1).all()


def test_the_rotation_of_a_transposed_matrix_is_along_the_other_axis() -> None:
    rotation = Rotation(block=32, length=40, axis=-2)
    assert rotation.padded == 64 and rotation.transposed().axis == -1
    assert rotation.transposed().transposed() == rotation
