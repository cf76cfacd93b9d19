// Layouts, packing and planning, open to the tests, which hold them against their formulas in
// NumPy.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <vector>

#include "bindings.hpp"
#include "npublas/math/check.hpp"
#include "npublas/math/pack.hpp"
#include "npublas/math/plan.hpp"
#include "npublas/math/unpack.hpp"

namespace py = pybind11;

namespace npublas::python {
namespace {

Element element_from(const std::string& name) {
  if (name == "int8") return Element::int8;
  if (name == "float16") return Element::float16;
  throw py::value_error("element must be 'int8' or 'float16', not '" + name + "'");
}

DType dtype_of(const py::array& array) {
  const std::string name = py::str(array.dtype());
  for (int i = 0; i < kDTypes; ++i)
    if (name == name_of(DType(i))) return DType(i);
  throw py::value_error("no packer for " + name);
}

py::tuple pack(const py::array& matrix, const std::string& element_name, bool is_a,
               std::int64_t surface_lanes, std::int64_t surface_depth) {
  const Element element = element_from(element_name);
  const int lane_axis = is_a ? 0 : 1;
  const Lanes lanes{.data = matrix.data(),
                    .lane_stride = matrix.strides(lane_axis),
                    .depth_stride = matrix.strides(1 - lane_axis),
                    .dtype = dtype_of(matrix),
                    .lanes = matrix.shape(lane_axis),
                    .depth = matrix.shape(1 - lane_axis)};
  const std::size_t size = std::size_t(surface_lanes * surface_depth) * bytes_of(element);
  py::array_t<std::uint8_t> surface{py::ssize_t(size)};
  py::array_t<std::int32_t> exponents{py::ssize_t(surface_lanes)};
  std::fill_n(exponents.mutable_data(), surface_lanes, 0);
  const Packed packed = (is_a ? pack_a : pack_b)(lanes, element, surface_lanes, surface_depth,
                                                 surface.mutable_data(), exponents.mutable_data());
  py::dict seen;
  seen["finite"] = packed.finite;
  seen["zero"] = packed.zero;
  seen["subnormal"] = packed.subnormal;
  return py::make_tuple(surface, exponents, seen);
}

py::dict unpack_into(const py::array& surface, const std::string& element_name,
                     std::int64_t surface_rows, const py::array_t<std::int32_t>& row_exponents,
                     const py::array_t<std::int32_t>& column_exponents, bool accumulate,
                     py::array& target) {
  const Unpacked unpacked = unpack(surface.data(), element_from(element_name), surface_rows,
                                   row_exponents.data(), column_exponents.data(), accumulate,
                                   {.data = target.mutable_data(),
                                    .row_stride = target.strides(0),
                                    .column_stride = target.strides(1),
                                    .dtype = dtype_of(target),
                                    .rows = target.shape(0),
                                    .columns = target.shape(1)});
  py::dict seen;
  seen["finite"] = unpacked.finite;
  seen["zero"] = unpacked.zero;
  return seen;
}

}  // namespace

void register_math(py::module_& module) {
  module.def("pack", &pack, py::arg("matrix"), py::arg("element"), py::kw_only(), py::arg("is_a"),
             py::arg("surface_lanes"), py::arg("surface_depth"));
  module.def("unpack_into", &unpack_into, py::arg("surface"), py::arg("element"), py::kw_only(),
             py::arg("surface_rows"), py::arg("row_exponents"), py::arg("column_exponents"),
             py::arg("accumulate"), py::arg("target"));
  module.def(
      "product_is_zero",
      [](const py::array& a, const py::array& b, const std::string& element, std::int64_t rows,
         std::int64_t depth, std::int64_t columns, bool flushes_subnormals) {
        return product_is_zero(a.data(), b.data(), element_from(element), rows, depth, columns,
                               flushes_subnormals);
      },
      py::arg("a"), py::arg("b"), py::arg("element"), py::kw_only(), py::arg("rows"),
      py::arg("depth"), py::arg("columns"), py::arg("flushes_subnormals") = false);
  module.def("layout_index", [](const std::string& matrix, const std::string& element_name,
                                std::int64_t row, std::int64_t column, std::int64_t size) {
    const Element element = element_from(element_name);
    if (matrix == "A") return layout::a_at(element, row, column, size);
    if (matrix == "B") return layout::b_at(element, row, column, size);
    return layout::c_at(row, column, size);
  });
  module.def(
      "plan",
      [](std::int64_t batch, std::int64_t m, std::int64_t k, std::int64_t n,
         const std::string& element, std::size_t window_bytes, int cores, std::int64_t max_depth,
         std::int64_t max_rows, std::int64_t max_columns) -> py::object {
        const auto planned = plan({batch, m, k, n}, element_from(element),
                                  {.max_rows = max_rows,
                                   .max_columns = max_columns,
                                   .max_depth = max_depth,
                                   .window_bytes = window_bytes,
                                   .cores = cores});
        if (!planned) return py::none();
        py::list blocks;
        for (std::int64_t i = 0; i < planned->blocks(); ++i) {
          const Block block = planned->block(i);
          blocks.append(
              py::make_tuple(block.batch, block.row, block.rows, block.column, block.columns));
        }
        py::dict result;
        result["tile"] =
            py::make_tuple(planned->tile_rows, planned->tile_depth, planned->tile_columns);
        result["blocks"] = blocks;
        result["cores"] = planned->cores;
        result["depth_tiles"] = planned->depth_tiles();
        result["runs"] = planned->runs();
        result["bytes"] = planned->bytes_per_core() * std::size_t(planned->cores);
        return result;
      },
      py::arg("batch"), py::arg("m"), py::arg("k"), py::arg("n"), py::arg("element"), py::kw_only(),
      py::arg("window_bytes") = PlanLimits{}.window_bytes, py::arg("cores") = PlanLimits{}.cores,
      py::arg("max_depth") = PlanLimits{}.max_depth, py::arg("max_rows") = PlanLimits{}.max_rows,
      py::arg("max_columns") = PlanLimits{}.max_columns);
}

}  // namespace npublas::python
