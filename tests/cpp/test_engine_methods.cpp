// The engine's other ways to multiply, for the sanitizers: floats in two parts, packed weights that
// several threads push out of a small window, results that are finished in the unpack pass.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>

#include "npublas/engine/engine.hpp"

using namespace npublas;

namespace {

struct Opened {
  explicit Opened(std::size_t window) {
    open_engine(
        {.runtime = NPUBLAS_SIMULATOR_PATH, .memory_limit = window, .cores = 3, .lock_file = ""});
  }
  ~Opened() { close_engine(); }
};

const Settings kNpu{.device = Device::npu};

struct Floats {
  Shape shape;
  std::vector<float> a, b, c;
  std::vector<double> expected, sizes;

  explicit Floats(const Shape& s, int seed = 1) : shape(s) {
    const auto [batch, m, k, n] = shape;
    a.resize(std::size_t(m * k));
    b.resize(std::size_t(k * n));
    c.assign(std::size_t(m * n), -1);
    expected.assign(c.size(), 0);
    sizes = expected;
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = float(std::sin(double(i + 1) * seed));
    for (std::size_t i = 0; i < b.size(); ++i) b[i] = float(std::cos(double(i) * 3 + seed));
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t p = 0; p < k; ++p)
        for (std::int64_t j = 0; j < n; ++j) {
          const double product = double(a[std::size_t(i * k + p)]) * b[std::size_t(p * n + j)];
          expected[std::size_t(i * n + j)] += product;
          sizes[std::size_t(i * n + j)] += std::fabs(product);
        }
  }

  Product product() {
    const auto [batch, m, k, n] = shape;
    return {.a_type = DType::float32,
            .b_type = DType::float32,
            .out = DType::float32,
            .shape = shape,
            .a = {a.data(), m * k * 4, k * 4, 4},
            .b = {b.data(), k * n * 4, n * 4, 4},
            .c = {c.data(), m * n * 4, n * 4, 4}};
  }

  std::shared_ptr<const Weights> weights() const {
    const WeightsGrid grid = grid_for(Method::float32, DType::float32, 1, shape.k, shape.n);
    auto packed =
        std::make_shared<PackedWeights>(pack_weights({b.data(), 0, shape.n * 4, 4}, grid, nullptr));
    return std::make_shared<const Weights>(grid, std::span<const std::byte>(packed->bytes),
                                           packed->entries, packed);
  }

  bool right(double units = 10) const {
    for (std::size_t i = 0; i < c.size(); ++i)
      if (!(std::fabs(c[i] - expected[i]) <= units * 0x1p-24 * sizes[i])) return false;
    return true;
  }
};

}  // namespace

TEST_CASE("floats in two parts are as accurate as float32") {
  const Opened engine(std::size_t(64) << 20);
  for (const Shape& shape :
       {Shape{1, 1, 1, 1}, {1, 5, 33, 7}, {1, 130, 300, 70}, {1, 9, 2100, 40}}) {
    Floats example(shape);
    CHECK(multiply({.product = example.product()}, kNpu).reason == Reason::npu);
    CHECK(example.right());
  }
}

TEST_CASE("threads that share packed weights push them out of a small window and stay right") {
  const Opened engine(std::size_t(1) << 20);
  std::vector<Floats> models;
  for (int seed = 1; seed <= 4; ++seed) models.emplace_back(Shape{1, 6, 300, 200}, seed);
  std::vector<std::shared_ptr<const Weights>> weights;
  for (const Floats& model : models) weights.push_back(model.weights());
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&, thread] {
      for (int round = 0; round < 8; ++round) {
        const std::size_t which = std::size_t(round + thread) % models.size();
        Floats mine = models[which];
        Product product = mine.product();
        product.b.data = nullptr;
        const Outcome outcome =
            multiply({.product = product, .weights = weights[which], .pin = which == 0}, kNpu);
        if (outcome.reason != Reason::npu || !mine.right()) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  const EngineStatus status = engine_status();
  CHECK(status.window.peak_bytes <= std::size_t(1) << 20);
  CHECK(status.window.weights_found > 0);
  CHECK(status.window.pinned_bytes > 0);
  forget(*weights[0]);
  CHECK(engine_status().window.pinned_bytes == 0);
}

TEST_CASE("bias and activation are applied when all of K is summed") {
  const Opened engine(std::size_t(64) << 20);
  Floats example({1, 40, 2100, 50});
  const std::vector<double> bias(50, 0.25);
  const Epilogue epilogue{.bias = bias.data(), .activation = Activation::relu};
  CHECK(multiply({.product = example.product(), .epilogue = epilogue}, kNpu).reason == Reason::npu);
  for (std::size_t i = 0; i < example.c.size(); ++i)
    example.expected[i] = std::max(example.expected[i] + 0.25, 0.0);
  CHECK(example.right(12));
}

TEST_CASE("operands that mix magnitudes adversarially are refused, not wrong") {
  const Opened engine(std::size_t(64) << 20);
  Floats example({1, 8, 256, 8});
  for (std::size_t i = 0; i < example.a.size(); ++i) example.a[i] = i % 256 == 0 ? 1 : 0x1p-30f;
  for (std::size_t i = 0; i < 8; ++i) example.b[i] = 0;
  CHECK(multiply({.product = example.product()}, kNpu).reason == Reason::precision_loss);
}
