#include "npublas/math/cost.hpp"

#include <algorithm>

#include "npublas/base/integers.hpp"
#include "npublas/math/work.hpp"

namespace npublas {
namespace {

/// Of the shorter of what goes on side by side, so much isn't hidden: neither waits evenly.
constexpr double kCoupling = 0.05;

/// Steps of the core that gets most of them, the blocks being taken in turn: those of full row
/// blocks first, then the lower ones.
std::int64_t steps_of_busiest(const Plan& p) {
  const std::int64_t depth_tiles = p.depth_tiles(), panels = p.panels();
  const std::int64_t full = p.shape.m / p.block_rows * panels * p.shape.batch;
  const std::int64_t rest = p.shape.m % p.block_rows;
  const std::int64_t steps = ceil_div(p.block_rows, p.tile_rows) * depth_tiles;
  const std::int64_t cores = p.cores;
  const std::int64_t base = full / cores * steps, with_more = full % cores;
  if (rest == 0) return base + (with_more ? steps : 0);
  const std::int64_t lower = panels * p.shape.batch;  // blocks
  const std::int64_t few = ceil_div(rest, p.tile_rows) * depth_tiles;
  // The cores with a block less take lower ones until they have as much.
  const std::int64_t gap = with_more ? (cores - with_more) * (steps / few) : 0;
  if (lower <= gap) return base + steps;
  return base + (with_more ? steps : 0) + ceil_div(lower - gap, cores) * few;
}

}  // namespace

Estimate estimate(const Plan& p, bool b_is_packed, const SourceBytes& bytes, const Rates& rates) {
  return estimate(p, work_of_step(p, bytes, rates), b_is_packed, rates);
}

Estimate estimate(const Plan& p, const StepWork& step, bool b_is_packed, const Rates& rates) {
  const double batch = double(p.shape.batch), cores = double(p.cores);
  const double row_tiles = double(p.row_tiles()), depth_tiles = double(p.depth_tiles());
  const double panels = double(p.panels());
  const double row_blocks = double(ceil_div(p.shape.m, p.block_rows));
  const double steps = batch * row_tiles * depth_tiles * panels;

  // How often each tile is packed.
  const double a_of_block =
      double(ceil_div(std::min(p.block_rows, p.shape.m), p.tile_rows)) * depth_tiles;
  const double a_times = double(p.a_slots) >= a_of_block ? 1 : std::max(1.0, panels / cores);
  double b_times = 0;
  if (!b_is_packed) {
    if (double(p.b_slots) >= panels * depth_tiles)
      b_times = 1;
    else
      b_times = double(p.b_slots) >= cores * depth_tiles ? row_blocks : row_tiles;
  }
  const double a_tiles = batch * row_tiles * depth_tiles * a_times;
  const double b_tiles = batch * panels * depth_tiles * b_times;

  // Rows and columns that only fill a tile up are neither read nor written by the host.
  const double a_share = double(p.shape.m) / (row_tiles * double(p.tile_rows)) * double(p.shape.k) /
                         (depth_tiles * double(p.tile_depth));
  const double b_share = double(p.shape.n) / (panels * double(p.tile_columns)) * double(p.shape.k) /
                         (depth_tiles * double(p.tile_depth));
  const double c_share = double(p.shape.m) / (row_tiles * double(p.tile_rows)) * double(p.shape.n) /
                         (panels * double(p.tile_columns));
  Estimate e;
  e.packed_bytes = a_tiles * step.a_bytes * a_share + b_tiles * step.b_bytes * b_share;
  const double unpacked = step.sum_bytes + step.out_bytes / depth_tiles;  // of a step
  e.unpacked_bytes = steps * unpacked * c_share;
  e.streamed_bytes = steps * step.streamed_bytes;

  const double threads = std::max(rates.threads, 1);
  const double all =
      std::min(rates.pack_bytes_per_second * threads, rates.pack_bytes_per_second_all);
  // (Sums are fetched by the threads of the cores.)
  const double syncs = a_tiles * step.a_sync_seconds + b_tiles * step.b_sync_seconds;
  // A stream's sums are unpacked in their order, by one thread at a time, which waits now and then.
  const double unpacking = std::min(rates.pack_bytes_per_second * std::max(0.7 * cores, 1.0), all);
  const double moving = e.packed_bytes / all + e.unpacked_bytes / unpacking;
  const double working = (e.packed_bytes + e.unpacked_bytes) / rates.pack_bytes_per_second + syncs;
  e.host = std::max(moving, working / threads);

  // The first tiles: the cores begin with panels of the same rows, if there are so many.
  const double first_b = b_is_packed ? 0 : std::min(cores, panels);
  const double first_a = std::max(1.0, std::min(row_blocks, cores / panels));
  const double first_tiles = first_a * step.a_bytes * a_share + first_b * step.b_bytes * b_share;
  const double longest = std::max(step.a_bytes, b_is_packed ? 0 : step.b_bytes);
  const double handoff = rates.handoff_seconds;
  const double submission = handoff + rates.submit_seconds + 3 * rates.bind_seconds;
  // The caller begins alone, the other threads when they are awake.
  const double alone = first_tiles / rates.pack_bytes_per_second;
  const double begin = first_a + first_b > 1 ? handoff * (threads - 1) / threads : 0;
  // Meanwhile the others pack what is needed later, and all get the same of the host's rate.
  const double rate_of_one =
      std::min(rates.pack_bytes_per_second, all / std::min(threads, a_tiles + b_tiles));
  e.fill = std::max(std::min(first_tiles / all + begin, alone), longest / rate_of_one) +
           step.a_sync_seconds + submission;
  // Where a step's sums lie can be written again when they were unpacked.
  const double of_one = unpacked * c_share / rates.pack_bytes_per_second + step.sum_sync_seconds;
  const double sums_free = (submission + step.device_seconds + handoff + of_one) / kSumSlots;
  const double busiest = double(steps_of_busiest(p));
  e.device = busiest * std::max(step.device_seconds, busiest > kSumSlots ? sums_free : 0);
  e.drain = handoff + std::max(cores * unpacked * c_share / all, of_one);

  const double to_pack = e.packed_bytes / all;
  e.wait = std::max(0.0, e.fill + step.device_seconds - to_pack) + e.drain / 2;
  // While the host moves bytes, the NPU gets what is left of the memory's rate, and never less than
  // half of it.
  const double dram = rates.dram_bytes_per_second;
  const double host_bytes = e.packed_bytes + e.unpacked_bytes;
  const double wanted = e.streamed_bytes / e.device;
  const double left = std::max(dram - host_bytes / e.host, dram / 2);
  const double together = std::max(e.host - (e.fill - submission), 0.0);
  if (wanted > left) e.traffic = std::min(together, e.device * wanted / left) * (1 - left / wanted);
  e.seconds = std::max({e.fill + e.device + e.traffic + e.drain, e.host + e.wait,
                        (host_bytes + e.streamed_bytes) / dram});
  if (!b_is_packed && b_times <= 1) {
    // All of B is packed while the first row block runs, and then nothing of it. When the B of the
    // last panels is there, what the device has left of them is all but the first row of tiles.
    const double device = e.device + e.traffic, first_share = 1 / row_blocks;
    const double of_b = e.host * b_tiles * step.b_bytes * b_share / host_bytes;
    const double waves = std::max(panels / cores, 1.0);  // of panels: the last one's B comes last
    const double last_wave = first_share / waves;
    const double before = of_b + (e.host - of_b) * (first_share - last_wave);
    const double runs_left = device * last_wave * (1 - (depth_tiles - 1) / a_of_block);
    const double last = std::max(runs_left + e.drain, (e.host - of_b) * last_wave + e.drain / 2);
    const double others = std::max(device, e.host - of_b) * (1 - first_share);
    e.seconds = std::max(e.seconds, submission + before + last + others);
  }
  e.seconds += rates.call_seconds + kCoupling * std::min(e.device + e.traffic, e.host);
  return e;
}

Compulsory compulsory_bytes(const Plan& p, bool b_is_packed, const SourceBytes& bytes) {
  const double batch = double(p.shape.batch), m = double(p.shape.m);
  const double k = double(p.shape.k), n = double(p.shape.n);
  const double element = double(bytes_of(p.element, 2)) / 2;
  const bool split = p.method == Method::float32;
  const double parts = split ? 2 : p.parts;
  const double b_parts = split ? 2 : 1;
  const double a_streamed = split ? 1 + p.low.a : p.parts;
  const double b_streamed = split ? 1 + p.low.b : 1;
  const double sums = double(bytes_of_sum(p.element)) * (split ? 1 + p.low.a + p.low.b : p.parts);
  Compulsory least;
  least.host_bytes = batch * (m * k * (bytes.a + element * parts) + m * n * (sums + bytes.out));
  if (!b_is_packed) least.host_bytes += batch * k * n * (bytes.b + element * b_parts);
  least.streamed_bytes =
      batch * (m * k * element * a_streamed + k * n * element * b_streamed + m * n * sums);
  return least;
}

int source_bytes(DType dtype) {
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

double cpu_seconds(const Shape& shape, DType in, DType out, const Rates& rates) {
  const double batch = double(shape.batch), m = double(shape.m);
  const double k = double(shape.k), n = double(shape.n);
  const double bytes = batch * (source_bytes(in) * (m * k + k * n) + source_bytes(out) * m * n);
  return std::max(shape.flops() / rates.cpu_flops, bytes / rates.cpu_bytes_per_second);
}

Prediction predict(const Plan& plan, DType in, DType out, bool b_is_packed, const Rates& rates) {
  return {.cpu_seconds = cpu_seconds(plan.shape, in, out, rates),
          .npu_seconds = estimate(plan, b_is_packed, source_bytes(in, in, out), rates).seconds};
}

}  // namespace npublas
