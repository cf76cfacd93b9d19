// # A correction
// Predictions come from rates that were measured once, and a board throttles and rescales its
// clocks. So what products really took is held against what was predicted:
//
//   ratio = measured / predicted          of each product that ran on the NPU
//   where the median of the last ratios is off the factor by more than half: factor = median
//
// The median of at least five forgives two outliers of five and three of seven. What is left alone
// is wide (from half of the factor to one and a half of it), so that no noise moves it; and a move
// back takes twice the evidence of the move before it, so that a device that is now fast, now slow
// moves it ever more rarely.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace npublas {

class Correction {
 public:
  struct Move {
    double from, to;
  };

  /// Takes the ratio of one product; the move of the factor, if it was one too many.
  std::optional<Move> note(double ratio);

  /// What predictions are to be multiplied by; 1 while they are believed as they are.
  double factor() const { return factor_; }

  /// How many products, from the last move on, it takes to move it again.
  int patience() const { return patience_; }

  static constexpr int kPatience = 5;
  static constexpr int kMostPatience = 640;
  static constexpr int kWindow = 7;
  static constexpr double kMore = 1.5, kLess = 0.5;

 private:
  double median() const;

  double factor_ = 1;
  std::array<double, kWindow> ratios_{};
  std::int64_t noted_ = 0;  // since the last move
  int patience_ = kPatience;
  int direction_ = 0;  // of the last move: 1 up, -1 down
};

}  // namespace npublas
