#include "npublas/engine/product.hpp"

namespace npublas {

std::string text_of(Reason reason, DType in) {
  const std::string operands = std::string("operands are ") + name_of(in) + ": ";
  switch (reason) {
    case Reason::npu:
      return "ran on the NPU";
    case Reason::device_cpu:
      return "device=\"cpu\" was asked for";
    case Reason::empty:
      return "there is nothing to multiply: a dimension is 0";
    case Reason::small:
      return "predicted to be faster on the CPU";
    case Reason::dtype:
      return operands + "the NPU multiplies int8, uint8, float16, bfloat16 and float32";
    case Reason::float64:
      return operands + "use astype(float32) or float64=\"float32\"";
    case Reason::no_npu:
      return "there is no NPU that can be used; npublas.is_available() and `npublas info` say why";
    case Reason::type_off:
      return operands + "this runtime failed its self-test for them; `npublas info` says how";
    case Reason::quarantined:
      return "the NPU failed repeatedly and is left alone for a while; `npublas info` says how";
    case Reason::busy:
      return "another process held the NPU for too long";
    case Reason::not_finite:
      return "operands contain NaN or infinity";
    case Reason::subnormal:
      return operands +
             "some are so small beside others of their row or column that this NPU "
             "would take them for zero";
    case Reason::precision_loss:
      return operands +
             "magnitudes within rows or columns lie so far apart that the NPU can't give the "
             "accuracy of float32; precision=\"float16\" would take them";
    case Reason::overflow:
      return "a sum left the range of float32";
    case Reason::window:
      return "not even one tile fits the memory window: raise memory_limit";
    case Reason::memory:
      return "the NPU has no memory left";
    case Reason::device_failed:
      return "the NPU failed twice in a row";
    case Reason::weights_file:
      return "the file of packed weights was altered, or can't be read";
    case Reason::wrong_result:
      return "the NPU's answer failed its check";
  }
  return "";
}

}  // namespace npublas
