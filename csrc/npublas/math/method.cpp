#include "npublas/math/method.hpp"

namespace npublas {

std::optional<Method> method_of(DType a, DType b, Precision precision) {
  const auto is_byte = [](DType dtype) { return dtype == DType::int8 || dtype == DType::uint8; };
  if (is_byte(a) && is_byte(b)) return Method::integers;
  if (a != b || !is_float(a)) return std::nullopt;
  if (precision == Precision::int8) return Method::int8;
  // float16 operands are multiplied as they are, which is as exact as two parts would be.
  if (a == DType::float16 || precision == Precision::float16) return Method::float16;
  return Method::float32;
}

}  // namespace npublas
