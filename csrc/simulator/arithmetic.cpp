// Tiles, around the kernels:
//
//   for 1024 rows, for 256 columns:               sums stay in cache
//     for 256 depths:
//       pack B                                    once per block of rows
//       for 4 rows:  pack A; for each tile of columns: kernel
//     write C
#include "arithmetic.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "half.hpp"
#include "kernels.hpp"
#include "numbers.hpp"
#include "settings.hpp"

namespace npublas::simulator {
namespace {

constexpr int kRowBlock = 1024;
constexpr int kColumnBlock = 512;

const Kernels& choose_kernels() {
#if defined(__x86_64__)
  if (get(Setting::isa) != kBaseline && has_avx2()) return kAvx2Kernels;
#endif
  return kBaselineKernels;
}

/// Memory for vectors, kept by each thread for its next run.
template <class T>
class Scratch {
 public:
  T* at_least(std::size_t count) {
    if (count > count_) {
      data_.reset(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64))));
      count_ = count;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(T* data) const { ::operator delete(data, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t count_ = 0;
};

Run run_of_a(const Product& p, int row, int group) {
  Run run;
  const int chunks = kGroup / p.format->x();
  const std::byte* from =
      p.a + row * p.a_chunks.row + std::uint64_t(group) * chunks * p.a_chunks.next;
  for (int i = 0; i < chunks; ++i) {
    std::memcpy(run.bytes.data() + i * kChunk, from + i * p.a_chunks.next, kChunk);
  }
  return run;
}

Run run_of_b(const Product& p, int column, int group) {
  Run run;
  const std::uint64_t at = p.b_layout.at(std::uint64_t(group) * kGroup, std::uint64_t(column));
  std::memcpy(run.bytes.data(), p.b + p.format->ab_bytes(at), p.format->ab_bytes(kGroup));
  return run;
}

// ## Packing

template <class Kind>
struct Panel {
  typename Kind::Element* elements;
  typename Kind::Widths widths;
};

/// `lanes` rows of A or columns of B (a multiple of 4) from `first`; those beyond `end` are zeros.
template <class Kind, class RunOf>
void pack(const Product& p, RunOf run_of, int zero, int first, int end, int lanes, int copies,
          int depth, int depth_block, Panel<Kind>& panel) {
  panel.widths = {};
  alignas(kChunk) typename Kind::Loose four[kTileRows][kGroup];
  for (int k = 0; k < depth_block; k += kGroup) {
    for (int lane = 0; lane < lanes; lane += kTileRows) {
      for (int i = 0; i < kTileRows; ++i) {
        const int line = first + lane + i;
        if (line < end) {
          const int width = Kind::decode(p, run_of(p, line, (depth + k) / kGroup), zero, four[i]);
          panel.widths.note(k / kGroup, lane + i, width);
        } else {
          std::fill_n(four[i], kGroup, typename Kind::Loose{});
        }
      }
      Kind::interleave(four, lanes, copies,
                       panel.elements + (k * lanes + lane * Kind::kStep) * copies);
    }
  }
}

// ## Writing C

// How the hardware rounds here is not known: to the nearest, ties to even, is a guess.
std::int8_t requantise(std::int32_t sum, const Product& p) {
  const double value = std::nearbyint(double(sum) * double(p.scale)) + p.c_zero;
  return std::int8_t(std::clamp(value, -128.0, 127.0));
}

std::int64_t write(const Product& p, const float* sums, int count, std::byte* out) {
  if (p.format->c == abi::kTensorFloat32) {
    std::memcpy(out, sums, std::size_t(count) * 4);
    return 0;
  }
  for (int i = 0; i < count; ++i) {
    const std::uint16_t half = to_half(sums[i]);
    std::memcpy(out + 2 * i, &half, 2);
  }
  return 0;
}

std::int64_t write(const Product& p, const std::uint32_t* sums, int count, std::byte* out) {
  std::int64_t overflows = 0;
  for (int i = 0; i < count; ++i) {
    const auto sum = std::int32_t(sums[i]);
    switch (p.format->c) {
      case abi::kTensorInt32:
        std::memcpy(out + 4 * i, &sum, 4);
        break;
      case abi::kTensorFloat32: {
        const float value = float(sum) * p.scale;
        std::memcpy(out + 4 * i, &value, 4);
        break;
      }
      case abi::kTensorInt16: {
        const auto value = std::int16_t(std::clamp(sum, -32768, 32767));
        overflows += value != sum;
        std::memcpy(out + 2 * i, &value, 2);
        break;
      }
      default:
        out[i] = std::byte(requantise(sum, p));
    }
  }
  return overflows;
}

/// The sums of a block of columns, tile by tile, into one row of C.
template <class Sum>
std::int64_t write_row(const Product& p, int row, int column, int count, const Sum* tiles,
                       int tile_columns) {
  std::array<Sum, kColumnBlock> sums;
  for (int i = 0; i < count; i += tile_columns) {
    const Sum* const tile = tiles + std::size_t(i) * kTileRows;
    std::copy_n(tile + row % kTileRows * tile_columns, std::min(tile_columns, count - i),
                sums.data() + i);
  }
  alignas(kChunk) std::array<std::byte, kColumnBlock * 4> bytes;
  const std::int64_t overflows = write(p, sums.data(), count, bytes.data());
  const int w = p.format->w();
  std::byte* out = p.c + row * p.c_chunks.row + std::uint64_t(column / w) * p.c_chunks.next;
  for (int i = 0; i < count; i += w, out += p.c_chunks.next) {
    std::memcpy(out, bytes.data() + i * p.format->c_bytes, kChunk);
  }
  return overflows;
}

template <class Kind>
std::int64_t multiply_as(const Product& p) {
  using Element = typename Kind::Element;
  using Sum = typename Kind::Sum;
  static thread_local Scratch<Element> scratch_a, scratch_b;
  static thread_local Scratch<Sum> scratch_sums;

  const Kernels& kernels = choose_kernels();
  const int columns = Kind::columns(kernels);
  const int copies = Kind::copies(kernels);
  Panel<Kind> a{scratch_a.at_least(std::size_t(kTileRows) * kDepthBlock * copies), {}};
  Element* const b_elements = scratch_b.at_least(std::size_t(kColumnBlock) * kDepthBlock);
  std::array<Panel<Kind>, kColumnBlock / kTileRows> b;  // tiles have at least as many columns

  std::int64_t overflows = 0;
  for (int m0 = 0; m0 < p.m; m0 += kRowBlock) {
    const int rows = std::min(kRowBlock, p.m - m0);
    for (int n0 = 0; n0 < p.n; n0 += kColumnBlock) {
      const int wide = std::min(kColumnBlock, p.n - n0);
      const int tiles = (wide + columns - 1) / columns;
      const std::size_t strip = std::size_t(tiles) * columns * kTileRows;  // sums of four rows
      const std::size_t all = strip * ((std::size_t(rows) + kTileRows - 1) / kTileRows);
      Sum* const sums = scratch_sums.at_least(all);
      std::fill_n(sums, all, Sum{});
      for (int k0 = 0; k0 < p.k; k0 += kDepthBlock) {
        const int deep = std::min(kDepthBlock, p.k - k0);
        for (int t = 0; t < tiles; ++t) {
          b[t].elements = b_elements + std::size_t(t) * columns * kDepthBlock;
          pack<Kind>(p, run_of_b, p.b_zero, n0 + t * columns, p.n, columns, 1, k0, deep, b[t]);
        }
        for (int m = 0; m < rows; m += kTileRows) {
          pack<Kind>(p, run_of_a, p.a_zero, m0 + m, p.m, kTileRows, copies, k0, deep, a);
          Sum* tile_sums = sums + strip * std::size_t(m / kTileRows);
          for (int t = 0; t < tiles; ++t, tile_sums += kTileRows * columns) {
            Kind::tile(kernels, a.elements, a.widths, b[t].elements, b[t].widths, deep, tile_sums);
          }
        }
      }
      for (int m = 0; m < rows; ++m) {
        overflows +=
            write_row(p, m0 + m, n0, wide, sums + strip * std::size_t(m / kTileRows), columns);
      }
    }
  }
  return overflows;
}

}  // namespace

bool has_avx2() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has;
#else
  return false;
#endif
}

std::int64_t multiply(const Product& product) {
  return product.format->bits == 16 ? multiply_as<Float>(product) : multiply_as<Integer>(product);
}

}  // namespace npublas::simulator
