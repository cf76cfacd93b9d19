#include "npublas/math/unpack.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "npublas/base/error.hpp"
#include "npublas/math/unpackers.hpp"

namespace npublas {
namespace {

// Results from this size on are streamed. Half of what a core can hope for of a shared cache.
constexpr std::size_t kLarge = std::size_t(8) << 20;

constexpr std::int64_t kMostColumns = kLineBytes;  // of a line: int8's
constexpr std::int32_t kNoOffsets[kStripLines * kMostColumns] = {};

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::int8:
    case DType::uint8:
      return 1;
    case DType::int16:
      return 2;
    case DType::float64:
      return 8;
    default:
      return 4;
  }
}

/// Where sums come from, and what goes with their rows and columns.
struct Source {
  const std::uint32_t *main, *a_low, *b_low;
  std::ptrdiff_t row_step, group_step;
  const std::byte *of_rows, *of_columns;  // int32 or double
  std::size_t row_size, column_size;      // of these; 0: the same for all
};

/// Copies elements of `Size` bytes between a matrix of any strides and one of neighbours, in the
/// order in which the former lies in memory.
template <std::size_t Size, bool to_matrix>
void move_as(std::byte* matrix, std::ptrdiff_t row_stride, std::ptrdiff_t column_stride,
             std::byte* neighbours, std::ptrdiff_t pitch, std::int64_t rows, std::int64_t columns) {
  const auto move = [](std::byte* one, std::byte* other) {
    if constexpr (to_matrix)
      std::memcpy(one, other, Size);
    else
      std::memcpy(other, one, Size);
  };
  if (column_stride == std::ptrdiff_t(Size)) {
    for (std::int64_t row = 0; row < rows; ++row, matrix += row_stride, neighbours += pitch)
      std::memcpy(to_matrix ? matrix : neighbours, to_matrix ? neighbours : matrix,
                  std::size_t(columns) * Size);
  } else if (std::abs(row_stride) < std::abs(column_stride)) {
    for (std::int64_t column = 0; column < columns; ++column)
      for (std::int64_t row = 0; row < rows; ++row)
        move(matrix + row * row_stride + column * column_stride,
             neighbours + row * pitch + column * std::ptrdiff_t(Size));
  } else {
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t column = 0; column < columns; ++column)
        move(matrix + row * row_stride + column * column_stride,
             neighbours + row * pitch + column * std::ptrdiff_t(Size));
  }
}

template <bool to_matrix>
void move(std::size_t size, std::byte* matrix, std::ptrdiff_t row_stride,
          std::ptrdiff_t column_stride, std::byte* neighbours, std::ptrdiff_t pitch,
          std::int64_t rows, std::int64_t columns) {
  const auto as = size == 1   ? move_as<1, to_matrix>
                  : size == 2 ? move_as<2, to_matrix>
                  : size == 4 ? move_as<4, to_matrix>
                              : move_as<8, to_matrix>;
  as(matrix, row_stride, column_stride, neighbours, pitch, rows, columns);
}

/// Unpacks one target, in strips, each in the simplest of three ways: straight into the target, in
/// whole lines; streamed; or by way of a buffer.
class Unpacking {
 public:
  Unpacking(const Source& source, SumsOf sums, bool accumulate, const Target& target)
      : source_(source),
        target_(target),
        accumulate_(accumulate),
        size_(std::ptrdiff_t(size_of(target.dtype))),
        line_(kLineBytes / size_),
        whole_(target.columns / line_ * line_),
        unpackers_(unpackers_for(isa_in_use())),
        strip_(unpackers_.of(sums, target.dtype, accumulate)) {
    if (!strip_)
      throw Error(ErrorKind::argument, std::string(sums == SumsOf::integers ? "int32" : "float") +
                                           " sums can't be unpacked into " + name_of(target.dtype) +
                                           ".");
  }

  SeenInStrips run() {
    if (target_.column_stride != size_) {
      scatter();
    } else {
      const bool streams = target_.whole_bytes >= kLarge && !accumulate_ && whole_ > 0;
      for (std::int64_t row = 0; row < target_.rows; row += kStripRows) {
        const std::int64_t rows = std::min(kStripRows, target_.rows - row);
        if (streams)
          stream(row, rows);
        else
          store(row, rows);
        if (whole_ < target_.columns) by_buffer(row, rows, whole_, target_.columns - whole_);
      }
      if (streams) unpackers_.finish_streaming();
    }
    return seen_;
  }

 private:
  std::byte* at(std::int64_t row, std::int64_t column) const {
    return static_cast<std::byte*>(target_.data) + row * target_.row_stride +
           column * target_.column_stride;
  }

  Strip strip_at(std::int64_t row, std::int64_t rows, std::int64_t column,
                 std::int64_t lines) const {
    const std::ptrdiff_t first = row * source_.row_step + column / 4 * source_.group_step;
    return {.main = source_.main + first,
            .a_low = source_.a_low ? source_.a_low + first : nullptr,
            .b_low = source_.b_low ? source_.b_low + first : nullptr,
            .row_step = source_.row_step,
            .group_step = source_.group_step,
            .of_rows = source_.of_rows + std::size_t(row) * source_.row_size,
            .of_columns = source_.of_columns + std::size_t(column) * source_.column_size,
            .rows = rows,
            .lines = lines};
  }

  template <typename Visit>
  void for_each_strip(Visit visit) const {
    for (std::int64_t column = 0; column < whole_; column += kStripLines * line_)
      visit(column, std::min(kStripLines, (whole_ - column) / line_));
  }

  void store(std::int64_t row, std::int64_t rows) {
    for_each_strip([&](std::int64_t column, std::int64_t lines) {
      Strip strip = strip_at(row, rows, column, lines);
      strip.to = at(row, column);
      strip.pitch = target_.row_stride;
      strip_(strip, seen_);
    });
  }

  // A row of the target begins anywhere in a line, and only whole lines can be streamed. So strips
  // go to a buffer in L1 whose rows have room in front for the bytes that the strip before left
  // over.
  void stream(std::int64_t row, std::int64_t rows) {
    constexpr std::ptrdiff_t kPitch = kLineBytes + kStripLines * kLineBytes;
    alignas(kLineBytes) std::byte buffer[kStripRows * kPitch];
    const auto before = [&](std::int64_t r) {  // bytes from the line's begin to the row's
      return std::ptrdiff_t(reinterpret_cast<std::uintptr_t>(at(row + r, 0)) % kLineBytes);
    };
    for_each_strip([&](std::int64_t column, std::int64_t lines) {
      Strip strip = strip_at(row, rows, column, lines);
      strip.to = buffer + kLineBytes;
      strip.pitch = kPitch;
      strip_(strip, seen_);
      for (std::int64_t r = 0; r < rows; ++r) {
        std::byte* const from = buffer + r * kPitch + kLineBytes;
        std::byte* const to = at(row + r, column);
        const std::ptrdiff_t over = before(r);
        if (column > 0 || over == 0) {
          unpackers_.stream(from - over, to - over, lines);
        } else {
          std::memcpy(to, from, std::size_t(kLineBytes - over));
          unpackers_.stream(from + kLineBytes - over, to + kLineBytes - over, lines - 1);
        }
        std::memcpy(from - kLineBytes, from + (lines - 1) * kLineBytes, kLineBytes);
      }
    });
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::ptrdiff_t over = before(r);
      std::memcpy(at(row + r, whole_) - over, buffer + r * kPitch + kLineBytes - over,
                  std::size_t(over));
    }
  }

  /// In the order in which the target lies in memory.
  void scatter() {
    const std::int64_t width = kStripLines * line_;
    const auto strip = [&](std::int64_t row, std::int64_t column) {
      by_buffer(row, std::min(kStripRows, target_.rows - row), column,
                std::min(width, target_.columns - column));
    };
    if (std::abs(target_.row_stride) < std::abs(target_.column_stride)) {
      for (std::int64_t column = 0; column < target_.columns; column += width)
        for (std::int64_t row = 0; row < target_.rows; row += kStripRows) strip(row, column);
    } else {
      for (std::int64_t row = 0; row < target_.rows; row += kStripRows)
        for (std::int64_t column = 0; column < target_.columns; column += width) strip(row, column);
    }
  }

  /// Any columns, at most a strip's. What lies beside them in the buffer is undefined.
  void by_buffer(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) {
    constexpr std::ptrdiff_t kPitch = kStripLines * kLineBytes;
    alignas(kLineBytes) std::byte buffer[kStripRows * kPitch];
    if (accumulate_)
      move<false>(std::size_t(size_), at(row, column), target_.row_stride, target_.column_stride,
                  buffer, kPitch, rows, columns);
    const std::int64_t lines = columns / line_, rest = columns % line_;
    if (lines > 0) {
      Strip strip = strip_at(row, rows, column, lines);
      strip.to = buffer;
      strip.pitch = kPitch;
      strip_(strip, seen_);
    }
    if (rest > 0)
      part_of_line(row, rows, column + lines * line_, rest, buffer + lines * kLineBytes, kPitch);
    move<true>(std::size_t(size_), at(row, column), target_.row_stride, target_.column_stride,
               buffer, kPitch, rows, columns);
  }

  /// The last columns, as a line that zeros make whole, so that nothing beside the target counts.
  void part_of_line(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
                    std::byte* to, std::ptrdiff_t pitch) {
    std::uint32_t sums[3][kStripRows * kMostColumns];
    alignas(double) std::byte of_columns[kMostColumns * sizeof(double)] = {};
    Strip strip = strip_at(row, rows, column, 1);
    if (source_.column_size > 0) {
      std::memcpy(of_columns, strip.of_columns, std::size_t(columns) * source_.column_size);
      strip.of_columns = of_columns;
    }
    const std::uint32_t** const surfaces[] = {&strip.main, &strip.a_low, &strip.b_low};
    for (int i = 0; i < 3; ++i) {
      if (!*surfaces[i]) continue;
      for (std::int64_t r = 0; r < rows; ++r) {
        std::uint32_t* const line = sums[i] + r * line_;
        std::fill_n(line, line_, 0u);
        for (std::int64_t c = 0; c < columns; c += 4)
          std::memcpy(line + c, *surfaces[i] + r * source_.row_step + c / 4 * source_.group_step,
                      std::size_t(std::min<std::int64_t>(4, columns - c)) * sizeof *line);
      }
      *surfaces[i] = sums[i];
    }
    strip.row_step = line_;
    strip.group_step = 4;
    strip.to = to;
    strip.pitch = pitch;
    strip_(strip, seen_);
  }

  const Source& source_;
  const Target& target_;
  const bool accumulate_;
  const std::ptrdiff_t size_;
  const std::int64_t line_, whole_;  // columns of a line; of all whole lines
  const Unpackers& unpackers_;
  const UnpackStrip strip_;
  SeenInStrips seen_;
};

bool all_zero(const std::uint32_t (&any)[SeenInStrips::kLanes], std::uint32_t mask) {
  std::uint32_t all = 0;
  for (const std::uint32_t lane : any) all |= lane;
  return (all & mask) == 0;
}

Unpacked unpack(SumsOf sums, const void* main, const void* a_low, const void* b_low,
                const Surface& surface, const double* row_scales, const double* column_scales,
                bool accumulate, const Target& target) {
  const bool native = surface.layout == Layout::native;
  const Source source{.main = static_cast<const std::uint32_t*>(main),
                      .a_low = static_cast<const std::uint32_t*>(a_low),
                      .b_low = static_cast<const std::uint32_t*>(b_low),
                      .row_step = native ? 4 : surface.columns,
                      .group_step = native ? 4 * surface.rows : 4,
                      .of_rows = reinterpret_cast<const std::byte*>(row_scales),
                      .of_columns = reinterpret_cast<const std::byte*>(column_scales),
                      .row_size = sizeof(double),
                      .column_size = sizeof(double)};
  const SeenInStrips seen = Unpacking(source, sums, accumulate, target).run();
  constexpr std::uint32_t kInfinity = 0x7f800000u;
  const std::uint32_t largest = *std::max_element(seen.largest, std::end(seen.largest));
  // Floats of -0 are zeros, too.
  const std::uint32_t mask = sums == SumsOf::quantized ? ~0u : 0x7fffffffu;
  return {.finite = largest < kInfinity,
          .underflow = seen.underflow,
          .main_zero = all_zero(seen.main, mask),
          .a_low_zero = all_zero(seen.a_low, mask),
          .b_low_zero = all_zero(seen.b_low, mask)};
}

}  // namespace

const Unpackers& unpackers_for(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return kAvx512Unpackers;
  if (isa == Isa::avx2) return kAvx2Unpackers;
#endif
  (void)isa;
  return kPortableUnpackers;
}

Unpacked unpack_integers(const std::int32_t* sums, const Surface& surface,
                         const std::int32_t* row_offsets, const std::int32_t* column_offsets,
                         bool accumulate, const Target& target) {
  const bool native = surface.layout == Layout::native;
  const auto bytes = [](const std::int32_t* offsets) {
    return reinterpret_cast<const std::byte*>(offsets ? offsets : kNoOffsets);
  };
  const Source source{.main = reinterpret_cast<const std::uint32_t*>(sums),
                      .a_low = nullptr,
                      .b_low = nullptr,
                      .row_step = native ? 4 : surface.columns,
                      .group_step = native ? 4 * surface.rows : 4,
                      .of_rows = bytes(row_offsets),
                      .of_columns = bytes(column_offsets),
                      .row_size = row_offsets ? sizeof(std::int32_t) : 0,
                      .column_size = column_offsets ? sizeof(std::int32_t) : 0};
  const SeenInStrips seen = Unpacking(source, SumsOf::integers, accumulate, target).run();
  return {.main_zero = all_zero(seen.main, ~0u)};
}

Unpacked unpack_floats(const FloatSums& sums, const Surface& surface, const double* row_scales,
                       const double* column_scales, bool accumulate, const Target& target) {
  const bool in_parts = sums.a_low || sums.b_low;
  return unpack(in_parts ? SumsOf::floats_in_parts : SumsOf::floats, sums.main, sums.a_low,
                sums.b_low, surface, row_scales, column_scales, accumulate, target);
}

Unpacked unpack_quantized(const std::int32_t* sums, const Surface& surface,
                          const double* row_scales, const double* column_scales, bool accumulate,
                          const Target& target) {
  return unpack(SumsOf::quantized, sums, nullptr, nullptr, surface, row_scales, column_scales,
                accumulate, target);
}

}  // namespace npublas
