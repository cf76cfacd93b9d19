// The simulator through the vendor's interface, for the sanitizers: every layout at the edges of
// its blocks, under both instruction sets, and every way to misuse it.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "simulator_program.hpp"

using namespace npublas;
using namespace npublas::program;

namespace {

int value_of_a(int m, int k) { return (m * 31 + k * 17) % 251 - 125; }
int value_of_b(int k, int n) { return (k * 13 + n * 29 + k * n) % 251 - 125; }

std::int32_t sum_of(int m, int n, int k) {
  std::int32_t sum = 0;
  for (int depth = 0; depth < k; ++depth) sum += value_of_a(m, depth) * value_of_b(depth, n);
  return sum;
}

// The formulas of the documented layouts, for int8.
std::size_t a_at(int m, int k, int rows, int depth, bool native) {
  return std::size_t(native ? (k / 16 * rows + m) * 16 + k % 16 : m * depth + k);
}
std::size_t b_at(int k, int n, int depth, int columns, int layout) {
  if (layout == abi::kNormal) return std::size_t(k * columns + n);
  if (layout == abi::kTransposedNormal) return std::size_t(n * depth + k);
  return std::size_t(((n / 32 * (depth / 32) + k / 32) * 32 + n % 32) * 32 + k % 32);
}
std::size_t c_at(int m, int n, int rows, int columns, bool native) {
  return std::size_t(native ? (n / 4 * rows + m) * 4 + n % 4 : m * columns + n);
}

void check_int8(int m, int k, int n, int b_layout, bool native) {
  CAPTURE(m);
  CAPTURE(k);
  CAPTURE(n);
  CAPTURE(b_layout);
  CAPTURE(native);
  Matmul matmul(m, k, n, abi::kInt8Int8ToInt32, b_layout, native);
  REQUIRE(matmul.status == 0);
  for (int depth = 0; depth < k; ++depth) {
    for (int row = 0; row < m; ++row) {
      matmul.data(0)[a_at(row, depth, m, k, native)] = std::byte(value_of_a(row, depth));
    }
    for (int column = 0; column < n; ++column) {
      matmul.data(1)[b_at(depth, column, k, n, b_layout)] = std::byte(value_of_b(depth, column));
    }
  }
  matmul.run();
  REQUIRE(matmul.status == 0);
  const auto* const c = reinterpret_cast<const std::int32_t*>(matmul.data(2));
  int wrong = 0;
  for (int row = 0; row < m; ++row) {
    for (int column = 0; column < n; ++column) {
      wrong += c[c_at(row, column, m, n, native)] != sum_of(row, column, k);
    }
  }
  CHECK(wrong == 0);
}

struct Clean {
  Clean() { library().reset(); }
  ~Clean() {
    CHECK(alive() == before);
    library().reset();
  }
  std::array<std::int64_t, 5> before = alive();
};

}  // namespace

TEST_CASE("the simulator multiplies in every layout, at the edges of its own blocks") {
  const Clean clean;
  for (const int strict : {0, 1}) {
    for (const int isa : {1, 0}) {  // baseline, best
      REQUIRE(library().set("strict", strict) == 0);
      REQUIRE(library().set("isa", isa) == 0);
      for (const int b_layout : {abi::kNormal, abi::kNative, abi::kTransposedNormal}) {
        check_int8(1, 32, 32, b_layout, true);
        check_int8(5, 160, 96, b_layout, false);
        check_int8(8, 128, 544, b_layout, true);
      }
    }
  }
}

TEST_CASE("the simulator's float16 kernels stay within their panels at every magnitude") {
  const Clean clean;
  for (const int isa : {1, 0}) {
    REQUIRE(library().set("isa", isa) == 0);
    for (const int wide : {0, 1}) {
      Matmul matmul(7, 160, 48, abi::kFloat16Float16ToFloat32, abi::kNative, abi::kNormal);
      REQUIRE(matmul.status == 0);
      auto* const a = reinterpret_cast<std::uint16_t*>(matmul.data(0));
      auto* const b = reinterpret_cast<std::uint16_t*>(matmul.data(1));
      for (std::size_t i = 0; i < 7 * 160; ++i) a[i] = 0x3c00;   // 1
      for (std::size_t i = 0; i < 160 * 48; ++i) b[i] = 0x4000;  // 2
      // Every group: 2^15 - 2^15 in two places and 2^-24 in a third, which needs the integers.
      for (std::size_t i = 0; wide && i < 160 * 48; i += 32) {
        b[i] = 0x7800, b[i + 1] = 0xf800, b[i + 2] = 0x0001;
      }
      for (std::size_t i = 0; wide && i < 7 * 160; i += 32) a[i] = a[i + 1] = 0x7800;
      matmul.run();
      REQUIRE(matmul.status == 0);
      const auto* const c = reinterpret_cast<const float*>(matmul.data(2));
      const float expected = wide ? 5 * 58.0f : 320.0f;  // 58 + 2^-24 rounds to 58
      for (std::size_t i = 0; i < 7 * 48; ++i) REQUIRE(c[i] == expected);
    }
  }
}

TEST_CASE("simulator: an access past a buffer is refused before it happens") {
  const Clean clean;
  Matmul matmul(6, 64, 32, abi::kInt8Int8ToInt32, abi::kNative, abi::kNative);
  matmul.run();
  CHECK(matmul.status == abi::kFail);
  CHECK(library().count("violations_out_of_bounds") == 1);
  // Sizes and offsets that a program changed in the struct itself.
  Matmul other(4, 64, 32, abi::kInt8Int8ToInt32, abi::kNative, abi::kNative);
  other.bind();
  other.memory[0]->size = 1u << 30;
  CHECK(library().rknn_matmul_run(other.context) == 0);
  other.memory[0]->offset = 1 << 20;
  CHECK(library().rknn_matmul_run(other.context) == abi::kFail);
  other.memory[0]->offset = -64;
  CHECK(library().rknn_matmul_run(other.context) == abi::kFail);
  CHECK(library().rknn_mem_sync(other.context, other.memory[0], abi::kToDevice) == abi::kFail);
  CHECK(library().count("violations_out_of_bounds") == 3);
}

TEST_CASE("simulator: memories, views and contexts may be given back in any order") {
  const Clean clean;
  REQUIRE(library().set("strict", 1) == 0);
  const Library& lib = library();
  abi::MatmulInfo info{.m = 4, .k = 32, .n = 32, .type = abi::kInt8Int8ToInt32};
  abi::IoAttr io;
  abi::Context first = 0;
  abi::Context second = 0;
  REQUIRE(lib.rknn_matmul_create(&first, &info, &io) == 0);
  REQUIRE(lib.rknn_matmul_create(&second, &info, &io) == 0);
  abi::TensorMem* const base = lib.rknn_create_mem(first, 4096);
  const int duplicate = dup(base->fd);
  abi::TensorMem* const view =
      lib.rknn_create_mem_from_fd(second, duplicate, base->virt_addr, 128, 256);
  CHECK(lib.rknn_matmul_set_io_mem(second, view, &io.a) == 0);
  CHECK(lib.rknn_matmul_destroy(first) == 0);
  CHECK(lib.rknn_matmul_run(second) == abi::kFail);  // B and C are not bound
  CHECK(lib.rknn_destroy_mem(second, base) == 0);
  CHECK(lib.rknn_mem_sync(second, view, abi::kToDevice) == abi::kFail);
  CHECK(lib.rknn_destroy_mem(second, view) == 0);
  CHECK(lib.rknn_destroy_mem(second, view) == abi::kFail);
  CHECK(lib.rknn_matmul_destroy(second) == 0);
  CHECK(lib.rknn_matmul_destroy(second) == abi::kContextInvalid);
  close(duplicate);
}

TEST_CASE("simulator: every allocation may fail, and nothing is lost") {
  const Clean clean;
  for (int nth = 1; nth <= 7; ++nth) {  // two in create, three memories, the copy of B, none
    REQUIRE(library().arm("enomem", nth, 1) == 0);
    Matmul matmul(4, 32, 32, abi::kInt8Int8ToInt32, abi::kNormal, abi::kNormal);
    matmul.run();
    CHECK((matmul.status == 0) == (nth == 7));
  }
}

TEST_CASE("the names that the simulator lists are the names that it takes") {
  const Clean clean;
  for (const std::string kind : {"setting", "fault", "counter"}) {
    auto* const name =
        library().find<const char*(int)>(("npublas_simulator_" + kind + "_name").c_str());
    int count = 0;
    for (; name(count); ++count) {
      if (kind == "setting") CHECK(library().set(name(count), library().get(name(count))) == 0);
      if (kind == "fault") CHECK(library().arm(name(count), 1'000'000, 1) == 0);
      if (kind == "counter") CHECK(library().count(name(count)) >= 0);
    }
    CHECK(count > 10);
    CHECK(!name(-1));
  }
  CHECK(library().set("no such", 1) == -1);
  CHECK(library().set(nullptr, 1) == -1);
  CHECK(library().arm(nullptr, 1, 1) == -1);
  CHECK(library().count("no such") == -1);
}
