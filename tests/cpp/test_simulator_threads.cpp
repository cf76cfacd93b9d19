// Several threads, each with a context of its own, while others set, arm and count: for
// ThreadSanitizer above all.
#include <atomic>
#include <thread>

#include "simulator_program.hpp"

using namespace npublas;
using namespace npublas::program;

namespace {

/// Ones times ones: every element is the depth.
bool right_product(int core, int k) {
  Matmul matmul(4, k, 64, abi::kInt8Int8ToInt32, abi::kNative, abi::kNative);
  if (matmul.status) return false;
  library().rknn_matmul_set_core_mask(matmul.context, 1 << core);
  std::memset(matmul.data(0), 1, matmul.memory[0]->size);
  std::memset(matmul.data(1), 1, matmul.memory[1]->size);
  for (int i = 0; i < 3; ++i) matmul.run();
  const auto* const c = reinterpret_cast<const std::int32_t*>(matmul.data(2));
  for (int i = 0; i < 4 * 64; ++i) {
    if (c[i] != k) return false;
  }
  return matmul.status == 0;
}

}  // namespace

TEST_CASE("simulator: three cores multiply at the same time") {
  library().reset();
  const auto before = alive();
  for (const int strict : {0, 1}) {
    REQUIRE(library().set("strict", strict) == 0);
    std::atomic<int> right{0};
    std::vector<std::thread> threads;
    for (int core = 0; core < 3; ++core) {
      threads.emplace_back([core, &right] {
        for (int i = 1; i <= 10; ++i) right += right_product(core, 32 * i);
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(right == 30);
  }
  for (const char* const core : {"runs_core_0", "runs_core_1", "runs_core_2"}) {
    CHECK(library().count(core) == 60);
  }
  CHECK(library().count("violations") == 0);
  CHECK(alive() == before);
  library().reset();
}

TEST_CASE("simulator: settings, faults and counters may change while products run") {
  library().reset();
  REQUIRE(library().set("log", 0) == 0);
  const auto before = alive();
  std::atomic<int> running{3};
  std::vector<std::thread> threads;
  for (int core = 0; core < 3; ++core) {
    threads.emplace_back([core, &running] {
      for (int i = 1; i <= 20; ++i) right_product(core, 64);
      --running;
    });
  }
  for (int i = 0; running > 0; ++i) {
    library().arm(i % 2 ? "submit_failure" : "enomem", i % 5 + 1, 1);
    library().set("isa", i % 2);
    library().set("flush_subnormals", i % 2);
    CHECK(library().count("bytes") >= 0);
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(alive() == before);
  library().reset();
  CHECK(right_product(0, 64));
  library().reset();
}

TEST_CASE("simulator: timed runs of several threads on each core, while the rates change") {
  library().reset();
  const auto before = alive();
  REQUIRE(library().set("clock", 2) == 0);
  REQUIRE(library().set("create_ns", 1000) == 0);
  std::atomic<int> right{0};
  std::atomic<int> running{6};
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([i, &right, &running] {
      for (int round = 1; round <= 5; ++round) right += right_product(i % 3, 32 * round);
      --running;
    });
  }
  for (int i = 0; running > 0; ++i) {
    library().set("memory_mb_s", i % 2 ? 1000 : -1);
    library().set("compute", 1);
    CHECK(library().count("busy_ns_core_0") >= 0);
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(right == 30);
  for (const char* const core : {"busy_ns_core_0", "busy_ns_core_1", "busy_ns_core_2"}) {
    CHECK(library().count(core) > 0);
  }
  CHECK(alive() == before);
  library().reset();
}

TEST_CASE("simulator: a run that hangs blocks its own thread alone") {
  library().reset();
  Matmul hung(4, 32, 32, abi::kInt8Int8ToInt32, abi::kNative, abi::kNative);
  REQUIRE(hung.status == 0);
  REQUIRE(library().arm("hang", 1, 1) == 0);
  std::thread thread([&hung] { hung.run(); });
  while (library().count("faults") == 0) std::this_thread::yield();
  CHECK(right_product(1, 64));
  CHECK(library().rknn_matmul_run(hung.context) == abi::kFail);
  CHECK(library().count("violations_concurrent") == 1);
  library().release();
  thread.join();
  CHECK(hung.status == 0);
  library().reset();
}
