// # Methods
// The ways in which the NPU, which multiplies int8, float16 and int4, computes a product of other
// types.
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
  int4,      ///< floats or int8 by weights of int4, whose columns have scales; B is packed before
};
inline constexpr int kMethods = 5;

constexpr const char* name_of(Method method) {
  constexpr const char* names[kMethods] = {"integers", "float16", "float32", "int8", "int4"};
  return names[int(method)];
}

/// What the weights of a method are kept as; with int4 they may be multiplied as int8 (plan.hpp).
constexpr Element element_of(Method method) {
  if (method == Method::int4) return Element::int4;
  return method == Method::integers || method == Method::int8 ? Element::int8 : Element::float16;
}

/// True if floats are rounded to integers.
constexpr bool is_quantized(Method method) {
  return method == Method::int8 || method == Method::int4;
}

/// How a product of these operands is computed; nothing if the NPU has no way.
constexpr std::optional<Method> method_of(DType a, DType b, Precision precision) {
  const auto is_byte = [](DType dtype) { return dtype == DType::int8 || dtype == DType::uint8; };
  if (is_byte(a) && is_byte(b)) return Method::integers;
  if (a != b || !is_float(a)) return std::nullopt;
  if (precision == Precision::int8) return Method::int8;
  // float16 operands are multiplied as they are, which is as exact as two parts would be.
  if (a == DType::float16 || precision == Precision::float16) return Method::float16;
  return Method::float32;
}

}  // namespace npublas
