// # Weights
// A matrix B, packed once: all of its tiles, in the order and form in which the NPU wants them, in
// one run of bytes that may be memory of ours or a mapped file. What a tile is made of:
//
//   high      the surface: int8, int4, or float16 (of `split`: the high parts)
//   low       the surface of the low parts; `split` only, and only where one isn't zero
//   scales    double, one per column
//   sums      int32, one per column; integers only
//   losses    LaneLoss, one per column; `split` only
//
// each on a multiple of 64 bytes. Where K is cut is a function of (K, N, type), as for every
// product; N is cut into tiles of one width, the last one narrower in the source and padded here.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "npublas/base/matrix.hpp"
#include "npublas/math/method.hpp"
#include "npublas/math/pack.hpp"

namespace npublas {

/// How a matrix, or a stack of them, is cut into tiles.
struct WeightsGrid {
  Method method;
  DType dtype;  ///< of the source: a uint8 is packed `shifted`, everything else as its method wants
  std::int64_t batch, k, n;
  std::int64_t tile_depth;    ///< of the source; the last tile may have less
  std::int64_t tile_columns;  ///< a multiple of 32 (int4: 64)

  std::int64_t surface_depth() const;  ///< tile_depth rounded up to the NPU's step
  std::int64_t depth_tiles() const;
  std::int64_t column_tiles() const;
  std::int64_t tiles() const;
  /// Tiles of one column one after the other, then the next column, then the next matrix.
  std::int64_t index(std::int64_t batch_item, std::int64_t depth_tile,
                     std::int64_t column_tile) const;
  std::size_t surface_bytes() const;  ///< of `high`, and of `low`
};

/// The grid that npublas packs to: depth as every plan has it, columns for an even share of cores.
/// `group`, if not 0, is the depth that scales were made for, and so the depth of the tiles. Throws
/// Error(argument) for what no tile can be.
/// Of int4, several tiles may share a group of scales: one that is too deep is cut evenly. int8
/// with scales are within -7..7 there (K, if it is one group); without, in -8..7.
WeightsGrid grid_for(Method method, DType dtype, std::int64_t batch, std::int64_t k, std::int64_t n,
                     std::int64_t group = 0);

/// Where a tile is, and what is known of it without reading it.
struct WeightTileEntry {
  std::uint64_t offset;
  std::uint64_t bytes;
  std::uint32_t checksum;  ///< CRC-32 (zlib's) of the bytes
  bool has_low;
  bool zero;
  bool subnormal;  ///< as in `Packed`
};

/// A tile, ready to be read.
struct WeightTile {
  const std::byte* high;
  const std::byte* low;  ///< null if it is zero
  const double* scales;
  const std::int32_t* sums;
  const LaneLoss* losses;
  bool zero, subnormal;
};

class Weights {
 public:
  /// Called before a tile is read: throws if the bytes aren't there any more, and returns a number,
  /// never 0, which is another one if they may have changed.
  using Watch = std::function<std::uint64_t()>;

  /// Over `bytes`, which `owner` keeps alive, and which begin on a multiple of 8 bytes. With
  /// `watch`, each tile's checksum is compared when the tile is first read, and again when it is
  /// read after the watch gave another number. Throws Error(argument) if an entry doesn't fit the
  /// bytes or the grid.
  Weights(const WeightsGrid& grid, std::span<const std::byte> bytes,
          std::vector<WeightTileEntry> entries, std::shared_ptr<const void> owner,
          Watch watch = nullptr);

  const WeightsGrid& grid() const { return grid_; }
  std::uint64_t id() const { return id_; }  ///< never used twice in a process
  const std::byte* data() const { return bytes_.data(); }
  std::size_t bytes() const { return bytes_.size(); }
  const std::vector<WeightTileEntry>& entries() const { return entries_; }
  bool has_low() const { return has_low_; }  ///< any tile has low parts

  /// Says that nobody will ask for a product any more; those under way go on.
  void close() const { closed_ = true; }
  bool is_closed() const { return closed_; }

  /// Throws Error(file) if the tile's checksum is wrong: the file was altered.
  WeightTile tile(std::int64_t index) const;

  /// Unpacks it all into `target`, a stack of matrices k × n: float32 for float methods, the
  /// source's type for integers. Exactly what was packed: of a float32 that needs more than two
  /// float16 parts, 2^-23 may be missing. Throws as `tile` does.
  void unpack(const MutableView& target) const;

 private:
  WeightsGrid grid_;
  std::span<const std::byte> bytes_;
  std::vector<WeightTileEntry> entries_;
  std::shared_ptr<const void> owner_;
  std::uint64_t id_;
  bool has_low_ = false;
  Watch watch_;
  mutable std::atomic<bool> closed_{false};
  /// For each tile what the watch said when its checksum was right; 0 before.
  mutable std::unique_ptr<std::atomic<std::uint64_t>[]> verified_;
};

/// A packed matrix as bytes and entries.
struct PackedWeights {
  std::vector<std::byte> bytes;
  std::vector<WeightTileEntry> entries;
  bool exact = true;  ///< unpacking gives the source back, bit for bit
};

/// Packs a stack of matrices, k × n each. `scales` (one for each `group` of k, 0 for a tile, and
/// each of n, of each matrix; or null) are for int8 sources of the methods `int8` and `int4`, which
/// were quantised already; floats get scales of their own. int8 without scales are what they are,
/// of `int4`. Throws Error(argument) for NaN and infinity, and for what an int4 can't be.
PackedWeights pack_weights(const View& source, const WeightsGrid& grid, const float* scales,
                           std::int64_t group = 0);

}  // namespace npublas
