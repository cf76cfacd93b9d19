#include "npublas/exec/bench.hpp"

namespace npublas::exec {

device::Type type_of(Element element) {
  constexpr device::Type types[kElements] = {device::Type::int8, device::Type::float16,
                                             device::Type::int4};
  return types[int(element)];
}

Bench::Bench(const Plan& plan, bool weights, Window& window, int first_core, int cores_there,
             int* core) {
  const device::Type type = type_of(plan.element);
  const bool native = plan.layout == Layout::native;
  const bool split = plan.method == Method::float32;
  const int rows = int(split ? plan.tile_rows : plan.surface_rows());
  const int depth = int(plan.surface_depth());
  const int columns = int(plan.tile_columns);
  const device::ContextShape shape{rows, depth, columns, native};
  const device::ContextShape both{2 * rows, depth, columns, native};

  *core = first_core % cores_there;
  for (int i = 0; i < plan.cores; ++i) {
    *core = (first_core + i) % cores_there;
    CoreBench& bench = cores.emplace_back(*core, Accuracy(plan.tile_rows, plan.tile_columns));
    for (int lane = 0; lane < runs_at_once(plan); ++lane) {
      bench.lanes.push_back({window.context(type, shape, *core), {}, false});
      if (split && !native) bench.lanes.back().both.emplace(window.context(type, both, *core));
    }
  }
  const device::Context& any = *cores[0].lanes[0].context;
  const std::size_t a_bytes = any.a_bytes(), b_bytes = any.b_bytes(), c_bytes = any.c_bytes();
  for (CoreBench& bench : cores) {
    for (int i = 0; i < sum_buffers(plan); ++i) {
      bench.sums.push_back({window.memory(split && !native ? 2 * c_bytes : c_bytes), {}, {}});
      if (!split) continue;
      if (native) bench.sums.back().a_low.emplace(window.memory(c_bytes));
      bench.sums.back().b_low.emplace(window.memory(c_bytes));
    }
    bench.row_offsets.resize(std::size_t(plan.tile_rows));
    bench.column_offsets.resize(std::size_t(plan.tile_columns));
    if (plan.element == Element::int4)
      bench.whole.resize(std::size_t(plan.tile_rows * plan.tile_columns));
  }
  a.reserve(std::size_t(plan.a_slots));
  for (std::int64_t i = 0; i < plan.a_slots; ++i) {
    a.push_back(
        {window.memory(split && !native ? 2 * a_bytes : a_bytes), {}, Notes(plan.tile_rows)});
    if (split && native) a.back().low.emplace(window.memory(a_bytes));
  }
  b.resize(std::size_t(plan.b_slots));
  if (weights) return;
  for (TileOfB& tile : b) {
    tile.memory.emplace(window.memory(b_bytes));
    if (split) tile.low.emplace(window.memory(b_bytes));
    tile.notes.emplace(plan.tile_columns);
  }
}

}  // namespace npublas::exec
