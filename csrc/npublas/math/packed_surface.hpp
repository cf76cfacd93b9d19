// # The surface that a tile is packed to
// Where coded lanes go on it, in either layout, and whether past the cache. A and B differ in
// nothing else.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "npublas/math/layout.hpp"
#include "npublas/math/packers.hpp"

namespace npublas {

/// The largest block of lanes of B, in which B is packed; A is packed in as many rows as make lines
/// that are neighbours on the surface, while their source stays in the L1 cache.
inline constexpr std::int64_t kMostLanes = 32;
inline constexpr std::int64_t kLanesOfA = 16;

/// Lanes that are written together, each contiguous.
using Group = std::array<const std::byte*, kMostLanes>;

struct PackedSurface {
  Element element;
  bool is_a;
  Layout layout;
  std::int64_t lanes, depth;
  bool streams;

  std::int64_t bytes(std::int64_t elements) const {
    return std::int64_t(bytes_of(element, std::size_t(elements)));
  }
  std::int64_t lanes_together() const { return is_a ? kLanesOfA : layout::b_columns(element); }

  /// Writes `width` elements, a multiple of 32, of `count` lanes from `first` on, at depth `d`.
  void put(const Packers& packers, const Group& group, std::int64_t first, std::int64_t count,
           std::int64_t d, std::int64_t width, std::uint8_t turned, std::byte* to) const;

  /// Where the same goes of lanes that come from a panel, from depth 0 on.
  Put put_of(std::int64_t first, std::int64_t count, std::int64_t width, std::uint8_t turned,
             std::byte* to) const;

  /// Clears `width` elements from depth `d` on, of `count` lanes. `zeros`: as many.
  void clear(const Packers& packers, const std::byte* zeros, std::int64_t first, std::int64_t count,
             std::int64_t d, std::int64_t width, std::byte* to) const {
    Group none;
    none.fill(zeros);
    put(packers, none, first, count, d, width, 0, to);
  }

  /// Offset in bytes.
  std::int64_t at(std::int64_t lane, std::int64_t d) const {
    return bytes(std::int64_t(is_a ? layout::a_at(layout, element, lane, d, lanes, depth)
                                   : layout::b_at(element, d, lane, depth)));
  }
};

}  // namespace npublas
