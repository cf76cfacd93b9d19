// # Tuning
// The rates that decisions and plans are made by, and what was learnt since about how far they are
// off. All of it is read on every call, so reading takes no lock and no more than a few loads.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "npublas/math/cost.hpp"
#include "npublas/math/method.hpp"
#include "npublas/math/rates.hpp"

namespace npublas {

/// Those that were set last; pessimistic ones at the start. The reference stays valid.
const Rates& current_rates() noexcept;
/// Another number whenever the rates are others: what is kept of a plan or a prediction is kept
/// with it.
std::uint64_t rates_generation() noexcept;
/// Forgets all corrections if the rates are others: they were corrections of the old ones.
void set_rates(const Rates& rates);

/// Products whose predictions are corrected together, because they are wrong for the same reasons.
struct ProductClass {
  Method method;
  bool packed;  ///< B was packed before
  bool narrow;  ///< at most 16 rows: the time is that of streaming B
  int size;     ///< of its floating-point operations: four times as many are one more
};
inline constexpr int kSizes = 12;
ProductClass class_of(Method method, bool packed, const Shape& shape) noexcept;
/// "float32 products of 1.1 to 4.4 Gflop with packed weights".
std::string text_of(const ProductClass& products);

/// The NPU's seconds that a decision is to go by: those predicted, by the factor of their class.
/// Where that alone keeps products from the NPU, one is let through now and then to see whether it
/// is faster again; such trials take at most a hundredth of the time.
double corrected_seconds(const ProductClass& products, const Prediction& predicted) noexcept;

/// What is learnt of a product that had the NPU to itself: seconds as the model alone predicts
/// them, and as they were.
void note_product(const ProductClass& products, double predicted, double measured) noexcept;

/// A product on the NPU, from its construction on, which is after it has waited for others. What
/// several take beside each other tells nothing of one of them, and is not noted.
class ProductTimer {
 public:
  ProductTimer() noexcept;
  ~ProductTimer();
  ProductTimer(const ProductTimer&) = delete;
  ProductTimer& operator=(const ProductTimer&) = delete;

  /// It is done, and was predicted to take so long.
  void note(const ProductClass& products, double predicted) const noexcept;

 private:
  std::chrono::steady_clock::time_point begin_;
  std::uint64_t number_;  ///< of all that began
  bool alone_;            ///< at its begin
};

/// Corrections are made, or not (at the start). None is where predictions are of another machine
/// than the one that is measured: of a simulator that nobody has tuned.
void set_correcting(bool on) noexcept;

/// A line for the log on each correction. The door asks after each product on the NPU; false costs
/// one load.
bool has_news() noexcept;
std::string take_news();

}  // namespace npublas
