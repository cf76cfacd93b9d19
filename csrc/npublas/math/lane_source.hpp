// # Lanes as they are coded
// The caller's lanes, contiguous, as the codings read them: float32, or float16 and bytes as they
// are. Where they are that already, nothing is copied; whatever has other strides is gathered
// first. (Rows in which lanes are near each other have a way of their own, pack_rows.hpp, but for
// NaN and infinity.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "npublas/math/pack.hpp"
#include "npublas/math/packers.hpp"

namespace npublas {

/// Memory in whole cache lines that grows, and is kept for the next tile.
class Scratch {
 public:
  /// At least so many bytes: zeros, or whatever was written since.
  std::byte* at_least(std::int64_t bytes);

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::int64_t bytes_ = 0;
};

class LaneSource {
 public:
  /// As what the lanes are read: `float32` of any float, or as they are.
  enum class As : std::uint8_t { float32, as_it_is };

  /// They are asked for in groups of `group`.
  LaneSource(const Lanes& lanes, As as, std::int64_t group, const Packers& packers);

  /// So many lanes are gathered together: what L2 holds.
  std::int64_t together() const { return together_; }

  /// Makes `count` lanes from `first` on available.
  void gather(std::int64_t first, std::int64_t count);

  /// One of these, by its number among all lanes; until the next call, and unaligned.
  const std::byte* lane(std::int64_t lane);
  /// What to ask memory for while it is coded.
  const std::byte* ahead(std::int64_t lane) const;

 private:
  const std::byte* source(std::int64_t lane) const {
    return static_cast<const std::byte*>(lanes_.data) + lane * lanes_.lane_stride;
  }
  const std::byte* later(std::int64_t lane) const;

  const Lanes& lanes_;
  const Packers& packers_;
  const std::int64_t size_;  // of an element of the source
  const bool gathers_, widens_;
  const std::int64_t lanes_ahead_, pitch_, together_;
  std::int64_t first_ = 0;
  std::byte* gathered_ = nullptr;
  float* widened_ = nullptr;
};

}  // namespace npublas
