#include "npublas/math/unpacking.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "npublas/base/error.hpp"

namespace npublas {
namespace {

// A strip's size. Memory is fast where it is read and written in runs: of a native surface, 32 rows
// are 512 neighbouring bytes of each group of columns; of a row-major one, 32 lines of the result
// are 2 KiB and more. Its part of the result stays in L1.
struct StripSize {
  std::int64_t rows, lines;
};
constexpr StripSize kNativeStrip = {32, 4}, kNormalStrip = {4, 32};
// Where a line of the result takes many lines of the surfaces, longer runs of fewer: +30 % (int8,
// and three sums, from 3 MiB in turns as from 128 MiB; measured on a Zen 5).
constexpr StripSize kDeepStrip = {64, 2};
// Rows of the target at such a distance share few sets of L1, in which no more than these stay
// together until their lines are whole.
constexpr std::ptrdiff_t kCrowdedPitch = 2048;
constexpr StripSize kCrowdedStrip = {8, 16};
constexpr std::int64_t kManyLines = 2;  // that make up for what lies beside whole lines
constexpr std::int64_t kBufferRows = 64, kBufferLines = 4;  // where elements go one by one
constexpr std::int64_t kMostColumns = kLineBytes;           // of a line: int8's

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

class Unpacking {
 public:
  Unpacking(const SumSource& source, SumsOf sums, bool accumulate, const Target& target,
            SeenInStrips& seen)
      : source_(source),
        target_(target),
        accumulate_(accumulate),
        size_(std::ptrdiff_t(bytes_of(target.dtype))),
        line_(kLineBytes / size_),
        strip_size_(source.is_native ? kNativeStrip : kNormalStrip),
        unpackers_(unpackers_for(isa_in_use())),
        seen_(seen) {
    const auto strip = [&](bool is_native, Way way) {
      return unpackers_.of(sums, target.dtype, is_native, way);
    };
    store_ = strip(source.is_native, accumulate ? Way::add : Way::store);
    stream_ = strip(source.is_native, Way::stream);
    if (sums == SumsOf::floats && !source.row_floats) stream_ = nullptr;
    part_ = strip(false, accumulate ? Way::add : Way::store);
    if (!store_)
      throw Error(ErrorKind::argument, std::string(sums == SumsOf::integers ? "int32" : "float") +
                                           " sums can't be unpacked into " + name_of(target.dtype) +
                                           ".");
  }

  void run() {
    if (target_.column_stride != size_) {
      scatter();
      return;
    }
    const bool streams = target_.whole_bytes >= kStreamedFrom && !accumulate_;
    if (source_.is_native && (size_ == 1 || source_.a_low || source_.b_low))
      strip_size_ = kDeepStrip;
    if (!streams && source_.is_native && target_.row_stride % kCrowdedPitch == 0)
      strip_size_ = kCrowdedStrip;
    const std::int64_t lead = columns_to_line();
    const bool directly =
        streams && stream_ && (lead == 0 || (lead > 0 && target_.columns >= kManyLines * line_));
    const std::int64_t first = directly ? std::min(lead, target_.columns) : 0;
    const std::int64_t end = first + (target_.columns - first) / line_ * line_;
    for (std::int64_t row = 0; row < target_.rows; row += kBufferRows) {
      const std::int64_t rows = std::min(kBufferRows, target_.rows - row);
      ask_for_edges(target_, size_, row, rows, first > 0, end < target_.columns);
      for (std::int64_t r = row; r < row + rows; r += strip_size_.rows) {
        const std::int64_t some = std::min(strip_size_.rows, row + rows - r);
        if (streams && !directly)
          by_lines(r, some, end);
        else
          straight(directly ? stream_ : store_, r, some, first, end);
      }
      if (first > 0) beside_lines(row, rows, 0, first);
      if (end < target_.columns) beside_lines(row, rows, end, target_.columns - end);
    }
    if (streams) unpackers_.finish_streaming();
  }

 private:
  std::byte* at(std::int64_t row, std::int64_t column) const {
    return static_cast<std::byte*>(target_.data) + row * target_.row_stride +
           column * target_.column_stride;
  }

  /// How many columns lie before the first whole line of the target, if that is the same in all
  /// rows and strips can begin there; else -1.
  std::int64_t columns_to_line() const {
    const auto over = std::ptrdiff_t(reinterpret_cast<std::uintptr_t>(at(0, 0)) % kLineBytes);
    const std::ptrdiff_t lead = over == 0 ? 0 : kLineBytes - over;
    const bool same = target_.rows == 1 || target_.row_stride % kLineBytes == 0;
    return same && lead % (4 * size_) == 0 ? lead / size_ : -1;
  }

  /// The next strip is beside it, if that is before column `end`, or begins the next rows at
  /// `first`.
  Strip strip_at(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t lines,
                 std::int64_t first, std::int64_t end) const {
    const SumSource source = source_.from(row, column);
    return {.main = source.main,
            .a_low = source.a_low,
            .b_low = source.b_low,
            .row_step = source.row_step,
            .group_step = source.group_step,
            .of_rows = source.of_rows,
            .of_columns = source.of_columns,
            .row_floats = source.row_floats,
            .column_floats = source.column_floats,
            .rows = rows,
            .lines = lines,
            .next = source.next_strip(rows, column, lines * line_, first, end),
            .to = nullptr,
            .pitch = 0};
  }

  /// Whole lines, from column `first` to `end`.
  void straight(UnpackStrip unpack, std::int64_t row, std::int64_t rows, std::int64_t first,
                std::int64_t end) {
    for (std::int64_t column = first; column < end; column += strip_size_.lines * line_) {
      Strip strip = strip_at(row, rows, column, std::min(strip_size_.lines, (end - column) / line_),
                             first, end);
      strip.to = at(row, column);
      strip.pitch = target_.row_stride;
      unpack(strip, seen_);
    }
  }

  /// Less than a line of columns, at the begin or the end: stored as a part of a line that has all
  /// of them. (Added ones would be seen twice.)
  void beside_lines(std::int64_t row, std::int64_t rows, std::int64_t column,
                    std::int64_t columns) {
    const std::int64_t begin = column == 0 ? 0 : target_.columns - line_;
    if (accumulate_ || target_.columns < line_ || begin % 4 != 0) {
      by_buffer(row, rows, column, columns);
      return;
    }
    alignas(kLineBytes) std::byte buffer[kBufferRows * kLineBytes];
    Strip strip = strip_at(row, rows, begin, 1, begin, begin);
    strip.to = buffer;
    strip.pitch = kLineBytes;
    store_(strip, seen_);
    const std::byte* const from = buffer + (column - begin) * size_;
    for (std::int64_t r = 0; r < rows; ++r)
      std::memcpy(at(row + r, column), from + r * kLineBytes, std::size_t(columns * size_));
  }

  // Rows of the target begin anywhere in a line, and only whole lines can be streamed. So strips go
  // to a buffer in L1 whose rows have room in front for the bytes that the strip before left over.
  void by_lines(std::int64_t row, std::int64_t rows, std::int64_t end) {
    if (end == 0) return;
    const std::ptrdiff_t pitch = kLineBytes + strip_size_.lines * kLineBytes;
    alignas(kLineBytes) std::byte buffer[kDeepStrip.rows * (1 + kDeepStrip.lines) * kLineBytes];
    static_assert(kNormalStrip.rows * (1 + kNormalStrip.lines) * kLineBytes <= sizeof buffer);
    static_assert(kNativeStrip.rows * (1 + kNativeStrip.lines) * kLineBytes <= sizeof buffer);
    for (std::int64_t column = 0; column < end; column += strip_size_.lines * line_) {
      Strip strip =
          strip_at(row, rows, column, std::min(strip_size_.lines, (end - column) / line_), 0, end);
      strip.to = buffer + kLineBytes;
      strip.pitch = pitch;
      store_(strip, seen_);
      unpackers_.flush(strip.to, pitch, at(row, column), target_.row_stride, rows, strip.lines,
                       column == 0);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      std::byte* const to = at(row + r, end);
      const auto over = std::ptrdiff_t(reinterpret_cast<std::uintptr_t>(to) % kLineBytes);
      std::memcpy(to - over, buffer + r * pitch + kLineBytes - over, std::size_t(over));
    }
  }

  /// In the order in which the target lies in memory.
  void scatter() {
    const std::int64_t width = kBufferLines * line_;
    const auto strip = [&](std::int64_t row, std::int64_t column) {
      by_buffer(row, std::min(kBufferRows, target_.rows - row), column,
                std::min(width, target_.columns - column));
    };
    if (std::abs(target_.row_stride) < std::abs(target_.column_stride)) {
      for (std::int64_t column = 0; column < target_.columns; column += width)
        for (std::int64_t row = 0; row < target_.rows; row += kBufferRows) strip(row, column);
    } else {
      for (std::int64_t row = 0; row < target_.rows; row += kBufferRows)
        for (std::int64_t column = 0; column < target_.columns; column += width) strip(row, column);
    }
  }

  /// Any columns, at most a strip's. What lies beside them in the buffer is undefined.
  void by_buffer(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) {
    constexpr std::ptrdiff_t kPitch = kBufferLines * kLineBytes;
    alignas(kLineBytes) std::byte buffer[kBufferRows * kPitch];
    if (accumulate_)
      move<false>(std::size_t(size_), at(row, column), target_.row_stride, target_.column_stride,
                  buffer, kPitch, rows, columns);
    const std::int64_t lines = columns / line_, rest = columns % line_;
    if (lines > 0) {
      Strip strip = strip_at(row, rows, column, lines, column, column);
      strip.to = buffer;
      strip.pitch = kPitch;
      store_(strip, seen_);
    }
    if (rest > 0 && accumulate_)  // so that nothing that isn't there is seen
      for (std::int64_t r = 0; r < rows; ++r)
        std::memset(buffer + r * kPitch + columns * size_, 0, std::size_t((line_ - rest) * size_));
    if (rest > 0)
      part_of_line(row, rows, column + lines * line_, rest, buffer + lines * kLineBytes, kPitch);
    move<true>(std::size_t(size_), at(row, column), target_.row_stride, target_.column_stride,
               buffer, kPitch, rows, columns);
  }

  /// The last columns, as a line that zeros make whole, so that nothing beside the target counts.
  void part_of_line(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
                    std::byte* to, std::ptrdiff_t pitch) {
    std::uint32_t sums[3][kBufferRows * kMostColumns];
    alignas(double) std::byte of_columns[kMostColumns * sizeof(double)] = {};
    Strip strip = strip_at(row, rows, column, 1, column, column);
    if (source_.column_size > 0) {
      std::memcpy(of_columns, strip.of_columns, std::size_t(columns) * source_.column_size);
      strip.of_columns = of_columns;
    }
    strip.row_floats = nullptr;
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
    part_(strip, seen_);
  }

  const SumSource& source_;
  const Target& target_;
  const bool accumulate_;
  const std::ptrdiff_t size_;
  const std::int64_t line_;  // columns
  StripSize strip_size_;
  const Unpackers& unpackers_;
  UnpackStrip store_, stream_,
      part_;  // of whole lines, stored or added; streamed; of row-major parts
  SeenInStrips& seen_;
};

static_assert(kNormalStrip.lines * kMostColumns <= kMostStripColumns);
static_assert(kCrowdedStrip.lines * kMostColumns <= kMostStripColumns);

}  // namespace

const Unpackers& unpackers_for(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return kAvx512Unpackers;
  if (isa == Isa::avx2) return kAvx2Unpackers;
#endif
  (void)isa;
  return kPortableUnpackers;
}

void unpack_target(const SumSource& source, SumsOf sums, bool accumulate, const Target& target,
                   SeenInStrips& seen) {
  Unpacking(source, sums, accumulate, target, seen).run();
}

}  // namespace npublas
