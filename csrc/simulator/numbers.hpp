// # The two kinds of numbers
// What the tiling of arithmetic.cpp has to know about fp16 and about integers: how 32 depths are
// decoded, how they lie in a packed panel (kernels.hpp), and how a tile is multiplied.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "arithmetic.hpp"
#include "exact.hpp"
#include "half.hpp"
#include "kernels.hpp"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace npublas::simulator {

constexpr int kDepthBlock = 128;  // depths of a panel
constexpr int kGroups = kDepthBlock / kGroup;
constexpr int kMaxLanes = 16;  // rows or columns of a panel

// 32 depths of a row of A or a column of B, contiguous: at most 64 bytes.
struct Run {
  alignas(64) std::array<std::byte, kGroup * 2> bytes;
};

/// fp16, multiplied as doubles and summed as the chip sums.
struct Float {
  static constexpr int kStep = 1;  // depths that lie side by side in a panel
  using Loose = float;             // unpacked
  using Element = double;
  using Sum = float;

  // How many bits it takes to write the values of a run as integers of one scale, 0 if all are
  // zero: for each lane of a panel, and the most of each group. 32 products of a and b bits sum to
  // at most a + b + 5 bits, and in 53 a double is exact.
  struct Widths {
    std::array<std::array<std::uint8_t, kMaxLanes>, kGroups> lane{};
    std::array<std::uint8_t, kGroups> group{};

    void note(int g, int l, int width) {
      lane[g][l] = std::uint8_t(width);
      group[g] = std::max(group[g], lane[g][l]);
    }
    int most(int groups) const { return *std::max_element(group.begin(), group.begin() + groups); }
  };
  static bool fits(int a, int b) { return a + b + 5 <= 53; }

  static int columns(const Kernels& kernels) { return kernels.float_columns; }
  static int copies(const Kernels& kernels) { return kernels.float_copies; }

  static int decode(const Product& p, const Run& run, int /*zero*/, Loose* out) {
    std::array<std::uint16_t, kGroup> halves;
    std::memcpy(halves.data(), run.bytes.data(), sizeof halves);
    if (p.flush_subnormals) {
      for (std::uint16_t& half : halves) half = (half & 0x7c00) ? half : half & 0x8000;
    }
    // The largest magnitude, and the smallest that isn't zero as 0x8000 less it (zero gives 0): two
    // maxima, which the compiler turns into vector code.
    std::int16_t most = 0;
    std::int16_t smallness = 0;
    for (const std::uint16_t half : halves) {
      const auto magnitude = std::int16_t(half & 0x7fff);
      const auto small = std::int16_t(0x7fff - ((magnitude - 1) & 0x7fff));
      most = magnitude > most ? magnitude : most;
      smallness = small > smallness ? small : smallness;
    }
    for (int i = 0; i < kGroup; ++i) out[i] = from_half(halves[i]);
    if (most == 0) return 0;
    const int top = std::max(most >> 10, 1);
    const int bottom = std::max((0x8000 - smallness) >> 10, 1);
    return top - bottom + 11;
  }

  // Four lanes of a group into a packed panel of `lanes`.
  static void interleave(const Loose (*four)[kGroup], int lanes, int copies, Element* out) {
#if defined(__SSE2__)
    // The same as below, which compilers leave scalar: with few rows, most of the time is this.
    for (int k = 0; k < kGroup; k += 4) {
      __m128 depth[4];
      for (int lane = 0; lane < 4; ++lane) depth[lane] = _mm_load_ps(four[lane] + k);
      _MM_TRANSPOSE4_PS(depth[0], depth[1], depth[2], depth[3]);
      for (int i = 0; i < 4; ++i, out += lanes * copies) {
        const __m128d low = _mm_cvtps_pd(depth[i]);
        const __m128d high = _mm_cvtps_pd(_mm_movehl_ps(depth[i], depth[i]));
        if (copies == 1) {
          _mm_store_pd(out, low);
          _mm_store_pd(out + 2, high);
        } else {
          _mm_store_pd(out, _mm_unpacklo_pd(low, low));
          _mm_store_pd(out + 2, _mm_unpackhi_pd(low, low));
          _mm_store_pd(out + 4, _mm_unpacklo_pd(high, high));
          _mm_store_pd(out + 6, _mm_unpackhi_pd(high, high));
        }
      }
    }
#else
    for (int k = 0; k < kGroup; ++k, out += lanes * copies) {
      for (int lane = 0; lane < kTileRows; ++lane) {
        for (int copy = 0; copy < copies; ++copy) out[lane * copies + copy] = four[lane][k];
      }
    }
#endif
  }

  static void tile(const Kernels& kernels, const Element* a, const Widths& a_widths,
                   const Element* b, const Widths& b_widths, int depth, Sum* sums) {
    const int groups = depth / kGroup;
    if (fits(a_widths.most(groups), b_widths.most(groups))) {
      return kernels.float_tile(a, b, depth, sums);
    }
    for (int group = 0; group < groups; ++group) {
      const Element* const group_a = a + group * kGroup * kTileRows * kernels.float_copies;
      const Element* const group_b = b + group * kGroup * kernels.float_columns;
      if (fits(a_widths.group[group], b_widths.group[group])) {
        kernels.float_tile(group_a, group_b, kGroup, sums);
      } else {
        careful_tile(kernels, group_a, a_widths.lane[group], group_b, b_widths.lane[group], sums);
      }
    }
  }

  /// One group, of which some sums need more than 53 bits: those are taken from integers.
  static void careful_tile(const Kernels& kernels, const Element* a,
                           const std::array<std::uint8_t, kMaxLanes>& a_widths, const Element* b,
                           const std::array<std::uint8_t, kMaxLanes>& b_widths, Sum* sums) {
    const int columns = kernels.float_columns;
    const int copies = kernels.float_copies;
    alignas(64) std::array<Sum, kTileRows * kMaxLanes> group{};
    kernels.float_tile(a, b, kGroup, group.data());
    for (int row = 0; row < kTileRows; ++row) {
      for (int column = 0; column < columns; ++column) {
        Sum& sum = group[row * columns + column];
        if (!fits(a_widths[row], b_widths[column])) {
          sum = exact_group(a + row * copies, kTileRows * copies, b + column, columns);
        }
        sums[row * columns + column] += sum;
      }
    }
  }
};

/// int8 and int4, multiplied as int16.
struct Integer {
  static constexpr int kStep = 2;
  using Loose = std::int16_t;
  using Element = std::int16_t;
  using Sum = std::uint32_t;
  struct Widths {
    void note(int, int, int) {}
  };

  static int columns(const Kernels& kernels) { return kernels.integer_columns; }
  static int copies(const Kernels&) { return 1; }

  static int decode(const Product& p, const Run& run, int zero, Loose* out) {
    if (p.format->bits == 4) {
      for (int i = 0; i < kGroup; ++i) {
        out[i] = Loose(get_int4(run.bytes.data(), std::uint64_t(i), p.high_first));
      }
    } else {
      for (int i = 0; i < kGroup; ++i) out[i] = Loose(std::int8_t(run.bytes[i]) - zero);
    }
    return 0;
  }

  static void interleave(const Loose (*four)[kGroup], int lanes, int /*copies*/, Element* out) {
    for (int k = 0; k < kGroup; k += 2, out += 2 * lanes) {
      for (int lane = 0; lane < kTileRows; ++lane) std::memcpy(out + 2 * lane, four[lane] + k, 4);
    }
  }

  static void tile(const Kernels& kernels, const Element* a, const Widths&, const Element* b,
                   const Widths&, int depth, Sum* sums) {
    kernels.integer_tile(a, b, depth, sums);
  }
};

}  // namespace npublas::simulator
