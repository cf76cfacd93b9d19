// # Matrices in the caller's memory
// A shape, and views with byte strides of any sign; nothing here owns memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "npublas/base/dtype.hpp"

namespace npublas {

/// `batch` independent products C[m×n] = A[m×k] · B[k×n].
struct Shape {
  std::int64_t batch, m, k, n;
  double flops() const { return 2.0 * double(batch) * double(m) * double(k) * double(n); }
  bool operator==(const Shape&) const = default;
};

/// One matrix, or a stack of them. A stride is in bytes, of any sign, and 0 where broadcast.
template <typename Pointer>
struct BasicView {
  Pointer data;
  std::ptrdiff_t batch_stride;
  std::ptrdiff_t row_stride;
  std::ptrdiff_t column_stride;

  Pointer at(std::int64_t batch, std::int64_t row, std::int64_t column) const;
};
using View = BasicView<const void*>;
using MutableView = BasicView<void*>;

template <>
inline const void* View::at(std::int64_t batch, std::int64_t row, std::int64_t column) const {
  return static_cast<const std::byte*>(data) + batch * batch_stride + row * row_stride +
         column * column_stride;
}
template <>
inline void* MutableView::at(std::int64_t batch, std::int64_t row, std::int64_t column) const {
  return static_cast<std::byte*>(data) + batch * batch_stride + row * row_stride +
         column * column_stride;
}

/// One call: C = A · B.
struct Product {
  DType a_type, b_type;
  DType out;  ///< of C
  Shape shape;
  View a, b;
  MutableView c;
};

}  // namespace npublas
