// Rates that change under those who read them, and corrections that follow the device but no noise.
#include <doctest/doctest.h>

#include <atomic>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "npublas/engine/correction.hpp"
#include "npublas/engine/tuning.hpp"

using namespace npublas;

namespace {

/// Notes the same ratio `times` times; how often that moved the factor.
int note(Correction& correction, double ratio, int times) {
  int moves = 0;
  for (int i = 0; i < times; ++i) moves += correction.note(ratio).has_value();
  return moves;
}

struct Rated {
  explicit Rated(const Rates& rates) {
    set_rates(rates);
    set_correcting(true);
  }
  ~Rated() {
    set_correcting(false);
    while (has_news()) take_news();
    set_rates(pessimistic());
  }
};

/// A class of products; the sizes keep the tests apart.
ProductClass products(int size) { return {Method::float16, true, false, size}; }

Rates rates_of(double flops) {
  Rates rates = target_rates();
  rates.cpu_flops = flops;
  return rates;
}

}  // namespace

TEST_CASE("a prediction that is off by half and more five times in a row is corrected") {
  for (const double ratio : {3.0, 1.6, 0.3}) {
    Correction correction;
    CHECK(note(correction, ratio, 4) == 0);
    CHECK(correction.factor() == 1);
    const auto move = correction.note(ratio);
    REQUIRE(move);
    CHECK(move->from == 1);
    CHECK(move->to == ratio);
    CHECK(correction.factor() == ratio);
    CHECK(note(correction, ratio, 1000) == 0);
  }
}

TEST_CASE("a prediction that is off by less is left as it is") {
  for (const double ratio : {1.45, 0.55, 1.0}) {
    Correction correction;
    CHECK(note(correction, ratio, 1000) == 0);
    CHECK(correction.factor() == 1);
  }
}

TEST_CASE("single outliers correct nothing, however far off") {
  Correction correction;
  for (int i = 0; i < 300; ++i) CHECK(!correction.note(i % 3 == 1 ? 1000.0 : 1.1));
  CHECK(correction.factor() == 1);
}

TEST_CASE("what is no measurement is not noted") {
  Correction correction;
  for (int i = 0; i < 20; ++i)
    for (const double ratio : {0.0, -1.0, std::numeric_limits<double>::infinity(),
                               std::numeric_limits<double>::quiet_NaN()})
      CHECK(!correction.note(ratio));
  CHECK(note(correction, 4, 5) == 1);
}

TEST_CASE("a device that is as fast as predicted again is believed again, exactly") {
  Correction correction;
  note(correction, 4, 20);
  CHECK(correction.factor() == 4);
  note(correction, 1.2, 20);
  CHECK(correction.factor() == 1);
}

TEST_CASE("a device that gets slower and slower is followed") {
  Correction correction;
  for (const double ratio : {2.0, 4.0, 8.0}) {
    CHECK(note(correction, ratio, Correction::kPatience) == 1);
    CHECK(correction.factor() == ratio);
    CHECK(correction.patience() == Correction::kPatience);
  }
}

TEST_CASE("a device that is now fast, now slow moves the factor ever more rarely") {
  Correction correction;
  std::vector<int> moves;
  for (int i = 0; i < 20000; ++i)
    if (correction.note(i / 10 % 2 == 0 ? 1.0 : 4.0)) moves.push_back(i);
  CHECK(moves.size() <= 40);
  CHECK(correction.patience() == Correction::kMostPatience);
  for (std::size_t i = 10; i < moves.size(); ++i)
    CHECK(moves[i] - moves[i - 1] >= Correction::kMostPatience);
}

TEST_CASE("a device that has been steady for long is given little evidence to doubt it again") {
  Correction correction;
  for (int i = 0; i < 100; ++i) note(correction, i % 2 == 0 ? 4.0 : 1.0, 20);
  REQUIRE(correction.patience() > 8 * Correction::kPatience);
  note(correction, correction.factor(), 20000);
  CHECK(correction.patience() == Correction::kPatience);
}

TEST_CASE("rates have a number of their own, and the same one when they come again") {
  const Rated rated(target_rates());
  const std::uint64_t first = rates_generation();
  CHECK(current_rates() == target_rates());
  set_rates(target_rates());
  CHECK(rates_generation() == first);
  set_rates(rates_of(7e9));
  const std::uint64_t second = rates_generation();
  CHECK(second != first);
  CHECK(current_rates().cpu_flops == 7e9);
  set_rates(target_rates());
  CHECK(rates_generation() == first);
  set_rates(rates_of(7e9));
  CHECK(rates_generation() == second);
}

TEST_CASE("rates are read whole while others set them") {
  const Rated rated(rates_of(1));
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (int i = 1; i <= 2000; ++i) {
      Rates rates = rates_of(i % 50 + 1);
      rates.cpu_bytes_per_second = rates.cpu_flops;
      set_rates(rates);
    }
    stop = true;
  });
  bool whole = true;
  while (!stop) {
    const Rates rates = current_rates();
    if (rates.cpu_flops != 1) whole &= rates.cpu_bytes_per_second == rates.cpu_flops;
  }
  writer.join();
  CHECK(whole);
}

TEST_CASE("products are told apart by four times the work, by the height of A, and by packing") {
  const auto size = [](std::int64_t n) {
    return class_of(Method::float32, false, {1, n, n, n}).size;
  };
  CHECK(size(1) == 0);
  CHECK(size(128) == 0);
  CHECK(size(203) == 0);
  CHECK(size(204) == 1);
  CHECK(size(512) == 3);
  CHECK(size(1 << 20) == kSizes - 1);
  CHECK(class_of(Method::int8, true, {1, 16, 4096, 4096}).narrow);
  CHECK(!class_of(Method::int8, true, {1, 17, 4096, 4096}).narrow);
  CHECK(text_of(class_of(Method::float32, true, {1, 1024, 1024, 1024})) ==
        "float32 products of 1.07 to 4.29 Gflop, with packed weights");
  CHECK(text_of(class_of(Method::integers, false, {1, 1, 2048, 2048})) ==
        "integers products of 4.19 to 16.8 Mflop, of few rows");
}

TEST_CASE(
    "where products are slower than predicted, decisions go by what they take, and one line "
    "says so") {
  const Rated rated(rates_of(2));
  const Prediction predicted{.cpu_seconds = 2e-3, .npu_seconds = 1e-3};
  CHECK(corrected_seconds(products(1), predicted) == 1e-3);
  for (int i = 0; i < 50; ++i) note_product(products(1), 1e-3, 3e-3);
  CHECK(corrected_seconds(products(1), predicted) == doctest::Approx(3e-3));
  CHECK(corrected_seconds(products(2), predicted) == 1e-3);
  REQUIRE(has_news());
  CHECK(take_news().find("take 3 times the predicted time on the NPU") != std::string::npos);
  CHECK(!has_news());
  CHECK(take_news().empty());
}

TEST_CASE("where products are faster than predicted, more of them pay") {
  const Rated rated(rates_of(3));
  for (int i = 0; i < 5; ++i) note_product(products(3), 4e-3, 1e-3);
  CHECK(corrected_seconds(products(3), {.cpu_seconds = 2e-3, .npu_seconds = 4e-3}) ==
        doctest::Approx(1e-3));
}

TEST_CASE("a class that is kept from the NPU by its factor is tried again later, not at once") {
  const Rated rated(rates_of(4));
  const Prediction predicted{.cpu_seconds = 2e-3, .npu_seconds = 1e-3};
  for (int i = 0; i < 5; ++i) note_product(products(4), 1e-3, 1000e-3);
  CHECK(corrected_seconds(products(4), predicted) == doctest::Approx(1));  // for 100 s
  // A trial that went well is followed by others at once, until the factor falls.
  note_product(products(4), 1e-3, 1e-3);
  CHECK(corrected_seconds(products(4), predicted) == 1e-3);
  for (int i = 0; i < 20; ++i) note_product(products(4), 1e-3, 1e-3);
  CHECK(corrected_seconds(products(4), {.cpu_seconds = 2, .npu_seconds = 1}) == 1);
}

TEST_CASE("products that share the NPU are not held against what is predicted of one") {
  const Rated rated(rates_of(8));
  const Prediction predicted{.cpu_seconds = 1, .npu_seconds = 1e-12};  // all take longer
  for (int i = 0; i < 50; ++i) {
    const ProductTimer first;
    const ProductTimer second;
    second.note(products(7), 1e-12);
    first.note(products(7), 1e-12);
  }
  CHECK(corrected_seconds(products(7), predicted) == 1e-12);
  for (int i = 0; i < 50; ++i) {
    const ProductTimer alone;
    alone.note(products(7), 1e-12);
  }
  CHECK(corrected_seconds(products(7), predicted) > 1e-12);
}

TEST_CASE("other rates forget the corrections of the old ones") {
  const Rated rated(rates_of(5));
  for (int i = 0; i < 5; ++i) note_product(products(5), 1e-3, 9e-3);
  const Prediction predicted{.cpu_seconds = 1, .npu_seconds = 1e-3};
  CHECK(corrected_seconds(products(5), predicted) == doctest::Approx(9e-3));
  set_rates(rates_of(6));
  CHECK(corrected_seconds(products(5), predicted) == 1e-3);
}

TEST_CASE("nothing is corrected where that is off") {
  const Rated rated(rates_of(7));
  set_correcting(false);
  for (int i = 0; i < 50; ++i) note_product(products(6), 1e-3, 9e-3);
  CHECK(corrected_seconds(products(6), {.cpu_seconds = 1, .npu_seconds = 1e-3}) == 1e-3);
  CHECK(!has_news());
}
