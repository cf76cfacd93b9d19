// # Layouts
// Where each element lies, for RK3588. All of it follows from one number per matrix: how many
// elements fill 16 bytes of A (x) or of C (w), and how many columns a tile of B has (y).
//
//   A  normal [M, K]      native [K/x, M, x]
//   B  normal [K, N]      transposed [N, K]      native [N/y, K/32, y, 32]
//   C  normal [M, N]      native [N/w, M, w]
//
// So A and C are 16-byte chunks in every layout, and only the strides between the chunks differ;
// and a column of native B is runs of 32 depths, contiguous.
#pragma once

#include <cstddef>
#include <cstdint>

#include "npublas/device/abi.hpp"

namespace npublas::simulator {

constexpr int kChunk = 16;      // bytes
constexpr int kDepthStep = 32;  // K of every type is a multiple; also the depth of a tile of B

/// What a matmul type means for the bytes.
struct Format {
  std::int32_t type;  // abi::MatmulType
  int bits;           // of an element of A and B
  int y;              // columns of a tile of B; N is a multiple of it
  std::int32_t ab;    // abi::TensorType
  std::int32_t c;     // abi::TensorType
  int c_bytes;

  int x() const { return kChunk * 8 / bits; }
  int w() const { return kChunk / c_bytes; }
  std::uint64_t ab_bytes(std::uint64_t elements) const { return elements * bits / 8; }
};
/// Null if RK3588 has no such type.
const Format* find_format(std::int32_t type);

/// Byte strides of a matrix in chunks.
struct Chunks {
  std::uint64_t row;
  std::uint64_t next;  // from a chunk to the next along the row

  static Chunks normal(std::uint64_t row_bytes) { return {row_bytes, kChunk}; }
  static Chunks native(std::uint64_t rows) { return {kChunk, rows * kChunk}; }
};

/// Native B. `segment` is the reading of 2.x in which B is cut at multiples of that depth, each
/// piece is laid out by itself, and the pieces follow each other; 0 is one piece, as seen in 1.6.0.
struct NativeB {
  int y, k, n, segment;

  std::uint64_t at(std::uint64_t depth, std::uint64_t column) const {  // in elements
    const std::uint64_t start = segment ? depth / segment * segment : 0;
    const std::uint64_t length =
        segment ? (k - start < std::uint64_t(segment) ? k - start : segment) : k;
    const std::uint64_t tile = column / y * (length / kDepthStep) + (depth - start) / kDepthStep;
    return start * n + (tile * y + column % y) * kDepthStep + (depth - start) % kDepthStep;
  }
};

/// The rows of A and C in the NPU's program. For native ones these are surfaces of a multiple of
/// four rows (the setting `native_row_step`), whatever io_attr says, except for a single row.
int program_rows(int m, bool native_ac);

/// What create reports for a shape: exact sizes, without any padding.
void describe(const Format& format, const abi::MatmulShape& shape, int b_layout, bool native_ac,
              abi::IoAttr& io);

/// An int4 of a packed array: element 2i is in the low nibble, or (before 2.0) in the high one.
inline std::int8_t get_int4(const std::byte* bytes, std::uint64_t index, bool high_first) {
  const int byte = int(bytes[index / 2]);
  const int nibble = ((index % 2 != 0) != high_first) ? byte >> 4 : byte & 15;
  return std::int8_t((nibble ^ 8) - 8);
}
inline void set_int4(std::byte* bytes, std::uint64_t index, int value, bool high_first) {
  std::byte& byte = bytes[index / 2];
  byte = ((index % 2 != 0) != high_first) ? (byte & std::byte{0x0f}) | std::byte((value & 15) << 4)
                                          : (byte & std::byte{0xf0}) | std::byte(value & 15);
}

enum class SourceB { normal, transposed, unpacked_int4 };

/// Converts B into native layout; what is missing up to a whole tile is filled with zeros. `native`
/// is of the rounded shape.
void to_native_b(const Format& format, SourceB source, int k, int n, const std::byte* in,
                 const NativeB& native, bool high_first, std::byte* out);

}  // namespace npublas::simulator
