#include "npublas/math/packed_surface.hpp"

namespace npublas {
namespace {

constexpr std::int64_t kLine = 64;

bool is_line(const std::byte* to, std::int64_t stride) {
  return reinterpret_cast<std::uintptr_t>(to) % kLine == 0 && stride % kLine == 0;
}

}  // namespace

Put PackedSurface::put_of(std::int64_t first, std::int64_t count, std::int64_t width,
                          std::uint8_t turned, std::byte* to) const {
  Put put{};
  put.count = count;
  put.to = to + at(first, 0);
  put.turned = turned;
  if (layout == Layout::normal) {
    put.piece = put.piece_stride = 32;
    put.lane_stride = bytes(depth);
    put.stream = is_line(put.to, put.lane_stride);
  } else {
    put.piece = put.lane_stride = is_a ? 16 : bytes(layout::kBDepth);
    put.piece_stride = is_a ? 16 * lanes : layout::b_columns(element) * put.piece;
    put.stream = is_line(put.to, put.piece_stride);
  }
  put.stream &= streams;
  put.pieces = bytes(width) / put.piece;
  return put;
}

void PackedSurface::put(const Packers& packers, const Group& group, std::int64_t first,
                        std::int64_t count, std::int64_t d, std::int64_t width, std::uint8_t turned,
                        std::byte* to) const {
  if (width == 0 || count == 0) return;
  std::byte* const out = to + at(first, d);
  if (layout == Layout::normal) {
    const std::int64_t lines = bytes(width) / kLine, rest = bytes(width) % kLine / 32;
    for (std::int64_t i = 0; i < count; ++i) {
      std::byte* const row = out + i * bytes(depth);
      const std::byte* const from = group[std::size_t(i)];
      packers.scatter_64(&from, 1, lines, row, kLine, turned, streams && is_line(row, kLine));
      const std::byte* const last = from + lines * kLine;
      packers.scatter_32(&last, 1, rest, row + lines * kLine, kLine, turned, false);
    }
    return;
  }
  const std::int64_t piece = is_a ? 16 : bytes(layout::kBDepth);
  const std::int64_t stride = is_a ? 16 * lanes : layout::b_columns(element) * piece;
  const auto scatter = piece == 16   ? packers.scatter_16
                       : piece == 32 ? packers.scatter_32
                                     : packers.scatter_64;
  scatter(group.data(), count, bytes(width) / piece, out, stride, turned,
          streams && is_line(out, stride));
}

}  // namespace npublas
