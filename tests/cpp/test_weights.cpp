#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "npublas/base/crc32.hpp"
#include "npublas/base/error.hpp"
#include "npublas/base/mapped_file.hpp"
#include "npublas/math/weights.hpp"

using namespace npublas;

namespace {

std::uint32_t crc32_of(const std::string& text, std::uint32_t before = 0) {
  return crc32(std::as_bytes(std::span(text)), before);
}

struct Matrix {
  std::int64_t k, n;
  std::vector<float> values = std::vector<float>(std::size_t(k * n));

  View view() const { return {values.data(), 0, n * 4, 4}; }
  WeightsGrid grid(Method method) const { return grid_for(method, DType::float32, 1, k, n); }
};

/// Numbers of `bits` bits, so that few enough are exact in float16.
Matrix random_matrix(std::int64_t k, std::int64_t n, int bits) {
  Matrix matrix{k, n};
  std::mt19937 generator(3);
  std::uniform_int_distribution<int> numbers(-(1 << bits), 1 << bits);
  for (float& value : matrix.values) value = std::ldexp(float(numbers(generator)), -bits);
  return matrix;
}

/// Weights over bytes that a test may spoil, watched by a number that it may change.
struct Watched {
  std::vector<std::byte> bytes;
  std::uint64_t stamp = 1;
  std::unique_ptr<Weights> weights;

  explicit Watched(const Matrix& matrix) {
    const WeightsGrid grid = matrix.grid(Method::float16);
    PackedWeights packed = pack_weights(matrix.view(), grid, nullptr);
    bytes = std::move(packed.bytes);
    weights =
        std::make_unique<Weights>(grid, bytes, packed.entries, nullptr, [this] { return stamp; });
  }
};

class TemporaryFile {
 public:
  explicit TemporaryFile(std::size_t size) : file_(std::tmpfile()) { resize(size); }
  ~TemporaryFile() { std::fclose(file_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  int descriptor() const { return fileno(file_); }
  std::shared_ptr<const File> open() const { return std::make_shared<File>(dup(descriptor())); }
  void resize(std::size_t size) const { REQUIRE(ftruncate(descriptor(), off_t(size)) == 0); }

 private:
  std::FILE* file_;
};

ErrorKind kind_of_failure(const auto& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.kind();
  }
  FAIL("nothing was thrown");
  return {};
}

}  // namespace

TEST_CASE("CRC-32 is zlib's, in one piece or in several") {
  CHECK(crc32_of("") == 0);
  CHECK(crc32_of("123456789") == 0xcbf43926);  // the check value of every catalogue
  // From Python's zlib.
  CHECK(crc32_of(std::string(1000, 'x')) == 0x3b41c9e6);
  const std::string text = "weights that are packed once";
  for (std::size_t cut = 0; cut <= text.size(); ++cut)
    CHECK(crc32_of(text.substr(cut), crc32_of(text.substr(0, cut))) == crc32_of(text));
}

TEST_CASE("unpacking gives back what was packed, and packing says whether it does") {
  for (const std::int64_t k : {1, 31, 33, 1024, 1025, 2100}) {
    for (const std::int64_t n : {1, 32, 97, 400}) {
      CAPTURE(k);
      CAPTURE(n);
      for (const auto& [method, bits, exact] :
           {std::tuple{Method::float16, 10, true}, std::tuple{Method::float32, 10, true},
            std::tuple{Method::float32, 20, true}, std::tuple{Method::float16, 20, k * n < 2}}) {
        const Matrix matrix = random_matrix(k, n, bits);
        const WeightsGrid grid = matrix.grid(method);
        const PackedWeights packed = pack_weights(matrix.view(), grid, nullptr);
        if (k * n > 1) CHECK(packed.exact == exact);
        const Weights weights(grid, packed.bytes, packed.entries, nullptr);
        Matrix restored{k, n};
        weights.unpack({restored.values.data(), 0, n * 4, 4});
        CHECK((restored.values == matrix.values) == packed.exact);
        for (const WeightTileEntry& entry : packed.entries) {
          CHECK(entry.offset % 64 == 0);
          if (bits == 10) CHECK(!entry.has_low);
        }
      }
    }
  }
}

TEST_CASE("every tile of the grid has one number, and they follow each other") {
  const WeightsGrid grid = grid_for(Method::float32, DType::float32, 2, 2500, 3000);
  CHECK(2 * grid.tile_depth <= 8192);
  CHECK(grid.tile_columns % 32 == 0);
  std::int64_t next = 0;
  for (std::int64_t item = 0; item < grid.batch; ++item)
    for (std::int64_t column = 0; column < grid.column_tiles(); ++column)
      for (std::int64_t depth = 0; depth < grid.depth_tiles(); ++depth)
        CHECK(grid.index(item, depth, column) == next++);
  CHECK(grid.tiles() == next);
}

TEST_CASE("tiles are as deep as a context at most, of two parts like of one") {
  for (const Method method : {Method::float16, Method::float32}) {
    const auto make = [&](std::int64_t depth) {
      const WeightsGrid grid{.method = method,
                             .dtype = DType::float32,
                             .batch = 1,
                             .k = 8193,
                             .n = 2,
                             .tile_depth = depth,
                             .tile_columns = 32};
      const Matrix matrix = random_matrix(8193, 2, 20);
      PackedWeights packed = pack_weights(matrix.view(), grid, nullptr);
      CHECK(packed.entries.size() == 2);
      return Weights(grid, packed.bytes, packed.entries, nullptr);
    };
    CHECK_NOTHROW(make(4097));
    CHECK_NOTHROW(make(8192));
    CHECK_THROWS_AS(make(8193), Error);
  }
}

TEST_CASE("entries that don't fit the grid or the bytes are refused") {
  const Matrix matrix = random_matrix(2100, 100, 10);
  const WeightsGrid grid = matrix.grid(Method::float16);
  const PackedWeights packed = pack_weights(matrix.view(), grid, nullptr);
  const auto refused = [&](const WeightsGrid& altered_grid, auto alter, std::size_t cut) {
    auto entries = packed.entries;
    alter(entries);
    const std::span<const std::byte> bytes(packed.bytes.data(), packed.bytes.size() - cut);
    return kind_of_failure([&] { Weights(altered_grid, bytes, entries, nullptr); }) ==
           ErrorKind::argument;
  };
  const auto nothing = [](auto&) {};
  CHECK(refused(grid, [](auto& entries) { entries.pop_back(); }, 0));
  CHECK(refused(grid, [](auto& entries) { entries[1].offset += 64; }, 0));
  CHECK(refused(grid, [](auto& entries) { entries[1].offset = 0; }, 0));
  CHECK(refused(grid, [](auto& entries) { entries[0].bytes -= 64; }, 0));
  CHECK(refused(grid, [](auto& entries) { entries[0].bytes = ~std::uint64_t(0) - 63; }, 0));
  CHECK(refused(grid, [](auto& entries) { entries[0].has_low = true; }, 0));
  CHECK(refused(grid, nothing, 1));
  for (auto member : {&WeightsGrid::batch, &WeightsGrid::k, &WeightsGrid::n,
                      &WeightsGrid::tile_depth, &WeightsGrid::tile_columns}) {
    for (const std::int64_t value : {std::int64_t(-1), std::int64_t(0), std::int64_t(1) << 31,
                                     INT64_MAX, std::int64_t(100'000)}) {
      WeightsGrid altered = grid;
      altered.*member = value;
      CHECK(refused(altered, nothing, 0));
    }
  }
}

TEST_CASE("a tile that was altered is refused when it is read first, and after every change") {
  const Matrix matrix = random_matrix(2100, 100, 10);
  Watched watched(matrix);
  REQUIRE(watched.weights->grid().tiles() > 1);
  std::byte& victim = watched.bytes[std::size_t(watched.weights->entries()[1].offset) + 100];
  victim ^= std::byte(4);
  watched.weights->tile(0);
  CHECK(kind_of_failure([&] { watched.weights->tile(1); }) == ErrorKind::file);
  CHECK(kind_of_failure([&] { watched.weights->tile(1); }) == ErrorKind::file);
  victim ^= std::byte(4);
  watched.weights->tile(1);
  victim ^= std::byte(1);
  watched.weights->tile(1);  // nobody says that there is anything to look at
  watched.stamp = 2;
  CHECK(kind_of_failure([&] { watched.weights->tile(1); }) == ErrorKind::file);
}

TEST_CASE("NaN and infinity can't be packed") {
  for (const float value :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    for (const Method method : {Method::float16, Method::float32, Method::int8}) {
      Matrix matrix = random_matrix(40, 3, 10);
      matrix.values[50] = value;
      CHECK(kind_of_failure([&] { pack_weights(matrix.view(), matrix.grid(method), nullptr); }) ==
            ErrorKind::argument);
    }
  }
}

TEST_CASE("a mapped file notices that it was cut or written to") {
  const TemporaryFile file(3 * 4096 + 10);
  const MappedFile mapped(file.open(), 4096 + 64, 2 * 4096 - 64);
  CHECK(mapped.bytes().size() == 2 * 4096 - 64);
  const auto later = File::Clock::now() + std::chrono::minutes(1);
  const std::uint64_t stamp = mapped.stamp(later);
  CHECK(stamp != 0);
  CHECK(mapped.stamp(later) == stamp);
  // The next change may come in the same step of the file system's clock as the last.
  CHECK(mapped.stamp() != mapped.stamp());
  const char letter = 'x';
  REQUIRE(pwrite(file.descriptor(), &letter, 1, 4096 + 64) == 1);
  CHECK(mapped.bytes()[0] == std::byte('x'));
  file.resize(3 * 4096);
  CHECK(mapped.stamp(later) != stamp);  // what is mapped is still there
  file.resize(3 * 4096 - 1);
  CHECK(kind_of_failure([&] { mapped.stamp(); }) == ErrorKind::file);
}

TEST_CASE("a file that is too short isn't mapped") {
  const TemporaryFile file(4096);
  CHECK(kind_of_failure([&] { MappedFile(file.open(), 0, 4097); }) == ErrorKind::file);
  CHECK(kind_of_failure([&] { MappedFile(std::make_shared<File>(-1), 0, 1); }) == ErrorKind::file);
  CHECK(MappedFile(file.open(), 4096, 0).bytes().empty());
}
