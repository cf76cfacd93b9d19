#include "npublas/exec/operands.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "npublas/base/error.hpp"
#include "npublas/math/int4.hpp"
#include "npublas/math/pack.hpp"

namespace npublas::exec {
namespace {

using Part = WeightKey::Part;

Packing packing_of(const Job& job, DType dtype, bool is_a, std::int64_t k) {
  const Request& request = job.request;
  const float fixed = request.a_scales ? request.a_scales[k / job.plan.tile_depth] : 0;
  switch (job.plan.method) {
    case Method::integers:
      return {.coding = is_shifted(request.product, dtype) ? Coding::shifted : Coding::bytes};
    case Method::float16:
      return {.coding = Coding::half};
    case Method::float32:
      return {.coding = Coding::split};
    case Method::int8:
      if (is_a) return {.coding = Coding::quantized, .limit = request.a_limit, .scale = fixed};
      return {.coding = Coding::quantized};
    case Method::int4:  // of A, as B is packed already: the same however it is multiplied
      if (!is_float(dtype)) return {.coding = Coding::bytes};
      return {.coding = Coding::quantized,
              .limit = request.a_limit <= kInt4WeightMax ? request.a_limit
                                                         : std::min(request.a_limit, kTwoPartsMax),
              .scale = fixed};
  }
  return {.coding = Coding::bytes};
}

/// What can't be multiplied ends the job.
void look_at(Job& job, const Packed& packed) {
  if (!packed.finite)
    job.end(Ended::not_finite);
  else if (packed.subnormal && job.flushes_subnormals)
    job.end(Ended::subnormal);
}

/// Sums of int4 must fit int16, whatever wrote the file.
void certify(const Plan& plan, const WeightTile& tile) {
  if (plan.element != Element::int4 || plan.surface_depth() <= certified_depth(kInt4Max, kInt4Max))
    return;
  const int largest = largest_nibble(reinterpret_cast<const std::uint8_t*>(tile.high),
                                     plan.surface_depth(), plan.tile_columns);
  if (largest > kInt4WeightMax)
    throw Error(ErrorKind::file, "a tile of int4 weights has -8, which tiles of this depth can't");
}

/// The tile of the weights, in the window.
void find_b(Job& job, const Step& step, const Shop& shop) {
  const Plan& plan = job.plan;
  const Weights& weights = *job.request.weights;
  const WeightsGrid& grid = weights.grid();
  const std::int64_t index = grid.index(grid.batch == 1 ? 0 : step.batch, step.k / plan.tile_depth,
                                        step.column / plan.tile_columns);
  const WeightTile tile = weights.tile(index);
  if (tile.subnormal && job.flushes_subnormals) return job.end(Ended::subnormal);
  const std::size_t bytes =
      bytes_of(plan.element, std::size_t(plan.surface_depth()) * std::size_t(plan.tile_columns));
  const bool pin = job.request.pin && !weights.is_closed();
  const auto find = [&](Part part, auto fill) {
    return shop.window.weight({weights.id(), index, part}, bytes, pin, [&](device::Memory& memory) {
      const Timed timed(shop.work.pack_nanoseconds, trace::Act::pack_b, job, 2 * bytes);
      fill(memory.data());
      shop.syncs.to_device(job, memory);
      shop.work.packed_bytes += bytes;
    });
  };
  TileOfB& b = job.bench->b[std::size_t(step.b_slot)];
  b.memory.reset();  // the plan has room for so many tiles, and no more
  b.low.reset();
  if (grid.method == Method::int4 && plan.element == Element::int8) {
    b.memory.emplace(find(Part::unpacked, [&](std::byte* to) {
      bytes_of_b(reinterpret_cast<const std::uint8_t*>(tile.high), plan.surface_depth(),
                 plan.tile_columns, reinterpret_cast<std::int8_t*>(to));
    }));
  } else {
    b.memory.emplace(find(Part::high, [&](std::byte* to) {
      certify(plan, tile);
      std::memcpy(to, tile.high, bytes);
    }));
  }
  if (tile.low)
    b.low.emplace(find(Part::low, [&](std::byte* to) { std::memcpy(to, tile.low, bytes); }));
  b.zero = tile.zero;
  b.low_zero = tile.low == nullptr;
  b.scales = tile.scales;
  b.sums = tile.sums;
  b.losses = tile.losses;
  b.shifted = grid.dtype == DType::uint8;
}

}  // namespace

bool is_shifted(const Product& product, DType dtype) {
  return dtype == DType::uint8 && product.out != DType::uint8 && product.out != DType::int8;
}

void pack_a(Job& job, const Step& step, const Shop& shop) {
  const Plan& plan = job.plan;
  const Product& product = job.request.product;
  TileOfA& a = job.bench->a[std::size_t(step.a_slot)];
  const bool is_split = plan.method == Method::float32;
  const bool nibbles = plan.element == Element::int4;
  // Of one surface: of int4 both parts, of float32 one of the two.
  const std::int64_t rows = nibbles ? plan.surface_rows() : plan.tile_rows;
  const std::size_t bytes =
      bytes_of(plan.element, std::size_t(rows) * std::size_t(plan.surface_depth()));
  std::vector<std::int8_t> whole(nibbles ? std::size_t(plan.tile_rows * plan.surface_depth()) : 0);
  std::byte* const low = !is_split ? nullptr : a.low ? (*a.low)->data() : a.memory->data() + bytes;

  Packed packed;
  {
    const Timed timed(shop.work.pack_nanoseconds, trace::Act::pack_a, job,
                      std::size_t(step.rows * step.depth) * bytes_of(product.a_type) +
                          (is_split ? 2 * bytes : bytes));
    const Access access(job);
    if (!access) return;
    Packing packing = packing_of(job, product.a_type, true, step.k);
    packing.reread = nibbles;
    packed = npublas::pack_a(
        {.data = product.a.at(step.batch, step.row, step.k),
         .lane_stride = product.a.row_stride,
         .depth_stride = product.a.column_stride,
         .dtype = product.a_type,
         .lanes = step.rows,
         .depth = step.depth},
        packing, nibbles ? Layout::native : plan.layout, plan.tile_rows, plan.surface_depth(),
        nibbles ? static_cast<void*>(whole.data()) : a.memory->data(), low, a.notes.to_fill());
  }
  look_at(job, packed);
  if (nibbles &&
      !nibbles_of_a(whole.data(), plan.tile_rows, plan.surface_depth(), plan.parts,
                    plan.surface_rows(), reinterpret_cast<std::uint8_t*>(a.memory->data())))
    job.end(Ended::beyond);
  if (job.stop) return;
  a.zero = packed.zero;
  a.low_zero = packed.low_zero;
  shop.syncs.to_device(job, *a.memory);
  if (a.low && !a.low_zero) shop.syncs.to_device(job, **a.low);
  shop.work.packed_bytes += is_split ? 2 * bytes : bytes;
}

void pack_b(Job& job, const Step& step, const Shop& shop) {
  if (job.request.weights) return find_b(job, step, shop);
  const Plan& plan = job.plan;
  const Product& product = job.request.product;
  TileOfB& b = job.bench->b[std::size_t(step.b_slot)];
  const std::size_t bytes = (*b.memory)->size() + (b.low ? (*b.low)->size() : 0);
  Packed packed;
  {
    const Timed timed(shop.work.pack_nanoseconds, trace::Act::pack_b, job,
                      std::size_t(step.columns * step.depth) * bytes_of(product.b_type) + bytes);
    const Access access(job);
    if (!access) return;
    packed = npublas::pack_b({.data = product.b.at(step.batch, step.k, step.column),
                              .lane_stride = product.b.column_stride,
                              .depth_stride = product.b.row_stride,
                              .dtype = product.b_type,
                              .lanes = step.columns,
                              .depth = step.depth},
                             packing_of(job, product.b_type, false, step.k), plan.tile_columns,
                             plan.surface_depth(), (*b.memory)->data(),
                             b.low ? (*b.low)->data() : nullptr, b.notes->to_fill());
  }
  look_at(job, packed);
  if (job.stop) return;
  b.zero = packed.zero;
  b.low_zero = packed.low_zero;
  b.scales = b.notes->scales.data();
  b.sums = b.notes->sums.data();
  b.losses = b.notes->losses.data();
  b.shifted = is_shifted(product, product.b_type);
  shop.syncs.to_device(job, **b.memory);
  if (b.low && !b.low_zero) shop.syncs.to_device(job, **b.low);
  shop.work.packed_bytes += bytes;
}

}  // namespace npublas::exec
