// # The docstring of npublas.matmul
// Here and not in Python, because NumPy before 2.2 takes it when the ufunc is made, and never
// again. NumPy puts a line with its own arguments above it.
#pragma once

namespace npublas {

inline constexpr char kMatmulDoc[] = R"(Matrix product of two arrays, on the NPU where that pays.

Everything that `numpy.matmul` takes, and with the same meaning: it is the same
machinery. ``precision=`` and ``device=`` are added. What the NPU can't take, or
would lose time on, is computed on the CPU.

Parameters
----------
x1, x2 : array_like
    The operands, at least 1-D. Stacks of matrices, 1-D operands, views with any
    strides, and mixed dtypes are treated as `numpy.matmul` treats them.
out : ndarray, optional
    Where to put the result.
precision : {'float32', 'float16', 'int8'}, optional
    How products of float32 operands are computed (and of float64 operands, under
    ``float64='float32'``); never the dtype of the result. ``'float32'`` is about as
    accurate as NumPy: up to three float16 products on the NPU, or the CPU where
    these can't be. ``'float16'`` is one float16 product, scaled so that nothing
    overflows, with float32 sums. ``'int8'`` rounds the operands to int8, with a
    scale for each row of `x1`, each column of `x2`, and each 2048 along K.
device : {'auto', 'npu', 'cpu'}, optional
    ``'auto'`` chooses what is predicted to be faster; ``'npu'`` runs there whatever
    can run there, however small, and raises an error without an NPU.
**kwargs
    Further arguments of `numpy.matmul`: casting, order, dtype, subok, axes, axis,
    signature.

Returns
-------
ndarray or scalar
    As from `numpy.matmul`. Besides its signatures there are those of int8 and uint8,
    also mixed, to int32 (NumPy >= 2): ask for them with ``dtype=numpy.int32``; and,
    once ml_dtypes is imported, of bfloat16 to float32, and with ``dtype=`` to itself.

Raises
------
ValueError
    If the shapes don't fit together.
ConfigurationError
    If `precision` or `device` is none of the above, or `x2` was packed for another
    `precision` (a ValueError).
NpuUnavailableError
    If ``device='npu'`` and there is no NPU.
FallbackError
    Under ``on_fallback='error'``, if a product was to run on the NPU and could not.

Notes
-----
Integer results are bit-identical to NumPy's (they wrap around). float16
results are sums in float32, rounded once; they may differ from NumPy's in the last
bit, because the order of the additions differs.

Examples
--------
>>> import numpy as np
>>> import npublas
>>> a = np.arange(6, dtype=np.float32).reshape(2, 3)
>>> npublas.matmul(a, a.T)
array([[ 5., 14.],
       [14., 50.]], dtype=float32)

int8 wraps around as NumPy's does, unless the result is to be int32:

>>> a8 = np.full((2, 2), 100, np.int8)
>>> npublas.matmul(a8, a8)
array([[32, 32],
       [32, 32]], dtype=int8)
>>> npublas.matmul(a8, a8, dtype=np.int32)
array([[20000, 20000],
       [20000, 20000]], dtype=int32)

Settings for one call:

>>> npublas.matmul(a, a.T, device="cpu", precision="float16").dtype
dtype('float32')
)";

}  // namespace npublas
