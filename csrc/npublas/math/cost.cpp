#include "npublas/math/cost.hpp"

#include <algorithm>
#include <cmath>

#include "npublas/base/integers.hpp"

namespace npublas {
namespace {

// Published single-core peaks at 1 GHz, and the best share of them that anybody has shown.
constexpr double kMacsPerSecond[kElements] = {1.024e12, 0.512e12, 2.048e12};  // int8, float16, int4
constexpr double kEfficiency = 0.88;
constexpr double kOnChipBytes = 320.0 * 1024;
// The pessimistic column of the model: a first, untuned implementation on a default board.
constexpr double kSlack = 3.5;
constexpr double kPerRun = 100e-6;
constexpr double kPerCall = 150e-6;
constexpr double kNpuBytesPerSecond = 15e9;
// Scalar packers of others reach 0.5 to 0.9 GB/s on one A76; each core's worker is a thread.
constexpr double kPackBytesPerSecond = 0.5e9;
// Four A76 with OpenBLAS: 61 GFLOP/s of float64 HPL, twice that in float32; STREAM copy 20 GB/s.
constexpr double kCpuFlops = 120e9;
constexpr double kCpuBytesPerSecond = 20e9;

double source_bytes(DType dtype) {
  switch (dtype) {
    case DType::int8:
    case DType::uint8:
      return 1;
    case DType::float16:
    case DType::bfloat16:
      return 2;
    case DType::float64:
      return 8;
    default:
      return 4;
  }
}

}  // namespace

Prediction predict(const Plan& plan, DType in, DType out, bool b_is_packed) {
  const double batch = double(plan.shape.batch), m = double(plan.shape.m);
  const double k = double(plan.shape.k), n = double(plan.shape.n);
  // The float32 method runs once over K and once over 2K, on surfaces of two parts.
  const bool split = plan.method == Method::float32;
  const bool nibbles = plan.element == Element::int4;
  const double parts = plan.parts;
  const double element = double(bytes_of(plan.element, 2)) / 2 * (split ? 1.5 : 1);
  const double sum = double(bytes_of_sum(plan.element));
  const double tiles = double(plan.depth_tiles()), runs = double(plan.runs());

  const double rows = double(plan.surface_rows()), columns = double(plan.tile_columns);
  const double depth = double(plan.surface_depth());
  const double resident = std::max(1.0, std::floor(kOnChipBytes / (depth * element)));
  const double streamed = std::min(depth * columns * std::ceil(rows / resident) + rows * depth,
                                   rows * depth * std::ceil(columns / resident) + depth * columns);
  const double npu_bytes = runs * (streamed * element + sum * rows * columns);
  const double macs = runs * (split ? 1.5 : 1) * rows * depth * columns;
  const double device =
      std::ceil(runs / plan.cores) * kPerRun +
      kSlack * std::max(macs / (plan.cores * kMacsPerSecond[int(plan.element)] * kEfficiency),
                        npu_bytes / kNpuBytesPerSecond);

  const double source = source_bytes(in);
  const double times_a = double(ceil_div(plan.shape.n, plan.block_columns));
  const double times_b = b_is_packed ? 0 : double(ceil_div(plan.shape.m, plan.block_rows));
  // Parts are made from bytes, and their sums become int32, each in a pass of its own.
  const double packed = nibbles ? 1 + parts * element : (split ? 2 : 1) * element;
  const double unpacked = nibbles ? parts * sum + 8 : 4 * (split ? 3 : 2);
  const double host_bytes =
      batch * ((source + packed) * (m * k * times_a + k * n * times_b) + unpacked * m * n * tiles);
  const double host = host_bytes / (kPackBytesPerSecond * plan.cores);

  const double cpu_bytes = batch * (source * (m * k + k * n) + source_bytes(out) * m * n);
  return {.cpu_seconds = std::max(plan.shape.flops() / kCpuFlops, cpu_bytes / kCpuBytesPerSecond),
          .npu_seconds = kPerCall + device + host};
}

}  // namespace npublas
