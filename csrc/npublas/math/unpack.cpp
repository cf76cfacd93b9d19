#include "npublas/math/unpack.hpp"

#include "npublas/math/scaled_sums.hpp"
#include "npublas/math/unpacking.hpp"

namespace npublas {
namespace {

constexpr std::int32_t kNoOffsets[kMostStripColumns] = {};

Unpacked unpack(ScaledSums sums, const Target& target) {
  if (target.rows > 0 && target.columns > 0) sums.unpack(0, 0, target);
  return sums.seen();
}

}  // namespace

Unpacked unpack_integers(const std::int32_t* sums, const Surface& surface,
                         const std::int32_t* row_offsets, const std::int32_t* column_offsets,
                         bool accumulate, const Target& target) {
  const bool is_native = surface.layout == Layout::native;
  const auto bytes = [](const std::int32_t* offsets) {
    return reinterpret_cast<const std::byte*>(offsets ? offsets : kNoOffsets);
  };
  const SumSource source{.main = reinterpret_cast<const std::uint32_t*>(sums),
                         .a_low = nullptr,
                         .b_low = nullptr,
                         .is_native = is_native,
                         .row_step = is_native ? 4 : surface.columns,
                         .group_step = is_native ? 4 * surface.rows : 4,
                         .of_rows = bytes(row_offsets),
                         .of_columns = bytes(column_offsets),
                         .row_size = row_offsets ? sizeof(std::int32_t) : 0,
                         .column_size = column_offsets ? sizeof(std::int32_t) : 0,
                         .row_floats = nullptr,
                         .column_floats = nullptr};
  SeenInStrips seen;
  unpack_target(source, SumsOf::integers, accumulate, target, seen);
  return {.main_zero = all_zero(seen.main, ~0u)};
}

Unpacked unpack_floats(const FloatSums& sums, const Surface& surface, const double* row_scales,
                       const double* column_scales, bool accumulate, const Target& target) {
  return unpack({kind_of(sums), sums.main, sums.a_low, sums.b_low, surface, row_scales,
                 column_scales, accumulate, target.rows, target.columns, target.dtype},
                target);
}

Unpacked unpack_quantized(const std::int32_t* sums, const Surface& surface,
                          const double* row_scales, const double* column_scales, bool accumulate,
                          const Target& target) {
  return unpack({SumsOf::quantized, sums, nullptr, nullptr, surface, row_scales, column_scales,
                 accumulate, target.rows, target.columns, target.dtype},
                target);
}

}  // namespace npublas
