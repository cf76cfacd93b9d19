#include "npublas/math/weights.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "npublas/base/crc32.hpp"
#include "npublas/base/error.hpp"
#include "npublas/base/half.hpp"
#include "npublas/base/integers.hpp"
#include "npublas/math/int4.hpp"
#include "npublas/math/plan.hpp"

namespace npublas {
namespace {

// What a context may be at most, which no file may exceed.
constexpr std::int64_t kMaxDepth = 8192;
constexpr std::int64_t kMaxColumns = 8192;
constexpr std::int64_t kMaxSize = INT32_MAX;  // of a dimension
constexpr std::int64_t kMaxTiles = std::int64_t(1) << 32;
constexpr std::int64_t kAlignment = 64;

static_assert(sizeof(LaneLoss) == 24, "LaneLoss is part of the file format");

[[noreturn]] void refuse(const std::string& why) { throw Error(ErrorKind::argument, why); }

std::int64_t deepest(Method method) {
  return method == Method::int4 ? certified_depth(kInt4Max, kInt4WeightMax) : kMaxDepth;
}

void check(const WeightsGrid& grid) {
  const bool integer = grid.dtype == DType::int8 || grid.dtype == DType::uint8;
  const bool fits = grid.method == Method::integers ? integer
                    : grid.method == Method::int8 || grid.method == Method::int4
                        ? is_float(grid.dtype) || grid.dtype == DType::int8
                        : is_float(grid.dtype);
  if (!fits) {
    refuse(std::string("no weights of ") + name_of(grid.dtype) + " for the method " +
           name_of(grid.method));
  }
  for (const std::int64_t size : {grid.batch, grid.k, grid.n}) {
    if (size < 0 || size > kMaxSize)
      refuse("weights have dimensions of 0 to " + std::to_string(kMaxSize) + ", not of " +
             std::to_string(size));
  }
  if (grid.tile_depth < 1 || grid.tile_depth > deepest(grid.method))
    refuse("tiles can't be " + std::to_string(grid.tile_depth) + " deep");
  if (grid.tile_columns < 1 || grid.tile_columns > kMaxColumns ||
      grid.tile_columns % column_step(element_of(grid.method)) != 0)
    refuse("tiles can't be " + std::to_string(grid.tile_columns) + " columns wide");
  const std::int64_t of_one = grid.depth_tiles() * grid.column_tiles();
  if (of_one != 0 && grid.batch > kMaxTiles / of_one) refuse("weights of too many tiles");
}

/// Where the parts of a tile begin, and where it ends; a part that there isn't has no bytes.
struct Parts {
  std::size_t low, scales, sums, losses, end;
};

Parts parts_of(const WeightsGrid& grid, bool has_low) {
  const auto after = [](std::size_t begin, std::size_t bytes) {
    return std::size_t(round_up(std::int64_t(begin + bytes), kAlignment));
  };
  const std::size_t columns = std::size_t(grid.tile_columns);
  const bool integers = grid.method == Method::integers;
  const bool split = grid.method == Method::float32;
  Parts parts;
  parts.low = after(0, grid.surface_bytes());
  parts.scales = after(parts.low, has_low ? grid.surface_bytes() : 0);
  parts.sums = after(parts.scales, integers ? 0 : columns * sizeof(double));
  parts.losses = after(parts.sums, integers ? columns * sizeof(std::int32_t) : 0);
  parts.end = after(parts.losses, split ? columns * sizeof(LaneLoss) : 0);
  return parts;
}

/// The source's rows and columns that a tile holds.
struct Place {
  std::int64_t batch, depth, column;
  std::int64_t depths, columns;
};

Place place_of(const WeightsGrid& grid, std::int64_t index) {
  const std::int64_t down = grid.depth_tiles(), across = grid.column_tiles();
  const std::int64_t depth = index % down * grid.tile_depth;
  const std::int64_t column = index / down % across * grid.tile_columns;
  return {.batch = index / down / across,
          .depth = depth,
          .column = column,
          .depths = std::min(grid.tile_depth, grid.k - depth),
          .columns = std::min(grid.tile_columns, grid.n - column)};
}

WeightTile tile_at(const WeightsGrid& grid, const std::byte* bytes, const WeightTileEntry& entry) {
  const Parts parts = parts_of(grid, entry.has_low);
  const bool integers = grid.method == Method::integers;
  return {.high = bytes,
          .low = entry.has_low ? bytes + parts.low : nullptr,
          .scales = integers ? nullptr : reinterpret_cast<const double*>(bytes + parts.scales),
          .sums = integers ? reinterpret_cast<const std::int32_t*>(bytes + parts.sums) : nullptr,
          .losses = grid.method == Method::float32
                        ? reinterpret_cast<const LaneLoss*>(bytes + parts.losses)
                        : nullptr,
          .zero = entry.zero,
          .subnormal = entry.subnormal};
}

/// The values of a tile's column, `depths` of them, as they were packed.
void read_column(const WeightsGrid& grid, const WeightTile& tile, std::int64_t column,
                 std::int64_t depths, float* values) {
  const Element element = element_of(grid.method);
  const double scale = tile.scales[column];
  for (std::int64_t d = 0; d < depths; d += layout::kBDepth) {
    const std::size_t at = layout::b_at(element, d, column, grid.surface_depth());
    const std::int64_t count = std::min(layout::kBDepth, depths - d);
    if (element == Element::int4) {
      for (std::int64_t i = 0; i < count; ++i) {
        const std::size_t index = at + std::size_t(i);
        const int nibble = int(tile.high[index / 2]) >> (index % 2 * 4) & 15;
        values[d + i] = float(((nibble ^ 8) - 8) * scale);
      }
      continue;
    }
    if (element == Element::int8) {
      const auto* bytes = reinterpret_cast<const std::int8_t*>(tile.high) + at;
      for (std::int64_t i = 0; i < count; ++i) values[d + i] = float(bytes[i] * scale);
      continue;
    }
    // Both parts of a number lie within 50 bits, so that their sum is exact in double.
    const auto* high = reinterpret_cast<const std::uint16_t*>(tile.high) + at;
    const auto* low = tile.low ? reinterpret_cast<const std::uint16_t*>(tile.low) + at : nullptr;
    for (std::int64_t i = 0; i < count; ++i) {
      double value = half_to_float(high[i]);
      if (low) value += kLowScale * double(half_to_float(low[i]));
      values[d + i] = float(value * scale);
    }
  }
}

template <typename T>
T read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

double read_float(const std::byte* from, DType dtype) {
  switch (dtype) {
    case DType::float16:
      return half_to_float(read<std::uint16_t>(from));
    case DType::bfloat16:
      return bfloat16_to_float(read<std::uint16_t>(from));
    case DType::float64:
      return read<double>(from);
    default:
      return read<float>(from);
  }
}

/// Whether unpacking a tile gives the source back. Ordinary float32 need 24 bits, of which two
/// parts have 23 at times: then the answer comes after a few elements.
bool restores(const WeightsGrid& grid, const WeightTile& tile, const Lanes& source) {
  if (!is_float(grid.dtype)) return true;
  std::vector<float> values(std::size_t(source.depth));
  for (std::int64_t lane = 0; lane < source.lanes; ++lane) {
    read_column(grid, tile, lane, source.depth, values.data());
    const auto* from = static_cast<const std::byte*>(source.data) + lane * source.lane_stride;
    for (const float value : values) {
      if (double(value) != read_float(from, source.dtype)) return false;
      from += source.depth_stride;
    }
  }
  return true;
}

Coding coding_of(const WeightsGrid& grid) {
  switch (grid.method) {
    case Method::integers:
      return grid.dtype == DType::uint8 ? Coding::shifted : Coding::bytes;
    case Method::float16:
      return Coding::half;
    case Method::float32:
      return Coding::split;
    case Method::int8:
    case Method::int4:
      return grid.dtype == DType::int8 ? Coding::bytes : Coding::quantized;
  }
  return Coding::bytes;
}

/// From the surface of bytes that it was packed to first.
void pack_nibbles(const WeightsGrid& grid, const std::byte* bytes, std::byte* nibbles) {
  const int largest =
      nibbles_of_b(reinterpret_cast<const std::int8_t*>(bytes), grid.surface_depth(),
                   grid.tile_columns, reinterpret_cast<std::uint8_t*>(nibbles));
  if (largest > kInt4Max) refuse("weights of int4 must be within -8 ... 7");
  if (grid.surface_depth() > certified_depth(kInt4Max, std::max(largest, 1)))
    refuse("weights of int4 that are quantised must be within -7 ... 7");
}

/// Packs a tile to `bytes`, which are zeros, of the size of the largest. The entry lacks its place
/// and its checksum.
WeightTileEntry pack_tile(const Lanes& source, const WeightsGrid& grid, const float* scales,
                          std::byte* bytes) {
  const bool split = grid.method == Method::float32;
  std::vector<double> own_scales(std::size_t(grid.tile_columns), 0.0);
  std::vector<std::int32_t> sums(std::size_t(grid.tile_columns), 0);
  std::vector<LaneLoss> losses(std::size_t(grid.tile_columns));
  LaneNotes notes;
  if (grid.method == Method::integers) notes.sums = sums.data();
  if (is_float(grid.dtype)) notes.scales = own_scales.data();
  if (split) notes.losses = losses.data();
  const Parts largest = parts_of(grid, split);
  const bool nibbles = grid.method == Method::int4;
  std::vector<std::byte> whole(nibbles ? 2 * grid.surface_bytes() : 0);
  const Packing packing{.coding = coding_of(grid),
                        .limit = nibbles ? kInt4WeightMax : 127,
                        .reread = true};  // for its checksum, or to be halved
  const Packed packed =
      pack_b(source, packing, grid.tile_columns, grid.surface_depth(),
             nibbles ? whole.data() : bytes, split ? bytes + largest.low : nullptr, notes);
  if (!packed.finite) {
    refuse(std::string("weights must be finite: a value of this ") + name_of(grid.dtype) +
           " matrix is NaN or infinite, or becomes so in float32");
  }
  if (nibbles) pack_nibbles(grid, whole.data(), bytes);
  if (scales) std::copy_n(scales, source.lanes, own_scales.begin());
  if (nibbles && grid.dtype == DType::int8 && !scales)
    std::fill_n(own_scales.begin(), source.lanes, 1.0);

  const bool has_low = split && !packed.low_zero;
  const Parts parts = parts_of(grid, has_low);
  std::fill(bytes + parts.scales, bytes + largest.end, std::byte(0));
  const auto put = [&](std::size_t at, const auto& values) {
    std::memcpy(bytes + at, values.data(), values.size() * sizeof values[0]);
  };
  if (grid.method == Method::integers) {
    put(parts.sums, sums);
  } else {
    put(parts.scales, own_scales);
  }
  if (split) put(parts.losses, losses);
  return {.offset = 0,
          .bytes = parts.end,
          .checksum = 0,
          .has_low = has_low,
          .zero = packed.zero,
          .subnormal = packed.subnormal};
}

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

}  // namespace

std::int64_t WeightsGrid::surface_depth() const { return round_up(tile_depth, kDepthStep); }
std::int64_t WeightsGrid::depth_tiles() const { return ceil_div(k, tile_depth); }
std::int64_t WeightsGrid::column_tiles() const { return ceil_div(n, tile_columns); }
std::int64_t WeightsGrid::tiles() const { return batch * depth_tiles() * column_tiles(); }

std::int64_t WeightsGrid::index(std::int64_t batch_item, std::int64_t depth_tile,
                                std::int64_t column_tile) const {
  return (batch_item * column_tiles() + column_tile) * depth_tiles() + depth_tile;
}

std::size_t WeightsGrid::surface_bytes() const {
  return bytes_of(element_of(method), std::size_t(surface_depth() * tile_columns));
}

WeightsGrid grid_for(Method method, DType dtype, std::int64_t batch, std::int64_t k, std::int64_t n,
                     std::int64_t group) {
  // Of int4, tiles are shallow: several may share a scale, but none may need two.
  const auto depth_of_int4 = [&](std::int64_t size) {
    const int magnitude = dtype == DType::int8 && group == 0 ? kInt4Max : kInt4WeightMax;
    const std::int64_t most = certified_depth(kInt4Max, magnitude);
    if (group == 0 || group >= size)
      return round_up(ceil_div(size, ceil_div(size, most)), kDepthStep);
    std::int64_t tiles = ceil_div(group, most);
    while (group % tiles != 0) ++tiles;
    return group / tiles;
  };
  // Of an empty matrix there are no tiles, but what they would be is still said.
  const auto some = [](std::int64_t size) { return std::max<std::int64_t>(size, 1); };
  const WeightsGrid grid{.method = method,
                         .dtype = dtype,
                         .batch = batch,
                         .k = k,
                         .n = n,
                         .tile_depth = method == Method::int4 ? depth_of_int4(some(k))
                                       : group != 0
                                           ? group
                                           : depth_of_tiles(some(k), some(n), method, kMaxDepth),
                         .tile_columns = columns_of_weights(some(batch), some(n), method)};
  check(grid);
  return grid;
}

Weights::Weights(const WeightsGrid& grid, std::span<const std::byte> bytes,
                 std::vector<WeightTileEntry> entries, std::shared_ptr<const void> owner,
                 Watch watch)
    : grid_(grid),
      bytes_(bytes),
      entries_(std::move(entries)),
      owner_(std::move(owner)),
      id_(next_id()),
      watch_(std::move(watch)) {
  check(grid_);
  if (std::uint64_t(grid_.tiles()) != entries_.size()) {
    refuse(std::to_string(entries_.size()) + " tiles, where there must be " +
           std::to_string(grid_.tiles()));
  }
  if (reinterpret_cast<std::uintptr_t>(bytes_.data()) % alignof(double) != 0)
    refuse("the bytes of weights must begin on a multiple of 8");
  std::uint64_t end = 0;
  for (const WeightTileEntry& entry : entries_) {
    if (entry.has_low && grid_.method != Method::float32)
      refuse("a tile with low parts, which this method doesn't have");
    if (entry.offset != end || entry.bytes != parts_of(grid_, entry.has_low).end)
      refuse("a tile that is not where and as large as it must be");
    has_low_ |= entry.has_low;
    end += entry.bytes;  // sizes of contexts at most, 2^32 of them: far from an overflow
  }
  if (end != bytes_.size()) {
    refuse("tiles of " + std::to_string(end) + " bytes in all, and " +
           std::to_string(bytes_.size()) + " to hold them");
  }
  if (watch_) verified_ = std::make_unique<std::atomic<std::uint64_t>[]>(entries_.size());
}

WeightTile Weights::tile(std::int64_t index) const {
  const WeightTileEntry& entry = entries_[std::size_t(index)];
  const std::span<const std::byte> bytes = bytes_.subspan(entry.offset, entry.bytes);
  if (watch_) {
    const std::uint64_t now = watch_();
    std::atomic<std::uint64_t>& verified = verified_[std::size_t(index)];
    if (verified.load(std::memory_order_relaxed) != now) {
      if (crc32(bytes) != entry.checksum) {
        throw Error(ErrorKind::file, "tile " + std::to_string(index) + " of " +
                                         std::to_string(entries_.size()) +
                                         " has another checksum than when it was saved: the file "
                                         "was altered");
      }
      verified.store(now, std::memory_order_relaxed);
    }
  }
  return tile_at(grid_, bytes.data(), entry);
}

void Weights::unpack(const MutableView& target) const {
  std::vector<float> values(std::size_t(grid_.tile_depth));
  for (std::int64_t index = 0; index < grid_.tiles(); ++index) {
    const WeightTile from = tile(index);
    const Place place = place_of(grid_, index);
    for (std::int64_t column = 0; column < place.columns; ++column) {
      auto* to =
          static_cast<std::byte*>(target.at(place.batch, place.depth, place.column + column));
      if (grid_.method != Method::integers) {
        read_column(grid_, from, column, place.depths, values.data());
        for (std::int64_t d = 0; d < place.depths; ++d)
          std::memcpy(to + d * target.row_stride, &values[std::size_t(d)], sizeof(float));
        continue;
      }
      const std::byte shift{std::uint8_t(grid_.dtype == DType::uint8 ? 0x80 : 0)};
      for (std::int64_t d = 0; d < place.depths; ++d) {
        const std::size_t at = layout::b_at(Element::int8, d, column, grid_.surface_depth());
        to[d * target.row_stride] = from.high[at] ^ shift;
      }
    }
  }
}

PackedWeights pack_weights(const View& source, const WeightsGrid& grid, const float* scales,
                           std::int64_t group) {
  check(grid);
  const bool integers = grid.dtype == DType::int8;
  const bool may = integers && (grid.method == Method::int8 || grid.method == Method::int4);
  const bool must = integers && grid.method == Method::int8;
  if (scales ? !may : must)
    refuse("int8 of the method int8 come with scales, of int4 they may, and nothing else does");
  if (group == 0) group = grid.tile_depth;
  PackedWeights result;
  const std::size_t largest = parts_of(grid, grid.method == Method::float32).end;
  const std::size_t tiles = std::size_t(grid.tiles());
  // For the case that every tile has low parts. What is never written to takes no memory.
  result.bytes.reserve(largest * tiles);
  result.entries.reserve(tiles);
  for (std::size_t index = 0; index < tiles; ++index) {
    const Place place = place_of(grid, std::int64_t(index));
    const Lanes lanes{.data = source.at(place.batch, place.depth, place.column),
                      .lane_stride = source.column_stride,
                      .depth_stride = source.row_stride,
                      .dtype = grid.dtype,
                      .lanes = place.columns,
                      .depth = place.depths};
    const float* tile_scales = nullptr;
    if (scales) {
      const std::int64_t row = place.batch * ceil_div(grid.k, group) + place.depth / group;
      tile_scales = scales + row * grid.n + place.column;
    }
    const std::size_t offset = result.bytes.size();
    result.bytes.resize(offset + largest);
    std::byte* const bytes = result.bytes.data() + offset;
    WeightTileEntry entry = pack_tile(lanes, grid, tile_scales, bytes);
    entry.offset = offset;
    entry.checksum = crc32({bytes, std::size_t(entry.bytes)});
    result.bytes.resize(offset + std::size_t(entry.bytes));
    result.entries.push_back(entry);
    if (result.exact) result.exact = restores(grid, tile_at(grid, bytes, entry), lanes);
  }
  return result;
}

}  // namespace npublas
