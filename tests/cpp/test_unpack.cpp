// Unpacking and finishing with each set of instructions of the machine: the same as the formula,
// bit for bit, at the edges of strips and lines. (tests/test_unpack.py holds more of them against
// NumPy; here the sanitizers look on, and other machines than x86-64 can.)
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "npublas/base/cpu_features.hpp"
#include "npublas/base/half.hpp"
#include "npublas/math/finish.hpp"
#include "npublas/math/pack.hpp"
#include "npublas/math/unpack.hpp"

namespace npublas {
namespace {

class Using {
 public:
  explicit Using(Isa isa) : before_(isa_in_use()) { use_isa(isa); }
  ~Using() { use_isa(before_); }

 private:
  Isa before_;
};

std::vector<Isa> isas() {
  std::vector<Isa> found;
  for (const Isa isa : kAllIsas)
    if (has(isa)) found.push_back(isa);
  return found;
}

struct Case {
  std::int64_t rows, columns;
  Layout layout;
  Surface surface() const {
    return {rows == 1 ? 1 : (rows + 3) / 4 * 4, (columns + 31) / 32 * 32, layout};
  }
  std::size_t at(std::int64_t row, std::int64_t column) const {
    return layout == Layout::native ? layout::c_at(row, column, surface().rows)
                                    : std::size_t(row * surface().columns + column);
  }
  /// Exactly as large as it has to be, so that AddressSanitizer sees what is read beyond.
  std::vector<float> floats(std::mt19937& random) const {
    std::vector<float> values(std::size_t(surface().rows * surface().columns));
    std::normal_distribution<float> normal;
    for (float& value : values) value = random() % 16 == 0 ? 0.0f : std::ldexp(normal(random), 30);
    return values;
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Layout layout : {Layout::native, Layout::normal})
    for (const std::int64_t rows : {1, 3, 4, 31, 33, 65})
      for (const std::int64_t columns : {1, 4, 15, 16, 17, 63, 64, 65, 130, 1601})
        all.push_back({rows, columns, layout});
  return all;
}

}  // namespace

TEST_CASE("int32 sums are unpacked as the formula says, by each set of instructions") {
  std::mt19937 random(1);
  for (const Isa isa : isas()) {
    const Using now(isa);
    for (const Case& c : cases()) {
      const Surface surface = c.surface();
      std::vector<std::int32_t> sums(std::size_t(surface.rows * surface.columns));
      for (auto& sum : sums) sum = std::int32_t(random());
      std::vector<std::int32_t> of_columns(std::size_t(c.columns), 7);
      for (const bool accumulate : {false, true}) {
        for (const std::size_t whole : {std::size_t(0), std::size_t(1) << 30}) {
          std::vector<std::int8_t> bytes(std::size_t(c.rows * c.columns), 5);
          std::vector<std::int32_t> words(std::size_t(c.rows * c.columns), 5);
          const auto into = [&](void* data, DType dtype, std::ptrdiff_t size) {
            unpack_integers(sums.data(), surface, nullptr, of_columns.data(), accumulate,
                            {.data = data,
                             .row_stride = size * c.columns,
                             .column_stride = size,
                             .dtype = dtype,
                             .rows = c.rows,
                             .columns = c.columns,
                             .whole_bytes = whole});
          };
          into(bytes.data(), DType::int8, 1);
          into(words.data(), DType::int32, 4);
          bool right = true;
          for (std::int64_t row = 0; row < c.rows; ++row) {
            for (std::int64_t column = 0; column < c.columns; ++column) {
              const std::uint32_t sum = std::uint32_t(sums[c.at(row, column)]) + 7 + 5 * accumulate;
              const auto i = std::size_t(row * c.columns + column);
              right &= words[i] == std::int32_t(sum) && bytes[i] == std::int8_t(sum);
            }
          }
          CHECK(right);
        }
      }
    }
  }
}

TEST_CASE("float sums are unpacked and finished as the formula says, by each of them") {
  std::mt19937 random(2);
  for (const Isa isa : isas()) {
    const Using now(isa);
    for (const Case& c : cases()) {
      const auto main = c.floats(random), a_low = c.floats(random), b_low = c.floats(random);
      std::vector<double> of_rows(std::size_t(c.rows)), of_columns(std::size_t(c.columns));
      for (auto& scale : of_rows) scale = std::ldexp(1.0, -int(random() % 40));
      for (auto& scale : of_columns) scale = std::ldexp(1.0, -int(random() % 40));
      const std::vector<double> bias(std::size_t(c.columns), 0.25);
      for (const bool in_parts : {false, true}) {
        const FloatSums sums{main.data(), in_parts ? a_low.data() : nullptr,
                             in_parts ? b_low.data() : nullptr};
        std::vector<float> stored(std::size_t(c.rows * c.columns)), added(stored.size(), 1.0f);
        std::vector<std::uint16_t> halves(stored.size());
        const auto target = [&](void* data, DType dtype, std::ptrdiff_t size, std::size_t whole) {
          return Target{.data = data,
                        .row_stride = size * c.columns,
                        .column_stride = size,
                        .dtype = dtype,
                        .rows = c.rows,
                        .columns = c.columns,
                        .whole_bytes = whole};
        };
        unpack_floats(sums, c.surface(), of_rows.data(), of_columns.data(), false,
                      target(stored.data(), DType::float32, 4, std::size_t(1) << 30));
        unpack_floats(sums, c.surface(), of_rows.data(), of_columns.data(), true,
                      target(added.data(), DType::float32, 4, 0));
        finish_floats(sums, c.surface(), of_rows.data(), of_columns.data(), DType::float32,
                      {.bias = bias.data(), .activation = Activation::relu},
                      target(halves.data(), DType::float16, 2, 0));
        bool right = true;
        for (std::int64_t row = 0; row < c.rows; ++row) {
          for (std::int64_t column = 0; column < c.columns; ++column) {
            const std::size_t from = c.at(row, column);
            double sum = main[from];
            if (in_parts) sum += (double(a_low[from]) + double(b_low[from])) * kLowScale;
            sum *= of_rows[std::size_t(row)] * of_columns[std::size_t(column)];
            const auto i = std::size_t(row * c.columns + column);
            right &= stored[i] == float(sum) && added[i] == float(1.0 + sum);
            const double finished = std::fmax(double(float(sum)) + 0.25, 0.0);
            right &= halves[i] == float_to_half(double_to_odd_float(finished));
          }
        }
        CHECK(right);
      }
    }
  }
}

// Of these, sums and biases are made whose sums are halfway between two float16 or bfloat16, or
// would be but for a hair that float32 doesn't show; zeros of both signs; and whatever is too small
// or too large to be ordinary.
constexpr float kSums[] = {
    0.0f,       -0.0f,        1.0f,      -2049.0f,         2051.0f,     257.0f,
    0x1.8p-15f, 65519.0f,     65520.0f,  -65504.0f,        0x1p-24f,    0x1p-25f,
    3.0f,       -0x1.8p-140f, 0x1p-126f, 0x1.fffffcp-127f, 0x1.fep127f, 0x1.00000fp11f};
constexpr float kBiases[] = {0.0f,      -0.0f,     0x1p-20f,  -0x1p-20f,   0x1p-40f,
                             1.0f,      -1.0f,     2049.0f,   0.5f,        0x1p-16f,
                             -0x1p-30f, 0x1p-130f, 0x1p-126f, -0x1.fep127f};

TEST_CASE("sums are finished by each of them as by the portable loops, wherever rows begin") {
  std::mt19937 random(3);
  const auto one_of = [&](const auto& values) {
    return values[random() % (sizeof values / sizeof values[0])];
  };
  for (const auto& [dtype, size] : {std::pair{DType::float16, 2}, std::pair{DType::bfloat16, 2},
                                    std::pair{DType::float32, 4}}) {
    for (const Case& c : cases()) {
      // Mostly what is ordinary, or mostly what isn't; the large ones hide that nothing else
      // happens.
      const unsigned rare = random() % 2 ? 400 : 2;
      const bool is_large = random() % 4 == 0, is_negative = random() % 4 == 0,
                 has_bias = !is_negative && random() % 4 != 0;
      std::normal_distribution<float> normal;
      std::vector<float> main(std::size_t(c.surface().rows * c.surface().columns));
      for (float& sum : main) {
        sum = random() % rare == 0 ? one_of(kSums) : normal(random);
        if (!is_large && std::fabs(sum) > 1e5f) sum = 1;
        if (is_negative) sum = -std::fabs(sum);
      }
      if (random() % 8 == 0) main[random() % main.size()] = INFINITY;
      std::vector<double> of_rows(std::size_t(c.rows)), of_columns(std::size_t(c.columns)),
          bias(std::size_t(c.columns));
      for (double& scale : of_rows) scale = std::ldexp(1.0, int(random() % 3) - 1);
      for (double& scale : of_columns) scale = std::ldexp(1.0, int(random() % 3) - 1);
      for (double& b : bias) {
        b = random() % rare == 0 ? one_of(kBiases) : normal(random);
        if (!is_large && std::fabs(b) > 1e5) b = 1;
      }
      const Epilogue epilogue{.bias = has_bias ? bias.data() : nullptr,
                              .activation = random() % 2 ? Activation::relu : Activation::none};
      const std::ptrdiff_t pitch =
          random() % 2 ? (c.columns * size + 63) / 64 * 64 : (c.columns + 1) * size;
      const std::size_t offset = std::size_t(size) * (random() % 32);
      const std::size_t whole = random() % 2 ? std::size_t(1) << 30 : 0;
      const auto finished_by = [&](Isa isa, std::vector<std::byte>& room) {
        const Using now(isa);
        room.assign(std::size_t(pitch * c.rows) + 256, std::byte(0x5a));
        const auto over = reinterpret_cast<std::uintptr_t>(room.data()) % 64;
        return finish_floats({main.data(), nullptr, nullptr}, c.surface(), of_rows.data(),
                             of_columns.data(), DType::float32, epilogue,
                             {.data = room.data() + (64 - over) + offset,
                              .row_stride = pitch,
                              .column_stride = size,
                              .dtype = dtype,
                              .rows = c.rows,
                              .columns = c.columns,
                              .whole_bytes = whole});
      };
      const auto shown = [&](const std::vector<std::byte>& room) {
        const auto over = reinterpret_cast<std::uintptr_t>(room.data()) % 64;
        return std::vector<std::byte>(room.begin() + std::ptrdiff_t(64 - over),
                                      room.end() - std::ptrdiff_t(over));
      };
      std::vector<std::byte> right, found;
      const Finished expected = finished_by(Isa::portable, right);
      for (const Isa isa : isas()) {
        const Finished got = finished_by(isa, found);
        CHECK(shown(found) == shown(right));
        CHECK(got.rounded.overflow == expected.rounded.overflow);
        CHECK(got.rounded.underflow == expected.rounded.underflow);
        CHECK(got.unpacked.finite == expected.unpacked.finite);
        CHECK(got.unpacked.underflow == expected.unpacked.underflow);
        CHECK(got.unpacked.main_zero == expected.unpacked.main_zero);
      }
    }
  }
}

}  // namespace npublas
