// The engine on the simulator, with what the sanitizers are to see: workers, evictions, failures.
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "npublas/base/error.hpp"
#include "npublas/engine/engine.hpp"
#include "npublas/exec/trace.hpp"

using namespace npublas;

namespace {

/// The simulator's own controls, found in the library that the engine has open.
struct Simulator {
  void* library = dlopen(NPUBLAS_SIMULATOR_PATH, RTLD_NOW);
  template <typename Function>
  Function* find(const char* name) const {
    auto* const found = reinterpret_cast<Function*>(dlsym(library, name));
    REQUIRE(bool(found));
    return found;
  }
  void arm(const char* fault, std::int64_t nth, std::int64_t count) const {
    REQUIRE(find<int(const char*, std::int64_t, std::int64_t)>("npublas_simulator_arm")(
                fault, nth, count) == 0);
  }
  void disarm() const { find<void()>("npublas_simulator_reset")(); }
  std::int64_t count(const char* name) const {
    std::int64_t value = 0;
    REQUIRE(find<int(const char*, std::int64_t*)>("npublas_simulator_counter")(name, &value) == 0);
    return value;
  }
};

struct OpenEngine {
  explicit OpenEngine(std::size_t window = std::size_t(64) << 20, int patience_ms = 20000) {
    open_engine({.runtime = NPUBLAS_SIMULATOR_PATH,
                 .memory_limit = window,
                 .cores = 3,
                 .lock_file = "",
                 .run_patience = std::chrono::milliseconds(patience_ms)});
  }
  ~OpenEngine() { close_engine(); }
};

/// An int8 product with the answer beside it.
struct Example {
  Shape shape;
  std::vector<std::int8_t> a, b;
  std::vector<std::int32_t> c, expected;

  explicit Example(const Shape& s) : shape(s) {
    const auto [batch, m, k, n] = shape;
    a.resize(std::size_t(batch * m * k));
    b.resize(std::size_t(batch * k * n));
    c.assign(std::size_t(batch * m * n), -1);
    expected.assign(c.size(), 0);
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = std::int8_t(i * 37 + i / 11);
    for (std::size_t i = 0; i < b.size(); ++i) b[i] = std::int8_t(i * 53 + i / 7);
    for (std::int64_t s1 = 0; s1 < batch; ++s1)
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t p = 0; p < k; ++p)
          for (std::int64_t j = 0; j < n; ++j)
            expected[std::size_t((s1 * m + i) * n + j)] +=
                a[std::size_t((s1 * m + i) * k + p)] * b[std::size_t((s1 * k + p) * n + j)];
  }

  Product product() {
    const auto [batch, m, k, n] = shape;
    return {.a_type = DType::int8,
            .b_type = DType::int8,
            .out = DType::int32,
            .shape = shape,
            .a = {a.data(), m * k, k, 1},
            .b = {b.data(), k * n, n, 1},
            .c = {c.data(), m * n * 4, n * 4, 4}};
  }
};

const Settings kNpu{.device = Device::npu};

}  // namespace

TEST_CASE("a product is computed on three cores, in several blocks and depth tiles") {
  const OpenEngine engine;
  Example example({2, 37, 2100, 300});
  CHECK(multiply({.product = example.product()}, kNpu).reason == Reason::npu);
  CHECK(example.c == example.expected);
}

TEST_CASE("several threads multiply at once in a window that evicts") {
  const OpenEngine engine(std::size_t(1) << 20);
  std::vector<std::thread> threads;
  std::vector<Example> examples;
  for (int i = 0; i < 4; ++i)
    examples.emplace_back(Shape{1, 20 + 9 * i, 300 + 50 * i, 70 + 40 * i});
  for (Example& example : examples)
    threads.emplace_back([&example] {
      for (int round = 0; round < 3; ++round) {
        std::fill(example.c.begin(), example.c.end(), -1);
        const Outcome outcome = multiply({.product = example.product()}, kNpu);
        if (outcome.reason != Reason::npu) example.c.clear();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const Example& example : examples) CHECK(example.c == example.expected);
  CHECK(engine_status().window.peak_bytes <= std::size_t(1) << 20);
}

TEST_CASE("products of several threads are recorded while other recordings come and go") {
  const OpenEngine engine;
  std::atomic<bool> stop{false};
  std::thread others([&stop] {
    while (!stop) {
      trace::Recording recording;
      recording.stop();
    }
  });
  trace::Recording recording;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([i] {
      Example example({1, 40 + 4 * i, 200, 96});
      trace::begin_product();
      const Outcome outcome = multiply({.product = example.product()}, kNpu);
      count(DType::int8, example.shape, outcome.reason, false, outcome.seconds);
      CHECK(outcome.reason == Reason::npu);
      CHECK(example.c == example.expected);
    });
  for (std::thread& thread : threads) thread.join();
  const trace::Recorded recorded = recording.stop();
  stop = true;
  others.join();
  REQUIRE(recorded.products.size() == 3);
  for (const trace::ProductNote& product : recorded.products)
    for (const trace::Act act : {trace::Act::plan, trace::Act::pack_a, trace::Act::pack_b,
                                 trace::Act::run, trace::Act::unpack})
      CHECK(std::any_of(recorded.events.begin(), recorded.events.end(), [&](const auto& event) {
        return event.product == product.product && event.act == act;
      }));
  reset_counts();
}

TEST_CASE("a failed run is repeated on one core, and a second failure is the caller's to mend") {
  const Simulator simulator;
  const OpenEngine engine;
  Example example({1, 16, 64, 600});
  for (const char* fault : {"submit_failure", "zeros", "sync_failure", "bind_failure", "enomem"}) {
    CAPTURE(fault);
    simulator.arm(fault, 1, 1);
    CHECK(multiply({.product = example.product()}, kNpu).reason == Reason::npu);
    CHECK(example.c == example.expected);
    simulator.disarm();
  }
  simulator.arm("submit_failure", 1, 0);
  const Outcome outcome = multiply({.product = example.product()}, kNpu);
  CHECK(outcome.reason == Reason::device_failed);
  CHECK(outcome.detail.find("rknn_matmul_run") != std::string::npos);
  simulator.disarm();
  CHECK(multiply({.product = example.product()}, kNpu).reason == Reason::npu);
}

TEST_CASE("closing the engine gives everything back, also after failures") {
  const Simulator simulator;
  const std::int64_t contexts = simulator.count("contexts"), fds = simulator.count("fds");
  {
    const OpenEngine engine;
    Example example({1, 16, 64, 600});
    multiply({.product = example.product()}, kNpu);
    simulator.arm("lost_device", 1, 0);
    CHECK(multiply({.product = example.product()}, kNpu).reason == Reason::device_failed);
  }
  simulator.disarm();
  CHECK(simulator.count("contexts") == contexts);
  CHECK(simulator.count("fds") == fds);
}

TEST_CASE("without an engine a product says so") {
  Example example({1, 4, 32, 32});
  CHECK(engine_state() == EngineState::closed);
  CHECK(multiply({.product = example.product()}, kNpu).reason == Reason::no_npu);
}
