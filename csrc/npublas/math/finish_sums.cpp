// # Finishing in one pass with unpacking
// For products of which all of K is in one tile. Sums that become floats by powers of two alone are
// finished in strips (finishers_strips.hpp), straight from the surface to where they belong. All
// others are unpacked into a part that stays in L1, and that is finished.
#include <algorithm>
#include <cstring>
#include <vector>

#include "npublas/math/finishers.hpp"
#include "npublas/math/scaled_sums.hpp"

namespace npublas {
namespace {

constexpr std::int64_t kPartRows = 32, kPartBytes = 1024;
constexpr std::int64_t kBlockRows = 64;  // whose lines are asked for

// As unpacking.cpp's: runs of memory from either kind of surface, and a result that stays in L1.
struct StripSize {
  std::int64_t rows, lines;
};
constexpr StripSize kNativeStrip = {64, 2}, kNormalStrip = {4, 32}, kBufferedStrip = {16, 16};

class FinishingSums {
 public:
  FinishingSums(ScaledSums sums, DType sums_type, const Epilogue& epilogue, const Target& target)
      : sums_(std::move(sums)),
        sums_type_(sums_type),
        epilogue_(epilogue),
        target_(target),
        machine_(finishers_for(isa_in_use())),
        size_(std::ptrdiff_t(bytes_of(target.dtype))),
        line_(kLineBytes / size_) {
    const SumSource* const source = sums_.by_powers();
    const bool is_easy =
        epilogue.alpha == 1 && epilogue.beta == 0 &&
        (epilogue.activation == Activation::none || epilogue.activation == Activation::relu);
    if (machine_ && source && is_easy && target.column_stride == size_ && take_bias())
      finish_strip_ = machine_->of_strip(SumsOf::floats, target.dtype);
  }

  Finished run() {
    if (finish_strip_)
      by_strips();
    else
      by_parts(0, target_.rows, 0, target_.columns);
    unpackers_for(isa_in_use()).finish_streaming();
    return {sums_.seen(), rounded_};
  }

 private:
  std::byte* at(std::int64_t row, std::int64_t column) const {
    return static_cast<std::byte*>(target_.data) + row * target_.row_stride +
           column * target_.column_stride;
  }

  /// The bias as floats; false if it isn't.
  bool take_bias() {
    bias_.assign(std::size_t(target_.columns), -0.0f);  // which adds nothing, not even a sign
    if (!epilogue_.bias) return true;
    unsigned differ = 0;
    for (std::size_t i = 0; i < bias_.size(); ++i) {
      bias_[i] = float(epilogue_.bias[i]);
      differ |= unsigned(double(bias_[i]) != epilogue_.bias[i]);
    }
    return differ == 0;
  }

  void by_strips() {
    const bool streams = target_.whole_bytes >= kStreamedFrom;
    const auto over = std::ptrdiff_t(reinterpret_cast<std::uintptr_t>(at(0, 0)) % kLineBytes);
    const bool same = target_.rows == 1 || target_.row_stride % kLineBytes == 0;
    const std::int64_t lead = (kLineBytes - over) % kLineBytes / size_;
    // Lines of the target that are written whole, if strips can begin where they do.
    const bool directly = streams && same && over % size_ == 0 && lead % 4 == 0;
    const bool buffered = streams && !directly;
    const StripSize strip = buffered                       ? kBufferedStrip
                            : sums_.by_powers()->is_native ? kNativeStrip
                                                           : kNormalStrip;
    const std::int64_t first = directly ? std::min(lead, target_.columns) : 0;
    const std::int64_t end = first + (target_.columns - first) / line_ * line_;
    for (std::int64_t row = 0; row < target_.rows; row += kBlockRows) {
      const std::int64_t rows = std::min(kBlockRows, target_.rows - row);
      ask_for_edges(target_, size_, row, rows, first > 0, end < target_.columns);
      for (std::int64_t r = row; r < row + rows; r += strip.rows) {
        const std::int64_t some = std::min(strip.rows, row + rows - r);
        for (std::int64_t column = first; column < end; column += strip.lines * line_) {
          const std::int64_t lines = std::min(strip.lines, (end - column) / line_);
          const Columns columns{column, lines, first, end};
          if (buffered)
            by_buffer(r, some, columns);
          else
            by_strip(r, some, columns, at(r, column), target_.row_stride, directly);
        }
      }
      if (first > 0) beside_lines(row, rows, 0, first);
      if (end < target_.columns) beside_lines(row, rows, end, target_.columns - end);
    }
  }

  /// Some lines, and where strips begin and end.
  struct Columns {
    std::int64_t begin, lines, first, end;
  };

  /// Less than a line of columns, at the begin or the end: as a part of a line that has all of
  /// them.
  void beside_lines(std::int64_t row, std::int64_t rows, std::int64_t column,
                    std::int64_t columns) {
    const std::int64_t begin = column == 0 ? 0 : target_.columns - line_;
    if (begin < 0 || begin % 4 != 0 || target_.columns < line_) {
      by_parts(row, rows, column, columns);
      return;
    }
    alignas(kLineBytes) std::byte buffer[kBlockRows * kLineBytes];
    by_strip(row, rows, {begin, 1, begin, begin}, buffer, kLineBytes, false);
    const std::byte* const from = buffer + (column - begin) * size_;
    for (std::int64_t r = 0; r < rows; ++r)
      std::memcpy(at(row + r, column), from + r * kLineBytes, std::size_t(columns * size_));
  }

  void by_buffer(std::int64_t row, std::int64_t rows, const Columns& columns) {
    constexpr std::ptrdiff_t kPitch = kBufferedStrip.lines * kLineBytes;
    alignas(kLineBytes) std::byte buffer[kBufferedStrip.rows * kPitch];
    by_strip(row, rows, columns, buffer, kPitch, false);
    for (std::int64_t r = 0; r < rows; ++r)
      machine_->stream(buffer + r * kPitch, at(row + r, columns.begin),
                       std::size_t(columns.lines * kLineBytes));
  }

  void by_strip(std::int64_t row, std::int64_t rows, const Columns& columns, std::byte* to,
                std::ptrdiff_t pitch, bool streams) {
    const auto [column, lines, first, end] = columns;
    const SumSource source = sums_.by_powers()->from(row, column);
    const FinishStrip strip{.main = source.main,
                            .row_step = source.row_step,
                            .group_step = source.group_step,
                            .row_floats = source.row_floats,
                            .column_floats = source.column_floats,
                            .bias = bias_.data() + column,
                            .relu = epilogue_.activation == Activation::relu,
                            .rows = rows,
                            .lines = lines,
                            .next = source.next_strip(rows, column, lines * line_, first, end),
                            .to = to,
                            .pitch = pitch,
                            .is_native = source.is_native,
                            .streams = streams};
    for (std::int64_t done = 0; (done = finish_strip_(strip, done, sums_.seen_in_strips(),
                                                      rounded_.underflow)) < rows * lines;
         ++done) {
      const std::int64_t r = done % rows, line = done / rows;
      finish_part(row + r, 1, column + line * line_, line_,
                  {.data = to + r * pitch + line * kLineBytes,
                   .row_stride = pitch,
                   .column_stride = size_,
                   .dtype = target_.dtype,
                   .rows = 1,
                   .columns = line_});
    }
  }

  void by_parts(std::int64_t first_row, std::int64_t all_rows, std::int64_t first_column,
                std::int64_t all_columns) {
    const std::int64_t most = kPartBytes / std::int64_t(bytes_of(sums_type_));
    for (std::int64_t row = first_row; row < first_row + all_rows; row += kPartRows) {
      const std::int64_t rows = std::min(kPartRows, first_row + all_rows - row);
      for (std::int64_t column = first_column; column < first_column + all_columns;
           column += most) {
        Target target = target_;
        target.data = at(row, column);
        target.rows = rows;
        target.columns = std::min(most, first_column + all_columns - column);
        finish_part(row, rows, column, target.columns, target);
      }
    }
  }

  void finish_part(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
                   const Target& target) {
    alignas(kLineBytes) std::byte buffer[kPartRows * kPartBytes];
    const auto size = std::ptrdiff_t(bytes_of(sums_type_));
    sums_.unpack(row, column,
                 {.data = buffer,
                  .row_stride = columns * size,
                  .column_stride = size,
                  .dtype = sums_type_,
                  .rows = rows,
                  .columns = columns});
    Epilogue part = epilogue_;
    if (part.bias) part.bias += column;
    const Rounded now = begin_to_finish(buffer, sums_type_, part, target);
    rounded_.overflow |= now.overflow;
    rounded_.underflow |= now.underflow;
  }

  ScaledSums sums_;
  const DType sums_type_;
  const Epilogue& epilogue_;
  const Target& target_;
  const Finishers* const machine_;
  const std::ptrdiff_t size_;
  const std::int64_t line_;  // columns
  std::vector<float> bias_;
  FinishLines finish_strip_ = nullptr;
  Rounded rounded_;
};

}  // namespace

Finished finish_floats(const FloatSums& sums, const Surface& surface, const double* row_scales,
                       const double* column_scales, DType sums_type, const Epilogue& epilogue,
                       const Target& target) {
  return FinishingSums({kind_of(sums), sums.main, sums.a_low, sums.b_low, surface, row_scales,
                        column_scales, false, target.rows, target.columns, sums_type},
                       sums_type, epilogue, target)
      .run();
}

Finished finish_quantized(const std::int32_t* sums, const Surface& surface,
                          const double* row_scales, const double* column_scales, DType sums_type,
                          const Epilogue& epilogue, const Target& target) {
  return FinishingSums({SumsOf::quantized, sums, nullptr, nullptr, surface, row_scales,
                        column_scales, false, target.rows, target.columns, sums_type},
                       sums_type, epilogue, target)
      .run();
}

}  // namespace npublas
