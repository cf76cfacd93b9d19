#include "npublas/engine/correction.hpp"

#include <algorithm>
#include <cmath>

namespace npublas {

double Correction::median() const {
  std::array<double, kWindow> sorted = ratios_;
  const auto size = std::min<std::int64_t>(noted_, kWindow);
  const auto middle = sorted.begin() + size / 2;
  std::nth_element(sorted.begin(), middle, sorted.begin() + size);
  return *middle;
}

std::optional<Correction::Move> Correction::note(double ratio) {
  if (!std::isfinite(ratio) || ratio <= 0) return std::nullopt;
  ratios_[std::size_t(noted_ % kWindow)] = ratio;
  ++noted_;
  if (noted_ < patience_) return std::nullopt;
  const double now = median();
  if (now > kLess * factor_ && now < kMore * factor_) {
    // It holds for longer than it took to doubt it: next time, less evidence will do.
    if (noted_ >= 4 * std::int64_t(patience_)) {
      patience_ = std::max(patience_ / 2, kPatience);
      noted_ = kWindow;
    }
    return std::nullopt;
  }
  const int direction = now > factor_ ? 1 : -1;
  const bool back = direction == -direction_;
  patience_ = back ? std::min(2 * patience_, kMostPatience) : kPatience;
  direction_ = direction;
  const Move move{.from = factor_, .to = now > kLess && now < kMore ? 1.0 : now};
  factor_ = move.to;
  noted_ = 0;
  return move;
}

}  // namespace npublas
