// int4: surfaces against the layouts' formula, and products against integers, in every way to them.
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "fakes/load_fake.hpp"
#include "npublas/base/crc32.hpp"
#include "npublas/base/on_chip.hpp"
#include "npublas/device/context.hpp"
#include "npublas/engine/engine.hpp"
#include "npublas/engine/trust.hpp"
#include "npublas/math/check.hpp"
#include "npublas/math/int4.hpp"

using namespace npublas;
using Bytes = std::vector<std::int8_t>;
using Nibbles = std::vector<std::uint8_t>;

namespace {

/// The number at an index of a packed surface: that of the even index is the lower half.
int nibble_at(const Nibbles& surface, std::size_t index) {
  const int half = index % 2 == 0 ? surface[index / 2] & 15 : surface[index / 2] >> 4;
  return half < 8 ? half : half - 16;
}

/// Numbers of lowest..highest in no simple pattern, the ends among them.
int some(std::int64_t i, int lowest, int highest) {
  return lowest + int((i * 7919 + i / 13 * 31 + i * i % 101) % (highest - lowest + 1));
}

/// A's int8 surface of these numbers.
Bytes surface_of_a(std::int64_t rows, std::int64_t depth, int lowest, int highest) {
  Bytes bytes(std::size_t(rows * depth));
  for (std::int64_t m = 0; m < rows; ++m)
    for (std::int64_t k = 0; k < depth; ++k)
      bytes[layout::a_at(Element::int8, m, k, rows)] =
          std::int8_t(some(m * depth + k, lowest, highest));
  return bytes;
}

struct Simulator {
  void* library = dlopen(NPUBLAS_SIMULATOR_PATH, RTLD_NOW);
  template <typename Function>
  Function* find(const char* name) const {
    auto* const found = reinterpret_cast<Function*>(dlsym(library, name));
    REQUIRE(bool(found));
    return found;
  }
  ~Simulator() { find<void()>("npublas_simulator_reset")(); }
  void set(const char* setting, std::int64_t value) const {
    REQUIRE(find<int(const char*, std::int64_t)>("npublas_simulator_set")(setting, value) == 0);
  }
  void arm(const char* fault, std::int64_t nth, std::int64_t count) const {
    REQUIRE(find<int(const char*, std::int64_t, std::int64_t)>("npublas_simulator_arm")(
                fault, nth, count) == 0);
  }
  std::int64_t count(const char* name) const {
    std::int64_t value = 0;
    REQUIRE(find<int(const char*, std::int64_t*)>("npublas_simulator_counter")(name, &value) == 0);
    return value;
  }
};

struct OpenEngine {
  explicit OpenEngine(std::size_t window = std::size_t(64) << 20) {
    open_engine(
        {.runtime = NPUBLAS_SIMULATOR_PATH, .memory_limit = window, .cores = 3, .lock_file = ""});
  }
  ~OpenEngine() { close_engine(); }
};

constexpr Settings kOnNpu{.device = Device::npu, .precision = Precision::int8};

/// Integers, packed as int4, and int8 to multiply by them, with the answer beside.
struct Example {
  Shape shape;
  Bytes a, b;
  std::vector<std::int32_t> c, expected;
  std::shared_ptr<const Weights> weights;
  int a_limit;

  Example(const Shape& s, int limit, int a_lowest, int a_highest, int b_lowest, int b_highest)
      : shape(s), a_limit(limit) {
    const auto [batch, m, k, n] = shape;
    a.resize(std::size_t(batch * m * k));
    b.resize(std::size_t(batch * k * n));
    for (std::size_t i = 0; i < a.size(); ++i)
      a[i] = std::int8_t(some(std::int64_t(i), a_lowest, a_highest));
    for (std::size_t i = 0; i < b.size(); ++i)
      b[i] = std::int8_t(some(std::int64_t(i) + 5, b_lowest, b_highest));
    expected.assign(std::size_t(batch * m * n), 0);
    for (std::int64_t s1 = 0; s1 < batch; ++s1)
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t p = 0; p < k; ++p)
          for (std::int64_t j = 0; j < n; ++j)
            expected[std::size_t((s1 * m + i) * n + j)] +=
                a[std::size_t((s1 * m + i) * k + p)] * b[std::size_t((s1 * k + p) * n + j)];
    const WeightsGrid grid = grid_for(Method::int4, DType::int8, batch, k, n);
    auto packed =
        std::make_shared<PackedWeights>(pack_weights({b.data(), k * n, n, 1}, grid, nullptr));
    weights = std::make_shared<Weights>(grid, packed->bytes, packed->entries, packed);
  }

  Request request() {
    const auto [batch, m, k, n] = shape;
    c.assign(expected.size(), -1);
    return {.product = {.a_type = DType::int8,
                        .b_type = DType::int8,
                        .out = DType::int32,
                        .shape = shape,
                        .a = {a.data(), m * k, k, 1},
                        .c = {c.data(), m * n * 4, n * 4, 4}},
            .weights = weights,
            .a_limit = a_limit};
  }

  bool is_right() {
    const Request asked = request();
    const Outcome outcome = multiply(asked, kOnNpu);
    INFO(outcome.detail);
    CHECK(int(outcome.reason) == int(Reason::npu));
    return c == expected;
  }

  Element element() const {
    const auto plan = plan_for(DType::int8, DType::int8, DType::int32, Precision::float32, shape,
                               weights.get(), 0, a_limit);
    REQUIRE(plan.has_value());
    return plan->element;
  }
};

}  // namespace

TEST_CASE("one and two parts of A follow the layout's formula, low parts first") {
  for (const std::int64_t rows : {1, 3, 4, 12}) {
    for (const std::int64_t depth : {32, 96}) {
      for (const int parts : {1, 2}) {
        const Bytes bytes =
            surface_of_a(rows, depth, parts == 1 ? -8 : -128, parts == 1 ? 7 : kTwoPartsMax);
        const std::int64_t surface_rows = (parts * rows + 3) / 4 * 4;
        Nibbles nibbles(std::size_t(surface_rows * depth / 2), 0xaa);
        REQUIRE(nibbles_of_a(bytes.data(), rows, depth, parts, surface_rows, nibbles.data()));
        int wrong = 0;
        for (std::int64_t m = 0; m < surface_rows; ++m) {
          for (std::int64_t k = 0; k < depth; ++k) {
            const auto part = [&](std::int64_t row) {
              return nibble_at(nibbles, layout::a_at(Element::int4, row, k, surface_rows));
            };
            if (m >= parts * rows) wrong += part(m) != 0;
            if (m >= rows) continue;
            const int whole = bytes[layout::a_at(Element::int8, m, k, rows)];
            wrong += (parts == 2 ? part(m) + 16 * part(m + rows) : part(m)) != whole;
          }
        }
        CHECK(wrong == 0);
      }
    }
  }
}

TEST_CASE("numbers that have no parts are reported, and the last ones that have are taken") {
  const auto can = [](int value, int parts) {
    Bytes bytes(4 * 32, 0);
    bytes[77] = std::int8_t(value);
    Nibbles nibbles(8 * 32 / 2);
    return nibbles_of_a(bytes.data(), 4, 32, parts, 8, nibbles.data());
  };
  for (int value = -128; value <= 127; ++value) {
    CHECK(can(value, 1) == (value >= -8 && value <= 7));
    CHECK(can(value, 2) == (value <= 119));
  }
  CHECK(int4_parts(DType::int8, 8) == 1);
  CHECK(int4_parts(DType::int8, 9) == 2);
  CHECK(int4_parts(DType::int8, 119) == 2);
  CHECK(int4_parts(DType::int8, 120) == 0);  // neither 120 nor any promise
  CHECK(int4_parts(DType::float32, 7) == 1);
  CHECK(int4_parts(DType::float32, 8) == 2);  // +8 is no int4
  CHECK(int4_parts(DType::float32, 127) == 2);
}

TEST_CASE("B's nibbles follow the formula, and come back as bytes") {
  for (const std::int64_t depth : {32, 64, 160}) {
    for (const std::int64_t columns : {64, 192}) {
      Bytes bytes(std::size_t(depth * columns));
      for (std::size_t i = 0; i < bytes.size(); ++i)
        bytes[i] = std::int8_t(some(std::int64_t(i), -7, 7));
      Nibbles nibbles(bytes.size() / 2, 0xaa);
      CHECK(nibbles_of_b(bytes.data(), depth, columns, nibbles.data()) == 7);
      int wrong = 0;
      for (std::int64_t k = 0; k < depth; ++k)
        for (std::int64_t n = 0; n < columns; ++n)
          wrong += nibble_at(nibbles, layout::b_at(Element::int4, k, n, depth)) !=
                   bytes[layout::b_at(Element::int8, k, n, depth)];
      CHECK(wrong == 0);
      Bytes back(bytes.size(), 99);
      bytes_of_b(nibbles.data(), depth, columns, back.data());
      CHECK(back == bytes);
      CHECK(largest_nibble(nibbles.data(), depth, columns) == 7);
      bytes.back() = -8;
      CHECK(nibbles_of_b(bytes.data(), depth, columns, nibbles.data()) == 8);
      CHECK(largest_nibble(nibbles.data(), depth, columns) == 8);
      bytes.back() = 8;
      CHECK(nibbles_of_b(bytes.data(), depth, columns, nibbles.data()) > 8);
      bytes.back() = -128;
      CHECK(nibbles_of_b(bytes.data(), depth, columns, nibbles.data()) == 128);
    }
  }
}

TEST_CASE("sums of parts are put together, and zeros are told from sums that cancel") {
  for (const int parts : {1, 2}) {
    const std::int64_t rows = 5, columns = 64, surface_rows = (parts * rows + 3) / 4 * 4;
    std::vector<std::int16_t> surface(std::size_t(surface_rows * columns));
    for (std::size_t i = 0; i < surface.size(); ++i)
      surface[i] = std::int16_t(some(std::int64_t(i), -32767, 32767));
    std::vector<std::int32_t> sums(std::size_t(rows * columns), 1);
    CHECK(sums_of_parts(surface.data(), surface_rows, parts, rows, columns, sums.data()));
    int wrong = 0;
    for (std::int64_t m = 0; m < rows; ++m) {
      for (std::int64_t n = 0; n < columns; ++n) {
        const auto part = [&](std::int64_t row) {
          return int(surface[layout::c_at(Element::int4, row, n, surface_rows)]);
        };
        wrong += sums[layout::c_at(m, n, rows)] !=
                 (parts == 2 ? part(m) + 16 * part(m + rows) : part(m));
      }
    }
    CHECK(wrong == 0);
    surface.assign(surface.size(), 0);
    CHECK_FALSE(sums_of_parts(surface.data(), surface_rows, parts, rows, columns, sums.data()));
    CHECK(sums == std::vector<std::int32_t>(sums.size(), 0));
  }
  // 16 · 1 - 16: the sum is zero, what the device returned is not.
  const std::int64_t rows = 2, columns = 8;
  std::vector<std::int16_t> surface(4 * 8, -16);
  for (std::int64_t n = 0; n < columns; ++n)
    for (std::int64_t m = 2; m < 4; ++m) surface[layout::c_at(Element::int4, m, n, 4)] = 1;
  std::vector<std::int32_t> sums(std::size_t(rows * columns), 1);
  CHECK(sums_of_parts(surface.data(), 4, 2, rows, columns, sums.data()));
  CHECK(sums == std::vector<std::int32_t>(sums.size(), 0));
}

TEST_CASE("a product of nibbles is zero only if it is, in either half of a byte") {
  const std::int64_t rows = 4, depth = 32, columns = 64;
  for (const std::int64_t k : {6, 7}) {
    Bytes a(std::size_t(rows * depth), 0), b(std::size_t(depth * columns), 0);
    const auto is_zero = [&] {
      Nibbles of_a(a.size() / 2), of_b(b.size() / 2);
      nibbles_of_a(a.data(), rows, depth, 1, rows, of_a.data());
      nibbles_of_b(b.data(), depth, columns, of_b.data());
      return product_is_zero(of_a.data(), of_b.data(), Element::int4, Layout::native, rows, depth,
                             columns, false);
    };
    a[layout::a_at(Element::int8, 2, k, rows)] = -8;
    CHECK(is_zero());  // B is zero
    b[layout::b_at(Element::int8, k + 1, 5, depth)] = 3;
    CHECK(is_zero());  // they don't meet
    b[layout::b_at(Element::int8, k, 5, depth)] = 3;
    CHECK_FALSE(is_zero());
    a[layout::a_at(Element::int8, 2, k + 1, rows)] = 7;
    CHECK_FALSE(is_zero());  // -8 · 3 + 7 · 3
    b[layout::b_at(Element::int8, k, 5, depth)] = 7;
    b[layout::b_at(Element::int8, k + 1, 5, depth)] = -8;
    a[layout::a_at(Element::int8, 2, k, rows)] = 7;
    a[layout::a_at(Element::int8, 2, k + 1, rows)] = 6;
    CHECK_FALSE(is_zero());  // 49 - 48
    a[layout::a_at(Element::int8, 2, k, rows)] = -8;
    a[layout::a_at(Element::int8, 2, k + 1, rows)] = -7;
    CHECK(is_zero());  // they cancel
  }
}

TEST_CASE("a certified tile is the deepest whose sums fit int16") {
  static_assert(certified_depth(8, 8) == 480);
  static_assert(certified_depth(8, 7) == 576);
  static_assert(certified_depth(7, 7) == 640);
  for (int a = 1; a <= 8; ++a) {
    for (int b = 1; b <= 8; ++b) {
      const std::int64_t depth = certified_depth(a, b);
      CHECK(depth % 32 == 0);
      CHECK(a * b * depth <= INT16_MAX);
      CHECK(a * b * (depth + 32) > INT16_MAX);
    }
  }
}

TEST_CASE("weights are cut into certified tiles, groups evenly") {
  const auto depth_of = [](DType dtype, std::int64_t k, std::int64_t group) {
    return grid_for(Method::int4, dtype, 1, k, 100, group).tile_depth;
  };
  CHECK(depth_of(DType::int8, 480, 0) == 480);  // any int4
  CHECK(depth_of(DType::int8, 481, 0) == 256);
  CHECK(depth_of(DType::float32, 576, 0) == 576);  // -7..7
  CHECK(depth_of(DType::float32, 577, 0) == 320);
  CHECK(depth_of(DType::int8, 577, 577) == 320);  // one scale for all of K
  CHECK(depth_of(DType::int8, 4096, 128) == 128);
  CHECK(depth_of(DType::int8, 4096, 1024) == 512);
  CHECK(depth_of(DType::int8, 4096, 1000) == 500);
  CHECK(grid_for(Method::int4, DType::float32, 1, 100, 65).tile_columns == 128);
  WeightsGrid grid = grid_for(Method::int4, DType::float32, 1, 1000, 100);
  grid.tile_depth = 608;
  std::vector<float> source(100000, 1.0f);
  const View view{source.data(), 0, 400, 4};
  CHECK_THROWS_AS(pack_weights(view, grid, nullptr), Error);
}

TEST_CASE("half a byte holds a weight, and the scale of its column gives it back") {
  const std::int64_t k = 1000, n = 70;
  std::vector<float> source(std::size_t(k * n));
  for (std::size_t i = 0; i < source.size(); ++i)
    source[i] = float(some(std::int64_t(i), -1000, 1000));
  const WeightsGrid grid = grid_for(Method::int4, DType::float32, 1, k, n);
  const auto packed =
      std::make_shared<PackedWeights>(pack_weights({source.data(), 0, n * 4, 4}, grid, nullptr));
  CHECK_FALSE(packed->exact);
  const Weights weights(grid, packed->bytes, packed->entries, packed);
  // Two tiles of 512 × 128, and a double for each column.
  CHECK(weights.bytes() == 2 * (512 * 128 / 2 + 128 * 8));
  std::vector<float> back(source.size());
  weights.unpack({back.data(), 0, n * 4, 4});
  int wrong = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t first = 0; first < k; first += 512) {
      float largest = 0;
      for (std::int64_t i = first; i < std::min(first + 512, k); ++i)
        largest = std::max(largest, std::fabs(source[std::size_t(i * n + j)]));
      for (std::int64_t i = first; i < std::min(first + 512, k); ++i) {
        const std::size_t at = std::size_t(i * n + j);
        wrong += std::fabs(back[at] - source[at]) > largest / 7 * 0.5001f;
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("what is no int4 is not packed, nor -8 where the tile is too deep for it") {
  std::vector<std::int8_t> source(576 * 64, 7);
  std::vector<float> scales(64, 1.0f);
  const View view{source.data(), 0, 64, 1};
  const WeightsGrid exact = grid_for(Method::int4, DType::int8, 1, 576, 64);
  const WeightsGrid scaled = grid_for(Method::int4, DType::int8, 1, 576, 64, 576);
  CHECK(scaled.tile_depth == 576);
  for (const int value : {7, -7, -8, 8, 127}) {
    source[1234] = std::int8_t(value);
    const auto packs = [&](const WeightsGrid& grid, const float* of_columns) {
      try {
        pack_weights(view, grid, of_columns, 576);
        return true;
      } catch (const Error& error) {
        CHECK(error.kind() == ErrorKind::argument);
        return false;
      }
    };
    CHECK(packs(exact, nullptr) == (value >= -8 && value <= 7));
    CHECK(packs(scaled, scales.data()) == (value >= -7 && value <= 7));
  }
}

TEST_CASE("a context of int4 is no higher than one task") {
  // 18 chunks of a row are 4.5 entries; four banks have 2048.
  static_assert(int4_is_one_task(455, 576) && !int4_is_one_task(456, 576));
  static_assert(int4_is_one_task(512, 480) && !int4_is_one_task(513, 480));
  static_assert(int4_is_one_task(409, 640) && !int4_is_one_task(410, 640));
  const auto runtime = device::Runtime::load(NPUBLAS_SIMULATOR_PATH);
  const auto refusal = [&](const device::ContextShape& shape) {
    return fake::failure_of([&] { device::Context(runtime, device::Type::int4, shape, 0); });
  };
  CHECK(refusal({452, 576, 64}).message == "");
  CHECK(refusal({456, 576, 64}).says("A must fit the chip"));
  CHECK(refusal({4, 576, 96}).says("multiple of 64"));
  const device::Context context(runtime, device::Type::int4, {8, 64, 128}, 1);
  CHECK(context.a_bytes() == 8 * 64 / 2);
  CHECK(context.b_bytes() == 64 * 128 / 2);
  CHECK(context.c_bytes() == 8 * 128 * 2);
}

TEST_CASE("runtimes before 1.6.0 have no int4") {
  CHECK(device::quirks_of({1, 5, 2}).max_depth_int4 == 0);
  CHECK(device::quirks_of({1, 6, 0}).max_depth_int4 > 0);
  CHECK(device::quirks_of({2, 3, 2}).max_depth_int4 > 0);
}

TEST_CASE("every plan of int4 keeps its contexts to one task") {
  for (const std::int64_t m : {1, 2, 4, 100, 1000, 5000}) {
    for (const std::int64_t k : {1, 32, 100, 480, 576, 577, 5000}) {
      for (const int parts : {1, 2}) {
        const auto planned = plan(
            {.shape = {1, m, k, 200}, .method = Method::int4, .way = {Element::int4, parts}}, {});
        REQUIRE(planned.has_value());
        CHECK(planned->parts == parts);
        CHECK(planned->surface_rows() >= parts * planned->tile_rows);
        CHECK((planned->surface_rows() == 1 || planned->surface_rows() % 4 == 0));
        CHECK(planned->tile_columns % 64 == 0);
        CHECK(planned->surface_depth() <= 576);
        CHECK(int4_is_one_task(planned->surface_rows(), planned->surface_depth()));
      }
    }
  }
}

TEST_CASE("few rows by int4 weights are int4, many are int8") {
  const auto element = [](std::int64_t m, int a_limit) {
    Element best{};
    double seconds = 0;
    for (const Int4Way way :
         {Int4Way{Element::int4, int4_parts(DType::float32, a_limit)}, Int4Way{Element::int8, 1}}) {
      const auto planned = plan({.shape = {1, m, 4096, 4096},
                                 .method = Method::int4,
                                 .packed = PackedTiles{512, 704},
                                 .way = way},
                                {});
      const double predicted =
          predict(*planned, DType::float32, DType::float32, true, target_rates()).npu_seconds;
      if (seconds == 0 || predicted < seconds) {
        best = way.element;
        seconds = predicted;
      }
    }
    return best;
  };
  CHECK(element(1, 127) == Element::int4);
  CHECK(element(8, 127) == Element::int4);  // at 16 rows they take about the same
  CHECK(element(1024, 127) == Element::int8);
}

TEST_CASE("products of int4 are exact in both ways, whatever the order of the nibbles") {
  const Simulator simulator;
  simulator.set("int4_overflow", 1);  // a sum beyond int16 is a failure
  for (const int high_first : {0, 1}) {
    for (const int row_step : {4, 1}) {
      simulator.set("int4_high_first", high_first);
      simulator.set("native_row_step", row_step);
      const OpenEngine engine;
      REQUIRE(engine_status().type_problems[int(Element::int4)] == "");
      for (const Shape& shape : std::initializer_list<Shape>{{1, 1, 1, 1},
                                                             {1, 1, 480, 64},
                                                             {1, 2, 481, 65},
                                                             {1, 3, 31, 63},
                                                             {1, 5, 33, 129},
                                                             {1, 37, 1000, 70},
                                                             {2, 4, 577, 64},
                                                             {1, 700, 100, 3}}) {
        for (const int limit : {8, 119}) {
          Example example(shape, limit, limit == 8 ? -8 : -128, limit == 8 ? 7 : 119, -8, 7);
          for (const Element off : {Element::int8, Element::int4}) {
            trust::reset();
            trust::turn_off(off);
            CHECK(example.element() == (off == Element::int8 ? Element::int4 : Element::int8));
            CHECK(example.is_right());
          }
          trust::reset();
        }
      }
    }
  }
  CHECK(simulator.count("violations_misuse") == 0);
  CHECK(simulator.count("violations_out_of_bounds") == 0);
}

TEST_CASE("sums at the limit of int16 are exact") {
  const Simulator simulator;
  simulator.set("int4_overflow", 1);
  const OpenEngine engine;
  trust::turn_off(Element::int8);
  for (const int a : {-8, 7}) {
    for (const int b : {-8, 7}) {
      Example one({1, 4, 2000, 64}, 8, a, a, b, b);
      CHECK(one.is_right());
    }
    for (const int whole : {-128, -120, 119, 8}) {
      Example two({1, 4, 2000, 64}, 119, whole, whole, a, a);
      CHECK(two.is_right());
    }
  }
  CHECK(simulator.count("violations_misuse") == 0);
}

TEST_CASE("int8 that were promised to be int4, and are not, are multiplied as int8") {
  const OpenEngine engine;
  for (const int limit : {8, 119}) {
    Example example({1, 1, 2000, 1000}, limit, -128, 127, -8, 7);
    CHECK(example.element() == Element::int4);
    CHECK(example.is_right());
  }
  Example nothing_promised({1, 5, 700, 65}, 127, -128, 127, -8, 7);
  CHECK(nothing_promised.element() == Element::int8);
  CHECK(nothing_promised.is_right());
}

TEST_CASE("floats by int4 weights have the same bits in both ways and for any number of rows") {
  const OpenEngine engine;
  const std::int64_t m = 300, k = 1300, n = 130;
  std::vector<float> a(std::size_t(m * k)), b(std::size_t(k * n));
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = float(some(std::int64_t(i), -999, 999)) / 7;
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = float(some(std::int64_t(i), -999, 999)) / 3;
  const WeightsGrid grid = grid_for(Method::int4, DType::float32, 1, k, n);
  const auto packed =
      std::make_shared<PackedWeights>(pack_weights({b.data(), 0, n * 4, 4}, grid, nullptr));
  const auto weights = std::make_shared<Weights>(grid, packed->bytes, packed->entries, packed);
  const auto result = [&](std::int64_t rows, int limit) {
    std::vector<float> c(std::size_t(rows * n), -1.0f);
    const Outcome outcome = multiply({.product = {.a_type = DType::float32,
                                                  .b_type = DType::float32,
                                                  .out = DType::float32,
                                                  .shape = {1, rows, k, n},
                                                  .a = {a.data(), 0, k * 4, 4},
                                                  .c = {c.data(), 0, n * 4, 4}},
                                      .weights = weights,
                                      .a_limit = limit},
                                     kOnNpu);
    CHECK(int(outcome.reason) == int(Reason::npu));
    return c;
  };
  for (const int limit : {127, 119, 7}) {
    trust::turn_off(Element::int4);
    const auto as_int8 = result(m, limit);
    trust::reset();
    trust::turn_off(Element::int8);
    CHECK(result(m, limit) == as_int8);
    for (const std::int64_t rows : {1, 2, 17}) {
      const auto few = result(rows, limit);
      CHECK(few == std::vector<float>(as_int8.begin(), as_int8.begin() + rows * n));
    }
    trust::reset();
  }
  CHECK(result(m, 127) == result(m, 119));  // 119 is all that two parts have
  CHECK(result(m, 119) != result(m, 7));
}

TEST_CASE("no float is rounded for integers unasked") {
  Example example({1, 8, 700, 65}, 127, -8, 7, -8, 7);
  const auto reason = [&](Precision precision) {
    return decide({.device = Device::npu, .precision = precision}, DType::float32, DType::int8,
                  DType::float32, example.shape, example.weights.get())
        .reason;
  };
  CHECK(int(reason(Precision::float32)) == int(Reason::dtype));
  CHECK(int(reason(Precision::int8)) == int(Reason::npu));
}

TEST_CASE("a runtime that gets int4 wrong multiplies its weights as int8") {
  const Simulator simulator;
  simulator.arm("zeros", 6 * 2 * 3 + 3 + 1, 1);  // of the self-test, the first product of int4
  const OpenEngine engine;
  CHECK(engine_status().type_problems[int(Element::int8)] == "");
  CHECK(engine_status().type_problems[int(Element::float16)] == "");
  CHECK(engine_status().type_problems[int(Element::int4)].find("known answer") !=
        std::string::npos);
  Example example({1, 3, 700, 65}, 8, -8, 7, -8, 7);
  CHECK(example.element() == Element::int8);
  CHECK(example.is_right());
  const Decision decision =
      decide(kOnNpu, DType::int8, DType::int8, DType::int32, example.shape, example.weights.get());
  CHECK(decision.on_npu);
}

TEST_CASE("zeros that the device returns for int4 are found out") {
  const Simulator simulator;
  const OpenEngine engine;
  trust::turn_off(Element::int8);  // which might be faster
  Example example({1, 3, 100, 65}, 8, 1, 7, 1, 7);
  CHECK(example.element() == Element::int4);
  simulator.arm("zeros", 1, 1);
  CHECK(example.is_right());
  CHECK(engine_status().retries == 1);
  // And sums that are zero are believed, of parts that cancel, too: 16 · 1 - 16.
  Example zero({1, 1, 17, 1}, 119, 1, 1, 1, 1);
  zero.a[16] = -16;
  zero.expected = {0};
  CHECK(zero.element() == Element::int4);
  CHECK(zero.is_right());
  CHECK(engine_status().retries == 1);
}

TEST_CASE("a file that has -8 in tiles that are too deep for it is refused, not multiplied") {
  const Simulator simulator;
  simulator.set("int4_overflow", 1);
  const OpenEngine engine;
  const std::int64_t k = 576, n = 64;
  std::vector<float> b(std::size_t(k * n), -1.0f), a(std::size_t(k), -1.0f), c(b.size());
  const WeightsGrid grid = grid_for(Method::int4, DType::float32, 1, k, n);
  REQUIRE(grid.tile_depth == 576);
  const auto packed =
      std::make_shared<PackedWeights>(pack_weights({b.data(), 0, n * 4, 4}, grid, nullptr));
  for (std::size_t i = 0; i < grid.surface_bytes(); ++i) packed->bytes[i] = std::byte(0x88);
  packed->entries[0].checksum = crc32({packed->bytes.data(), packed->bytes.size()});
  const auto weights = std::make_shared<Weights>(grid, packed->bytes, packed->entries, packed);
  const Outcome outcome = multiply({.product = {.a_type = DType::float32,
                                                .b_type = DType::float32,
                                                .out = DType::float32,
                                                .shape = {1, 1, k, n},
                                                .a = {a.data(), 0, k * 4, 4},
                                                .c = {c.data(), 0, n * 4, 4}},
                                    .weights = weights},
                                   kOnNpu);
  CHECK(int(outcome.reason) == int(Reason::weights_file));
  CHECK(simulator.count("violations_misuse") == 0);
}
