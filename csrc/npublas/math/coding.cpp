#include "npublas/math/coding.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "npublas/base/half.hpp"
#include "npublas/math/scaling.hpp"

namespace npublas {
namespace {

constexpr std::uint32_t kMagnitude = 0x7fffffffu;
constexpr std::uint32_t kInfinity = 0x7f800000u;
constexpr std::uint32_t kSmallestNormalHalf = 0x38800000u;  // 2^-14 as a float
// Float sums are taken in as many parts, so that they are vectorised without being reordered.
constexpr std::int64_t kSums = 16;

/// Signed comparisons are what SSE2 has, and magnitudes fit them.
std::uint32_t mask_if_at_least(std::uint32_t magnitude, std::uint32_t bound) {
  return mask_if(std::int32_t(magnitude) >= std::int32_t(bound));
}

}  // namespace

float round_up_sum(const float* parts) {
  float sum = 0;
  for (std::int64_t i = 0; i < kSums; ++i) sum += parts[i];
  return sum * (1 + 0x1p-10f);
}

std::uint32_t largest_magnitude(const float* values, std::int64_t width) {
  std::int32_t largest = 0;
  for (std::int64_t d = 0; d < width; ++d)
    largest = std::max(largest, std::int32_t(std::bit_cast<std::uint32_t>(values[d]) & kMagnitude));
  return std::uint32_t(largest);
}

int exponent_for(std::uint32_t magnitude, int target) {
  if (magnitude == 0 || magnitude >= kInfinity) return 0;
  // Of a subnormal number the leading bit, of which one less is zero than if it were the last
  // of 24.
  const int power = magnitude >= 1u << 23 ? int(magnitude >> 23) : 9 - std::countl_zero(magnitude);
  return target + 127 - power;
}

void scale_lane(float* values, std::int64_t width, float first, float second) {
  for (std::int64_t d = 0; d < width; ++d) values[d] = values[d] * first * second;
}

std::int64_t count_vanishing(const std::byte* from, std::int64_t stride, std::int64_t size,
                             int exponent) {
  if (exponent >= 0) return 0;  // what was subnormal stays exact, and gets larger
  const auto limit = std::bit_cast<std::int32_t>(std::ldexp(1.0f, -126 - exponent));
  std::uint32_t count = 0;
  for (std::int64_t d = 0; d < size; ++d) {
    std::uint32_t bits;
    std::memcpy(&bits, from + d * stride, sizeof bits);
    const auto magnitude = std::int32_t(bits & kMagnitude);
    count -= mask_if(magnitude != 0) & mask_if(magnitude < limit);
  }
  return count;
}

void add_vanishing(std::int64_t vanishing, LaneLoss& loss) {
  if (vanishing == 0) return;
  loss.largest = std::max(loss.largest, 0x1p-126f);
  const float total = loss.total + float(vanishing) * 0x1p-126f;
  loss.total = std::nextafter(total, std::numeric_limits<float>::infinity());  // rounded up
}

int exponent_for(const HalfRange& range) {
  return exponent_for(std::bit_cast<std::uint32_t>(half_to_float(range.largest)), kTargetOfHalf);
}

bool has_subnormal(const HalfRange& range, int exponent) {
  if (range.largest == 0) return false;
  const float smallest = half_to_float(std::uint16_t(range.smallest_less_one + 1));
  return smallest * power_of_two(exponent) < 0x1p-14f;
}

void halve_lane(const float* values, std::int64_t width, std::uint16_t* halves) {
  for (std::int64_t d = 0; d < width; ++d) halves[d] = float_to_half(values[d]);
}

namespace {

/// A float rounded to 11 significant bits, ties to even, or 0 if it is below 2^-14 then.
std::uint32_t normal_half(std::uint32_t bits) {
  const std::uint32_t rounded = (bits + 0x0fffu + ((bits >> 13) & 1u)) & 0xffffe000u;
  return rounded & mask_if_at_least(rounded & kMagnitude, kSmallestNormalHalf);
}

/// The float16 of such a float.
std::uint16_t exact_half(std::uint32_t bits) {
  const std::uint32_t magnitude = bits & kMagnitude;
  return std::uint16_t(((bits >> 16) & 0x8000u) |
                       (((magnitude - 0x38000000u) >> 13) & mask_if(magnitude != 0)));
}

}  // namespace

void split_lane(const float* values, std::int64_t width, std::uint16_t* high, std::uint16_t* low,
                float* losses, SplitNote& note) {
  std::uint32_t any_low = 0;
  for (std::int64_t d = 0; d < width; ++d) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(values[d]);
    const std::uint32_t kept = normal_half(bits);
    high[d] = exact_half(kept);
    const float rest = values[d] - std::bit_cast<float>(kept);
    const std::uint32_t kept_low = normal_half(std::bit_cast<std::uint32_t>(rest * 0x1p12f));
    low[d] = exact_half(kept_low);
    any_low |= kept_low & kMagnitude;
    // All that is left, if the low part is zero; 2^-10 of the element, if its high part is.
    const std::uint32_t no_low = mask_if((kept_low & kMagnitude) == 0);
    const std::uint32_t no_high = mask_if((kept & kMagnitude) == 0);
    const std::uint32_t tenth = std::bit_cast<std::uint32_t>(values[d] * 0x1p-10f);
    losses[d] = std::bit_cast<float>(
        ((std::bit_cast<std::uint32_t>(rest) & no_low) | (tenth & no_high & ~no_low)) & kMagnitude);
  }
  std::uint32_t large = 0;
  for (std::int64_t d = 0; d < width; ++d)
    large -= mask_if_at_least(std::bit_cast<std::uint32_t>(values[d]) & kMagnitude,
                              std::bit_cast<std::uint32_t>(kLarge));
  std::fill_n(note.sizes, kSums, 0.0f);
  std::fill_n(note.totals, kSums, 0.0f);
  for (std::int64_t d = 0; d < width; d += kSums)
    for (std::int64_t i = 0; i < kSums; ++i) note.sizes[i] += std::fabs(values[d + i]);
  for (std::int64_t d = 0; d < width; d += kSums)
    for (std::int64_t i = 0; i < kSums; ++i) note.totals[i] += losses[d + i];
  note.largest = std::bit_cast<float>(largest_magnitude(losses, width));
  note.large = std::int32_t(large);
  note.any_low = any_low != 0;
}

float scale_for(std::uint32_t largest, int limit) {
  if (largest == 0 || largest >= kInfinity) return 1;
  return std::max(std::bit_cast<float>(largest) / float(limit),
                  std::numeric_limits<float>::denorm_min());
}

void quantize_lane(const float* values, std::int64_t width, float scale, int limit,
                   std::int8_t* quantized) {
  // Beyond 2^22 a float has no fraction; adding 1.5·2^23 lets its own rounding do the work, and
  // leaves the integer in the last bits.
  constexpr float kRounder = 0x1.8p23f;
  const float top = float(limit);
  for (std::int64_t d = 0; d < width; ++d) {
    float quotient = values[d] / scale;
    quotient = quotient < top ? quotient : top;
    quotient = quotient > -top ? quotient : -top;
    quantized[d] = std::int8_t(std::bit_cast<std::uint32_t>(quotient + kRounder));
  }
}

}  // namespace npublas
