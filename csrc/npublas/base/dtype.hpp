// # Element types
// NumPy's element types as npublas sees them: a few that the NPU can take, and names for the rest.
#pragma once

#include <cstddef>
#include <cstdint>

namespace npublas {

enum class DType : std::uint8_t {
  boolean,
  int8,
  uint8,
  int16,
  uint16,
  int32,
  uint32,
  int64,
  uint64,
  float16,
  bfloat16,
  float32,
  float64,
  longdouble,
  complex64,
  complex128,
  clongdouble,
  object,
  other
};
inline constexpr int kDTypes = int(DType::other) + 1;

constexpr bool is_float(DType dtype) {
  return dtype == DType::float16 || dtype == DType::bfloat16 || dtype == DType::float32 ||
         dtype == DType::float64;
}

constexpr const char* name_of(DType dtype) {
  constexpr const char* names[kDTypes] = {
      "bool",      "int8",       "uint8",       "int16",    "uint16",  "int32",   "uint32",
      "int64",     "uint64",     "float16",     "bfloat16", "float32", "float64", "longdouble",
      "complex64", "complex128", "clongdouble", "object",   "other"};
  return names[int(dtype)];
}

/// Of one element; 0 of what has no size of its own.
constexpr std::uint64_t bytes_of(DType dtype) {
  constexpr std::uint8_t sizes[kDTypes] = {
      1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8, sizeof(long double), 8, 16, 2 * sizeof(long double),
      0, 0};
  return sizes[int(dtype)];
}

}  // namespace npublas
