// # What was in C
// A product with beta reads C while it writes it. So that it can be run a second time, or be
// computed on the CPU instead, C is copied before the first attempt and put back after a failed
// one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "npublas/base/matrix.hpp"

namespace npublas {

class Kept {
 public:
  /// Copies C if the product reads it; else it does nothing, now or later.
  Kept(const Product& product, bool reads_c) : shape_(product.shape), c_(product.c) {
    if (!reads_c) return;
    size_ = bytes_of(product.out);
    bytes_.resize(std::size_t(shape_.batch * shape_.m * shape_.n) * size_);
    for_each(
        [](std::byte* in_c, std::byte* kept, std::size_t size) { std::memcpy(kept, in_c, size); });
  }
  void put_back() {
    for_each(
        [](std::byte* in_c, std::byte* kept, std::size_t size) { std::memcpy(in_c, kept, size); });
  }

 private:
  /// A row at a time where its elements are neighbours, else an element.
  template <typename Visit>
  void for_each(Visit visit) {
    if (bytes_.empty()) return;
    const bool rows = c_.column_stride == std::ptrdiff_t(size_);
    const std::int64_t step = rows ? shape_.n : 1;
    std::byte* kept = bytes_.data();
    for (std::int64_t item = 0; item < shape_.batch; ++item)
      for (std::int64_t row = 0; row < shape_.m; ++row)
        for (std::int64_t column = 0; column < shape_.n; column += step) {
          visit(static_cast<std::byte*>(c_.at(item, row, column)), kept, std::size_t(step) * size_);
          kept += std::size_t(step) * size_;
        }
  }

  Shape shape_;
  MutableView c_;
  std::size_t size_ = 0;
  std::vector<std::byte> bytes_;
};

}  // namespace npublas
