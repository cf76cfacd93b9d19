// # Methods
// The ways in which the NPU, which multiplies int8 and float16, computes a product of other types.
#pragma once

#include <cstdint>
#include <optional>

#include "npublas/base/dtype.hpp"
#include "npublas/math/layout.hpp"

namespace npublas {

/// What the caller allows for floats.
enum class Precision : std::uint8_t { float32, float16, int8 };

enum class Method : std::uint8_t {
  integers,  ///< int8 and uint8, exact in int32
  float16,   ///< floats, rounded to float16: one product
  float32,   ///< floats in two float16 parts each: up to three products
  int8,      ///< floats, quantised to int8 with a scale for each lane and K tile
};
inline constexpr int kMethods = 4;

constexpr const char* name_of(Method method) {
  constexpr const char* names[kMethods] = {"integers", "float16", "float32", "int8"};
  return names[int(method)];
}

constexpr Element element_of(Method method) {
  return method == Method::integers || method == Method::int8 ? Element::int8 : Element::float16;
}

/// How a product of these operands is computed; nothing if the NPU has no way.
std::optional<Method> method_of(DType a, DType b, Precision precision);

}  // namespace npublas
