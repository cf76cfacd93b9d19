#include "npublas/engine/tuning.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "npublas/engine/backoff.hpp"
#include "npublas/engine/correction.hpp"

namespace npublas {
namespace {

constexpr auto relaxed = std::memory_order_relaxed;

struct Published {
  Rates rates;
  std::uint64_t generation;
};

constexpr int kClasses = kMethods * 2 * 2 * kSizes;
constexpr double kSmallest = 2.0 * 128 * 128 * 128;  // flops: less isn't worth a prediction
constexpr int kNarrow = 16;                          // rows
constexpr double kTrialShare = 0.01;
constexpr double kSecondsBetweenTrials = 1;  // at least

/// What a decision reads of a class.
struct Seen {
  std::atomic<double> factor{1};
  std::atomic<std::int64_t> trial_at{0};
};

/// Written by one thread at a time.
struct State {
  std::mutex mutex;
  std::vector<std::unique_ptr<const Published>> published;  // kept: somebody may be reading
  std::vector<Correction> corrections = std::vector<Correction>(kClasses);
  std::vector<std::string> news;
};

const Published at_first{pessimistic(), 1};
std::atomic<const Published*> current{&at_first};
std::atomic<std::uint64_t> last_generation{at_first.generation};
Seen seen[kClasses];
std::atomic<bool> correcting{false};
std::atomic<bool> news_waiting{false};
std::atomic<std::uint64_t> begun{0};  // products on the NPU
std::atomic<int> under_way{0};
State* state = new State;  // never destroyed, replaced in a forked child

const int at_fork = ::pthread_atfork(nullptr, nullptr, [] {
  state = new State;  // the old one may be locked; it is not freed, nor are the rates that it has
  for (Seen& one : seen) {
    one.factor = 1;
    one.trial_at = 0;
  }
  news_waiting = false;
  under_way = 0;  // what was is the parent's
});

int index_of(const ProductClass& products) {
  return ((int(products.method) * 2 + products.packed) * 2 + products.narrow) * kSizes +
         products.size;
}

void forget_corrections() {
  std::fill(state->corrections.begin(), state->corrections.end(), Correction());
  for (Seen& one : seen) {
    one.factor.store(1, relaxed);
    one.trial_at.store(0, relaxed);
  }
}

std::string news_of(const ProductClass& products, const Correction::Move& move) {
  char text[96];
  if (move.to == 1)
    std::snprintf(text, sizeof text, " run as fast as predicted again");
  else
    std::snprintf(text, sizeof text, " take %.2g times the predicted time", move.to);
  return text_of(products) + text + " on the NPU: decided accordingly from now on" +
         (move.to > move.from
              ? " (is it throttled, or are its clocks lower than when it was tuned?)"
              : "");
}

}  // namespace

const Rates& current_rates() noexcept { return current.load(std::memory_order_acquire)->rates; }

std::uint64_t rates_generation() noexcept {
  return current.load(std::memory_order_acquire)->generation;
}

void set_rates(const Rates& rates) {
  const std::lock_guard lock(state->mutex);
  if (current.load(relaxed)->rates == rates) return;
  forget_corrections();
  // The same rates have the same number again, when the engine is closed and opened: what was kept
  // with it is right again.
  const Published* next = rates == at_first.rates ? &at_first : nullptr;
  for (const auto& published : state->published)
    if (published->rates == rates) next = published.get();
  if (!next) {
    state->published.push_back(
        std::make_unique<const Published>(Published{rates, ++last_generation}));
    next = state->published.back().get();
  }
  current.store(next, std::memory_order_release);
}

ProductClass class_of(Method method, bool packed, const Shape& shape) noexcept {
  const int size = int(std::floor(std::log2(std::max(shape.flops() / kSmallest, 1.0)) / 2));
  return {.method = method,
          .packed = packed,
          .narrow = shape.m <= kNarrow,
          .size = std::min(size, kSizes - 1)};
}

std::string text_of(const ProductClass& products) {
  const double least = kSmallest * std::pow(4.0, products.size);
  const bool large = least >= 1e9;
  const double unit = large ? 1e9 : 1e6;
  char text[128];
  if (products.size == kSizes - 1)
    std::snprintf(text, sizeof text, " products of more than %.3g", least / unit);
  else
    std::snprintf(text, sizeof text, " products of %.3g to %.3g", least / unit, 4 * least / unit);
  return std::string(name_of(products.method)) + text + (large ? " Gflop" : " Mflop") +
         (products.narrow ? ", of few rows" : "") +
         (products.packed ? ", with packed weights" : "");
}

double corrected_seconds(const ProductClass& products, const Prediction& predicted) noexcept {
  const Seen& one = seen[index_of(products)];
  const double factor = one.factor.load(relaxed);
  if (factor == 1) return predicted.npu_seconds;
  const double corrected = predicted.npu_seconds * factor;
  if (corrected < predicted.cpu_seconds || predicted.npu_seconds >= predicted.cpu_seconds)
    return corrected;
  return nanoseconds_now() >= one.trial_at.load(relaxed) ? predicted.npu_seconds : corrected;
}

void note_product(const ProductClass& products, double predicted, double measured) noexcept {
  if (!correcting.load(relaxed) || !(predicted > 0)) return;
  try {
    const std::lock_guard lock(state->mutex);
    const int index = index_of(products);
    Correction& correction = state->corrections[std::size_t(index)];
    Seen& one = seen[index];
    const bool fast = measured < Correction::kLess * correction.factor() * predicted;
    // Fast again: the next one may show at once whether it stays so.
    const double pause = fast ? 0 : std::max(measured / kTrialShare, kSecondsBetweenTrials);
    one.trial_at.store(nanoseconds_now() + std::int64_t(pause * 1e9), relaxed);
    const auto move = correction.note(measured / predicted);
    if (!move) return;
    one.factor.store(correction.factor(), relaxed);
    state->news.push_back(news_of(products, *move));
    news_waiting.store(true, relaxed);
  } catch (const std::exception&) {  // no memory: nothing is learnt
  }
}

ProductTimer::ProductTimer() noexcept
    : begin_(std::chrono::steady_clock::now()),
      number_(begun.fetch_add(1) + 1),
      alone_(under_way.fetch_add(1) == 0) {}

ProductTimer::~ProductTimer() { under_way.fetch_sub(1); }

void ProductTimer::note(const ProductClass& products, double predicted) const noexcept {
  const auto took = std::chrono::steady_clock::now() - begin_;
  if (alone_ && begun.load() == number_)
    note_product(products, predicted, std::chrono::duration<double>(took).count());
}

void set_correcting(bool on) noexcept { correcting = on; }

bool has_news() noexcept { return news_waiting.load(relaxed); }

std::string take_news() {
  const std::lock_guard lock(state->mutex);
  if (state->news.empty()) return "";
  std::string text = std::move(state->news.front());
  state->news.erase(state->news.begin());
  news_waiting = !state->news.empty();
  return text;
}

}  // namespace npublas
