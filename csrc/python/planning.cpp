// # Plans that Python asks for
// How a product would be cut, what that is predicted to take, and what it takes in simulated time:
// for `explain`, the tests and the benchmarks.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "names.hpp"
#include "npublas/math/replay.hpp"
#include "npublas/math/search.hpp"
#include "rates.hpp"

namespace py = pybind11;

namespace npublas::python {
namespace {

/// (layout, rows, depth, columns, row blocks).
using TilesOfPython =
    std::tuple<std::string, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

/// What a plan depends on, as keyword arguments.
struct Asked {
  PlanQuery query;
  PlanLimits limits;
  Rates rates;
  std::optional<Tiles> tiles;

  std::optional<Plan> plan() const {
    return tiles ? plan_of_tiles(query, limits, *tiles) : npublas::plan(query, limits, rates);
  }
};

py::dict to_dict(const Estimate& estimate) {
  py::dict result;
  result["seconds"] = estimate.seconds;
  result["fill"] = estimate.fill;
  result["device"] = estimate.device;
  result["drain"] = estimate.drain;
  result["host"] = estimate.host;
  result["packed_bytes"] = estimate.packed_bytes;
  result["unpacked_bytes"] = estimate.unpacked_bytes;
  result["streamed_bytes"] = estimate.streamed_bytes;
  return result;
}

py::dict to_dict(const Plan& plan) {
  py::dict result;
  result["layout"] = npublas::name_of(plan.layout);
  result["tile"] = py::make_tuple(plan.tile_rows, plan.tile_depth, plan.tile_columns);
  result["block"] = py::make_tuple(plan.block_rows, plan.block_columns);
  result["a_slots"] = plan.a_slots;
  result["b_slots"] = plan.b_slots;
  result["cores"] = plan.cores;
  result["depth_tiles"] = plan.depth_tiles();
  result["surface_rows"] = plan.surface_rows();
  result["steps"] = plan.steps();
  result["runs"] = plan.runs();
  result["bytes"] = plan.window_bytes();
  result["files"] = plan.files();
  return result;
}

py::object planned(const Asked& asked) {
  const auto plan = asked.plan();
  if (!plan) return py::none();
  py::dict result = to_dict(*plan);
  py::list blocks;
  for (std::int64_t i = 0; i < plan->blocks(); ++i) {
    const Block block = plan->block(i);
    blocks.append(py::make_tuple(block.batch, block.row, block.rows, block.column, block.columns));
  }
  result["blocks"] = blocks;
  result["estimate"] =
      to_dict(estimate(*plan, asked.query.packed.has_value(), asked.query.bytes, asked.rates));
  return result;
}

py::object replayed(const Asked& asked, ReplayOptions options) {
  const auto plan = asked.plan();
  if (!plan) return py::none();
  options.b_is_packed = asked.query.packed.has_value();
  options.bytes = asked.query.bytes;
  Replayed replayed;
  {
    const py::gil_scoped_release release;
    replayed = replay(*plan, options, asked.rates);
  }
  py::dict result;
  result["seconds"] = replayed.seconds;
  result["busy"] = replayed.busy;
  result["host_seconds"] = replayed.host_seconds;
  result["packed_bytes"] = replayed.packed_bytes;
  result["unpacked_bytes"] = replayed.unpacked_bytes;
  result["streamed_bytes"] = replayed.streamed_bytes;
  result["runs"] = replayed.runs;
  result["packed_a"] = replayed.packed_a;
  result["packed_b"] = replayed.packed_b;
  return result;
}

py::list ranked(const Asked& asked, std::size_t count) {
  py::list result;
  for (const Candidate& candidate : candidates(asked.query, asked.limits, asked.rates, count)) {
    py::dict one = to_dict(candidate.plan);
    one["estimate"] = to_dict(candidate.estimate);
    result.append(one);
  }
  return result;
}

/// Defines a function of what a plan depends on, and of `Rest`, named `rest`.
template <typename... Rest, typename Answer, typename... Names>
void def_asked(py::module_& module, const char* function, const Answer& answer, const char* doc,
               const Names&... rest_names) {
  constexpr PlanLimits limits;
  module.def(
      function,
      [answer](std::int64_t batch, std::int64_t m, std::int64_t k, std::int64_t n,
               const std::string& method, std::size_t window_bytes, int cores, int files,
               std::int64_t max_depth, std::int64_t max_rows, std::int64_t max_columns,
               const std::optional<std::pair<std::int64_t, std::int64_t>>& packed,
               const std::tuple<int, int, int>& source_bytes, const std::optional<py::dict>& rates,
               const std::optional<TilesOfPython>& tiles, bool a_has_low, bool b_has_low,
               Rest... rest) {
        const auto [a, b, out] = source_bytes;
        Asked asked{.query = {.shape = {batch, m, k, n},
                              .method = method_from(method),
                              .bytes = {.a = a, .b = b, .out = out},
                              .low = {.a = a_has_low, .b = b_has_low}},
                    .limits = {.max_rows = max_rows,
                               .max_columns = max_columns,
                               .max_depth = max_depth,
                               .window_bytes = window_bytes,
                               .cores = cores,
                               .files = files},
                    .rates = rates ? changed(target_rates(), *rates) : target_rates(),
                    .tiles = std::nullopt};
        if (packed) asked.query.packed = PackedTiles{packed->first, packed->second};
        if (tiles) {
          const auto& [layout, rows, depth, columns, row_blocks] = *tiles;
          asked.tiles = Tiles{layout_from(layout), rows, depth, columns, row_blocks, cores};
        }
        return answer(asked, rest...);
      },
      py::arg("batch"), py::arg("m"), py::arg("k"), py::arg("n"), py::arg("method"), py::kw_only(),
      py::arg("window_bytes") = limits.window_bytes, py::arg("cores") = limits.cores,
      py::arg("files") = limits.files, py::arg("max_depth") = limits.max_depth,
      py::arg("max_rows") = limits.max_rows, py::arg("max_columns") = limits.max_columns,
      py::arg("packed") = py::none(), py::arg("source_bytes") = std::make_tuple(4, 4, 4),
      py::arg("rates") = py::none(), py::arg("tiles") = py::none(), py::arg("a_has_low") = true,
      py::arg("b_has_low") = true, rest_names..., doc);
}

}  // namespace

void register_planning(py::module_& module) {
  def_asked(module, "plan", planned,
            "Return how a product is cut, or None; `tiles` instead of the best ones, if given.");
  def_asked<std::size_t>(module, "plans", ranked, "Return the candidates, the fastest first.",
                         py::arg("count") = 10);
  def_asked<bool>(
      module, "replay",
      [](const Asked& asked, bool b_is_resident) {
        return replayed(asked, {.b_is_resident = b_is_resident, .bytes = {}});
      },
      "Return what a product takes in simulated time, or None.", py::arg("b_is_resident") = true);
  module.def(
      "columns_of_weights",
      [](std::int64_t batch, std::int64_t n, const std::string& method) {
        return columns_of_weights(batch, n, method_from(method));
      },
      py::arg("batch"), py::arg("n"), py::arg("method"));
  module.def(
      "run_of",
      [](const std::string& element, const std::string& layout, std::int64_t rows,
         std::int64_t depth, std::int64_t columns, int cores,
         const std::optional<py::dict>& rates) {
        const Element type = element_from(element);
        const Rates by = rates ? changed(target_rates(), *rates) : target_rates();
        const Cutting cut = cut_on_chip(type, layout_from(layout), rows, depth, columns);
        const RunWork work = work_of_run(type, layout_from(layout), rows, depth, columns, by);
        py::dict result;
        result["tasks"] = cut.tasks;
        result["tile_rows"] = cut.rows;
        result["passes"] = cut.weight_passes;
        result["bytes"] = work.bytes;
        result["seconds"] = seconds_of_run(work, by, cores);
        return result;
      },
      py::arg("element"), py::arg("layout"), py::arg("rows"), py::arg("depth"), py::arg("columns"),
      py::arg("cores") = 1, py::arg("rates") = py::none(),
      "Return how the runtime cuts a run, what it streams, and how long a core is busy with it.");
}

}  // namespace npublas::python
