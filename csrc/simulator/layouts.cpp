#include "layouts.hpp"

#include <array>
#include <cstring>
#include <initializer_list>

#include "settings.hpp"

namespace npublas::simulator {
namespace {

constexpr std::array<Format, 6> kFormats = {{
    {abi::kFloat16Float16ToFloat32, 16, 16, abi::kTensorFloat16, abi::kTensorFloat32, 4},
    {abi::kInt8Int8ToInt32, 8, 32, abi::kTensorInt8, abi::kTensorInt32, 4},
    {abi::kInt8Int8ToInt8, 8, 32, abi::kTensorInt8, abi::kTensorInt8, 1},
    {abi::kFloat16Float16ToFloat16, 16, 16, abi::kTensorFloat16, abi::kTensorFloat16, 2},
    {abi::kInt8Int8ToFloat32, 8, 32, abi::kTensorInt8, abi::kTensorFloat32, 4},
    {abi::kInt4Int4ToInt16, 4, 64, abi::kTensorInt4, abi::kTensorInt16, 2},
}};

void fill(abi::TensorAttr& attr, const char* name, std::int32_t type, std::uint64_t bytes,
          std::initializer_list<int> dims) {
  attr = {};
  std::strcpy(attr.name, name);
  for (const int dim : dims) attr.dims[attr.n_dims++] = std::uint32_t(dim);
  attr.size = std::uint32_t(bytes);
  attr.type = type;
}

}  // namespace

const Format* find_format(std::int32_t type) {
  for (const Format& format : kFormats) {
    if (format.type == type) return &format;
  }
  return nullptr;
}

int program_rows(int m, bool native_ac) {
  const int step = native_ac && m > 1 ? int(get(Setting::native_row_step)) : 1;
  return (m + step - 1) / step * step;
}

void describe(const Format& format, const abi::MatmulShape& shape, int b_layout, bool native_ac,
              abi::IoAttr& io) {
  const auto [m, k, n] = shape;
  const std::uint64_t a_bytes = format.ab_bytes(std::uint64_t(m) * k);
  const std::uint64_t b_bytes = format.ab_bytes(std::uint64_t(k) * n);
  const std::uint64_t c_bytes = std::uint64_t(m) * n * format.c_bytes;
  if (native_ac) {
    fill(io.a, "A", format.ab, a_bytes, {k / format.x(), m, format.x()});
    fill(io.c, "C", format.c, c_bytes, {n / format.w(), m, format.w()});
  } else {
    fill(io.a, "A", format.ab, a_bytes, {m, k});
    fill(io.c, "C", format.c, c_bytes, {m, n});
  }
  switch (b_layout) {
    case abi::kNormal:
      fill(io.b, "B", format.ab, b_bytes, {k, n});
      break;
    case abi::kTransposedNormal:
      fill(io.b, "B", format.ab, b_bytes, {n, k});
      break;
    default:
      fill(io.b, "B", format.ab, b_bytes, {n / format.y, k / kDepthStep, format.y, kDepthStep});
  }
}

void to_native_b(const Format& format, SourceB source, int k, int n, const std::byte* in,
                 const NativeB& native, bool high_first, std::byte* out) {
  for (int column = 0; column < native.n; ++column) {
    for (int depth = 0; depth < native.k; ++depth) {
      const std::uint64_t to = native.at(std::uint64_t(depth), std::uint64_t(column));
      const bool inside = depth < k && column < n;
      const std::uint64_t from = source == SourceB::transposed ? std::uint64_t(column) * k + depth
                                                               : std::uint64_t(depth) * n + column;
      if (format.bits == 4) {
        int value = 0;
        if (inside && source == SourceB::unpacked_int4) value = int(in[from]);
        if (inside && source != SourceB::unpacked_int4) value = get_int4(in, from, high_first);
        set_int4(out, to, value, high_first);
      } else {
        const std::uint64_t bytes = std::uint64_t(format.bits) / 8;
        if (inside) {
          std::memcpy(out + to * bytes, in + from * bytes, bytes);
        } else {
          std::memset(out + to * bytes, 0, bytes);
        }
      }
    }
  }
}

}  // namespace npublas::simulator
