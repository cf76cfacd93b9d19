// What every machine can do, and the specification of the others: one element after the other, and
// coding.hpp.
#include <algorithm>
#include <cstring>
#include <vector>

#include "npublas/base/cpu_features.hpp"
#include "npublas/base/half.hpp"
#include "npublas/base/integers.hpp"
#include "npublas/math/coding.hpp"
#include "npublas/math/layout.hpp"
#include "npublas/math/packers.hpp"

namespace npublas {
namespace {

template <typename T>
T read(const void* from, std::int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(from) + index * std::int64_t(sizeof(T)),
              sizeof value);
  return value;
}

float as_float(double x) { return float(x); }

template <typename From, float (*convert)(From)>
void widen(const void* from, std::int64_t size, float* to, const void*) {
  for (std::int64_t d = 0; d < size; ++d) to[d] = convert(read<From>(from, d));
}

/// The lane with zeros behind it up to a step, to be changed.
std::vector<float>& copy_of(const void* from, std::int64_t size) {
  thread_local std::vector<float> values;
  values.resize(std::size_t(round_up(size, kDepthStep)));
  std::memcpy(values.data(), from, std::size_t(size) * sizeof(float));
  std::fill(values.begin() + size, values.end(), 0.0f);
  return values;
}

std::uint32_t largest_float(const void* from, std::int64_t size) {
  const std::vector<float>& values = copy_of(from, size);
  return largest_magnitude(values.data(), size);
}

HalfRange range_of_halves(const void* from, std::int64_t size, const void*) {
  HalfRange range{0, 0xffff};
  for (std::int64_t d = 0; d < size; ++d) {
    const std::uint16_t magnitude = read<std::uint16_t>(from, d) & 0x7fffu;
    range.largest = std::max(range.largest, magnitude);
    range.smallest_less_one = std::min(range.smallest_less_one, std::uint16_t(magnitude - 1));
  }
  return range;
}

ByteNote note_bytes(const void* source, std::int64_t size, std::uint8_t turned, const void*) {
  const auto* const from = static_cast<const std::uint8_t*>(source);
  ByteNote note{0, 0};
  for (std::int64_t d = 0; d < size; ++d) {
    note.sum += std::int8_t(std::uint8_t(from[d] ^ turned));
    note.any |= from[d];
  }
  return note;
}

void halve(const void* from, std::int64_t size, float first, float second, std::uint16_t* to,
           const void*) {
  std::vector<float>& values = copy_of(from, size);
  const auto width = std::int64_t(values.size());
  scale_lane(values.data(), width, first, second);
  halve_lane(values.data(), width, to);
}

void scale_halves(const void* from, std::int64_t size, float power, std::uint16_t* to,
                  const void*) {
  for (std::int64_t d = 0; d < size; ++d)
    to[d] = float_to_half(half_to_float(read<std::uint16_t>(from, d)) * power);
  std::fill(to + size, to + round_up(size, kDepthStep), std::uint16_t(0));
}

void split(const void* from, std::int64_t size, float first, float second, std::uint16_t* high,
           std::uint16_t* low, SplitNote& note, const void*) {
  thread_local std::vector<float> losses;
  std::vector<float>& values = copy_of(from, size);
  const auto width = std::int64_t(values.size());
  losses.resize(values.size());
  scale_lane(values.data(), width, first, second);
  split_lane(values.data(), width, high, low, losses.data(), note);
}

std::uint8_t quantize(const void* from, std::int64_t size, float scale, int limit, std::int8_t* to,
                      const void*) {
  const std::vector<float>& values = copy_of(from, size);
  const auto width = std::int64_t(values.size());
  quantize_lane(values.data(), width, scale, limit, to);
  std::uint8_t any = 0;
  for (std::int64_t d = 0; d < width; ++d) any |= std::uint8_t(to[d]);
  return any;
}

template <std::int64_t kPiece>
void scatter(const std::byte* const* lanes, std::int64_t count, std::int64_t pieces, std::byte* to,
             std::int64_t stride, std::uint8_t turned, bool) {
  for (std::int64_t p = 0; p < pieces; ++p)
    for (std::int64_t lane = 0; lane < count; ++lane) {
      std::byte piece[kPiece];
      std::memcpy(piece, lanes[lane] + p * kPiece, kPiece);
      for (std::byte& byte : piece) byte ^= std::byte(turned);
      std::memcpy(to + p * stride + lane * kPiece, piece, kPiece);
    }
}

void no_fence() {}

}  // namespace

constinit const Packers kPortablePackers = {
    .widen_float16 = widen<std::uint16_t, half_to_float>,
    .widen_bfloat16 = widen<std::uint16_t, bfloat16_to_float>,
    .widen_float64 = widen<double, as_float>,
    .largest_float = largest_float,
    .range_of_halves = range_of_halves,
    .note_bytes = note_bytes,
    .halve = halve,
    .scale_halves = scale_halves,
    .split = split,
    .quantize = quantize,
    .scatter_16 = scatter<16>,
    .scatter_32 = scatter<32>,
    .scatter_64 = scatter<64>,
    .collect_float32 = nullptr,
    .collect_float16 = nullptr,
    .collect_bfloat16 = nullptr,
    .collect_float64 = nullptr,
    .collect_halves = nullptr,
    .collect_bytes = nullptr,
    .halve_rows = nullptr,
    .scale_rows = nullptr,
    .copy_rows_of_halves = nullptr,
    .split_rows = nullptr,
    .quantize_rows = nullptr,
    .copy_rows_of_bytes = nullptr,
    .fence = no_fence};

const Packers& packers_in_use() {
  switch (isa_in_use()) {
#if defined(__x86_64__)
    case Isa::avx512:
      return kAvx512Packers;
    case Isa::avx2:
      return kAvx2Packers;
#endif
#if defined(__aarch64__)
    case Isa::neon:
      return kNeonPackers;
#endif
    default:
      return kPortablePackers;
  }
}

}  // namespace npublas
