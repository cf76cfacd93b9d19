#include "cpu.hpp"

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cstdlib>
#include <memory>
#include <type_traits>

#include "npublas/base/half.hpp"

namespace npublas {
namespace {

constexpr std::int64_t kRows = 512;     // with these, A and B are 2 MiB each as float32,
constexpr std::int64_t kColumns = 512;  // C and its sums 1 MiB each

/// The depth of a block; see cpu.hpp: the largest power of two that is exact for integers.
template <typename A, typename B>
constexpr std::int64_t kDepth =
    std::int64_t(1024) >> (std::is_same_v<A, std::uint8_t> + std::is_same_v<B, std::uint8_t>);

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
template <typename T>
using Scratch = std::unique_ptr<T[], Free>;

template <typename T>
Scratch<T> scratch(std::int64_t count) {
  return Scratch<T>(static_cast<T*>(std::malloc(std::size_t(count) * sizeof(T))));
}

/// The narrow floats as the conversions see them: not integers.
struct Half {
  std::uint16_t bits;
};
struct BFloat {
  std::uint16_t bits;
};
template <typename T>
constexpr bool is_narrow_float = std::is_same_v<T, Half> || std::is_same_v<T, BFloat>;

inline float to_float(std::int8_t value) { return value; }
inline float to_float(std::uint8_t value) { return value; }
inline float to_float(Half value) { return half_to_float(value.bits); }
inline float to_float(BFloat value) { return bfloat16_to_float(value.bits); }

/// The part of `view` that starts at an item, a row and a column.
View part_of(const View& view, std::int64_t item, std::int64_t row, std::int64_t column) {
  return {view.at(item, row, column), view.batch_stride, view.row_stride, view.column_stride};
}

/// A block of an operand as float32, and where its rows and columns lie.
struct Block {
  float* data;
  std::ptrdiff_t row_stride, column_stride;  // in bytes
};

/// Copies a block to `to`, as float32. What is contiguous in the operand stays so: the float32 loop
/// reads a transposed operand as well as a plain one.
template <typename In>
Block load(const View& from, std::int64_t rows, std::int64_t columns, float* to) {
  const auto [data, batch_stride, row_stride, column_stride] = from;
  // The stride of a single row or column says nothing; NumPy sets it to 0.
  const bool transposed =
      rows > 1 && (columns == 1 || std::abs(row_stride) < std::abs(column_stride));
  const std::int64_t lines = transposed ? columns : rows;
  const std::int64_t length = transposed ? rows : columns;
  const std::ptrdiff_t line_stride = transposed ? column_stride : row_stride;
  const std::ptrdiff_t stride = transposed ? row_stride : column_stride;
  for (std::int64_t line = 0; line < lines; ++line) {
    const char* const source = static_cast<const char*>(data) + line * line_stride;
    float* const target = to + line * length;
    if (stride == std::ptrdiff_t(sizeof(In))) {
      const In* const values = reinterpret_cast<const In*>(source);
      for (std::int64_t i = 0; i < length; ++i) target[i] = to_float(values[i]);
    } else {
      for (std::int64_t i = 0; i < length; ++i) {
        target[i] = to_float(*reinterpret_cast<const In*>(source + i * stride));
      }
    }
  }
  const std::ptrdiff_t along = sizeof(float), across = length * std::ptrdiff_t(sizeof(float));
  return transposed ? Block{to, along, across} : Block{to, across, along};
}

// The type that partial products are added in. Unsigned, because it wraps.
template <typename Out>
using Sum =
    std::conditional_t<is_narrow_float<Out> || std::is_same_v<Out, float>, float, std::uint32_t>;

inline std::uint32_t to_sum(float value, std::uint32_t) {
  return std::uint32_t(std::int32_t(value));
}
inline float to_sum(float value, float) { return value; }

inline void round_to(std::uint32_t sum, std::int8_t* to) { *to = std::int8_t(sum); }
inline void round_to(std::uint32_t sum, std::int16_t* to) { *to = std::int16_t(sum); }
inline void round_to(std::uint32_t sum, std::int32_t* to) { *to = std::int32_t(sum); }
inline void round_to(float sum, float* to) { *to = sum; }
inline void round_to(float sum, Half* to) { to->bits = float_to_half(sum); }
inline void round_to(float sum, BFloat* to) { to->bits = float_to_bfloat16(sum); }

// As bits of a float: the smallest sum that rounds to infinity, and the smallest normal number.
template <typename Out>
constexpr std::uint32_t kOverflows = std::is_same_v<Out, Half> ? 0x477ff000u : 0x7f7f8000u;
template <typename Out>
constexpr std::uint32_t kNormal = std::is_same_v<Out, Half> ? 0x38800000u : 0x00800000u;

/// Raises what NumPy's own conversion to float16 does: overflow if a finite sum becomes infinite,
/// underflow if a sum below the normal numbers is not exactly representable. It looks at the bits,
/// because a comparison with NaN raises a flag of its own.
template <typename Out>
void raise_flags(const Sum<Out>* sums, std::int64_t count) {
  if constexpr (is_narrow_float<Out>) {
    std::uint32_t overflow = 0, underflow = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint32_t bits = std::bit_cast<std::uint32_t>(sums[i]) & 0x7fffffffu;
      Out rounded;
      round_to(std::bit_cast<float>(bits), &rounded);
      const std::uint32_t is_inexact = std::bit_cast<std::uint32_t>(to_float(rounded)) ^ bits;
      overflow |= mask_if(bits >= kOverflows<Out>) & mask_if(bits < 0x7f800000u);
      underflow |= mask_if(bits < kNormal<Out>) & is_inexact;
    }
    if (overflow) std::feraiseexcept(FE_OVERFLOW);
    if (underflow) std::feraiseexcept(FE_UNDERFLOW);
  }
}

/// The scratch memory of a product, and the steps of the pseudo-code in cpu.hpp.
template <typename A, typename B, typename Out>
class Blocks {
 public:
  Blocks(const Product& product, const NumpyLoop& float32)
      : product_(product),
        float32_(float32),
        rows_(std::min(product.shape.m, kRows)),
        columns_(std::min(product.shape.n, kColumns)),
        depth_(std::min(product.shape.k, kDepth<A, B>)),
        a_(scratch<float>(rows_ * depth_)),
        b_(scratch<float>(depth_ * columns_)),
        part_(scratch<float>(rows_ * columns_)),
        sums_(scratch<Sum<Out>>(rows_ * columns_)) {}

  bool has_memory() const { return a_ && b_ && part_ && sums_; }

  /// Computes item `item` of the stack.
  void multiply(std::int64_t item) {
    const auto [batch, m, k, n] = product_.shape;
    const View a = part_of(product_.a, item, 0, 0), b = part_of(product_.b, item, 0, 0);
    for (std::int64_t row = 0; row < m; row += rows_) {
      const std::int64_t height = std::min(rows_, m - row);
      for (std::int64_t column = 0; column < n; column += columns_) {
        const std::int64_t width = std::min(columns_, n - column);
        for (std::int64_t depth = 0; depth < k; depth += depth_) {
          const std::int64_t length = std::min(depth_, k - depth);
          // With a single step of depth, A stays loaded from one block of columns to the next.
          if (column == 0 || k > depth_) {
            a_block_ = load<A>(part_of(a, 0, row, depth), height, length, a_.get());
          }
          b_block_ = load<B>(part_of(b, 0, depth, column), length, width, b_.get());
          multiply_block(height, length, width);
          add(height * width, depth == 0);
        }
        store(item, row, column, height, width);
      }
    }
  }

 private:
  void multiply_block(std::int64_t height, std::int64_t length, std::int64_t width) {
    const npy_intp part_row_stride = width * std::int64_t(sizeof(float));
    char* args[] = {reinterpret_cast<char*>(a_block_.data), reinterpret_cast<char*>(b_block_.data),
                    reinterpret_cast<char*>(part_.get())};
    const npy_intp dims[] = {1, height, length, width};
    const npy_intp steps[] = {0,
                              0,
                              0,
                              a_block_.row_stride,
                              a_block_.column_stride,
                              b_block_.row_stride,
                              b_block_.column_stride,
                              part_row_stride,
                              sizeof(float)};
    float32_(args, dims, steps);
  }

  void add(std::int64_t count, bool first) {
    const float* const part = part_.get();
    Sum<Out>* const sums = sums_.get();
    if (first) {
      for (std::int64_t i = 0; i < count; ++i) sums[i] = to_sum(part[i], Sum<Out>());
    } else {
      for (std::int64_t i = 0; i < count; ++i) sums[i] += to_sum(part[i], Sum<Out>());
    }
  }

  void store(std::int64_t item, std::int64_t row, std::int64_t column, std::int64_t height,
             std::int64_t width) {
    const MutableView& c = product_.c;
    raise_flags<Out>(sums_.get(), height * width);
    for (std::int64_t i = 0; i < height; ++i) {
      const Sum<Out>* const from = sums_.get() + i * width;
      char* const to = static_cast<char*>(c.at(item, row + i, column));
      if (c.column_stride == std::ptrdiff_t(sizeof(Out))) {
        Out* const target = reinterpret_cast<Out*>(to);
        for (std::int64_t j = 0; j < width; ++j) round_to(from[j], &target[j]);
      } else {
        for (std::int64_t j = 0; j < width; ++j) {
          round_to(from[j], reinterpret_cast<Out*>(to + j * c.column_stride));
        }
      }
    }
  }

  const Product& product_;
  const NumpyLoop& float32_;
  const std::int64_t rows_, columns_, depth_;
  const Scratch<float> a_, b_, part_;
  const Scratch<Sum<Out>> sums_;
  Block a_block_{}, b_block_{};
};

template <typename A, typename B, typename Out>
bool multiply_blocks(const Product& product, const NumpyLoop& float32) {
  Blocks<A, B, Out> blocks(product, float32);
  if (!blocks.has_memory()) return false;
  for (std::int64_t item = 0; item < product.shape.batch; ++item) blocks.multiply(item);
  return true;
}

template <typename A, typename B, typename Out>
void multiply_elements(const Product& product) {
  const auto [batch, m, k, n] = product.shape;
  for (std::int64_t item = 0; item < batch; ++item) {
    for (std::int64_t row = 0; row < m; ++row) {
      for (std::int64_t column = 0; column < n; ++column) {
        const auto* left = static_cast<const char*>(product.a.at(item, row, 0));
        const auto* right = static_cast<const char*>(product.b.at(item, 0, column));
        Sum<Out> sum = 0;
        for (std::int64_t i = 0; i < k; ++i) {
          // A product of two of these is exact in float32 (bfloat16 may leave its range).
          sum += to_sum(to_float(*reinterpret_cast<const A*>(left)) *
                            to_float(*reinterpret_cast<const B*>(right)),
                        Sum<Out>());
          left += product.a.column_stride;
          right += product.b.row_stride;
        }
        raise_flags<Out>(&sum, 1);
        round_to(sum, static_cast<Out*>(product.c.at(item, row, column)));
      }
    }
  }
}

/// Calls `with.operator()<A, B, Out>()` with the types of the product.
template <typename With>
auto with_types(const Product& product, With with) {
  using std::int8_t, std::uint8_t, std::int16_t, std::int32_t;
  if (product.a_type == DType::float16) return with.template operator()<Half, Half, Half>();
  if (product.a_type == DType::bfloat16)
    return product.out == DType::float32 ? with.template operator()<BFloat, BFloat, float>()
                                         : with.template operator()<BFloat, BFloat, BFloat>();
  // uint8 results count modulo 256, and modulo 256 a uint8 is the int8 of the same bits.
  if (product.out == DType::int8 || product.out == DType::uint8)
    return with.template operator()<int8_t, int8_t, int8_t>();
  const bool a_unsigned = product.a_type == DType::uint8,
             b_unsigned = product.b_type == DType::uint8;
  if (product.out == DType::int16)
    return a_unsigned ? with.template operator()<uint8_t, int8_t, int16_t>()
                      : with.template operator()<int8_t, uint8_t, int16_t>();
  if (a_unsigned && b_unsigned) return with.template operator()<uint8_t, uint8_t, int32_t>();
  if (a_unsigned) return with.template operator()<uint8_t, int8_t, int32_t>();
  if (b_unsigned) return with.template operator()<int8_t, uint8_t, int32_t>();
  return with.template operator()<int8_t, int8_t, int32_t>();
}

}  // namespace

bool multiply_in_blocks(const Product& product, const NumpyLoop& float32) {
  return with_types(product, [&]<typename A, typename B, typename Out>() {
    return multiply_blocks<A, B, Out>(product, float32);
  });
}

void multiply_plainly(const Product& product) {
  with_types(product, [&]<typename A, typename B, typename Out>() {
    multiply_elements<A, B, Out>(product);
  });
}

}  // namespace npublas
