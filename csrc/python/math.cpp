// Layouts, packing, unpacking, finishing and planning, open to the tests, which hold them against
// their formulas in NumPy.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "names.hpp"
#include "npublas/base/cpu_features.hpp"
#include "npublas/base/integers.hpp"
#include "npublas/math/check.hpp"
#include "npublas/math/finish.hpp"
#include "npublas/math/method.hpp"
#include "npublas/math/pack.hpp"
#include "npublas/math/unpack.hpp"

namespace py = pybind11;

namespace npublas::python {
namespace {

Coding coding_from(const std::string& name) {
  if (name == "bytes") return Coding::bytes;
  if (name == "shifted") return Coding::shifted;
  if (name == "half") return Coding::half;
  if (name == "split") return Coding::split;
  if (name == "quantized") return Coding::quantized;
  throw py::value_error("no coding " + name);
}

/// The array's type, or the one that is told: NumPy has no bfloat16, so that comes as uint16.
DType dtype_of(const py::array& array, const std::optional<std::string>& told = std::nullopt) {
  return dtype_from(told ? *told : std::string(py::str(array.dtype())));
}

/// `streamed`: as a part of a result that is large enough.
Target target_of(py::array& array, const std::optional<std::string>& dtype = std::nullopt,
                 bool streamed = false) {
  return {.data = array.mutable_data(),
          .row_stride = array.strides(0),
          .column_stride = array.strides(1),
          .dtype = dtype_of(array, dtype),
          .rows = array.shape(0),
          .columns = array.shape(1),
          .whole_bytes = streamed ? std::size_t(1) << 40 : 0};
}

template <typename T>
const T* data_or_null(const std::optional<py::array_t<T>>& array) {
  return array ? array->data() : nullptr;
}

template <typename T>
py::array_t<T> filled(std::int64_t size, T value) {
  py::array_t<T> array{py::ssize_t(size)};
  std::fill_n(array.mutable_data(), size, value);
  return array;
}

py::tuple pack(const py::array& matrix, const std::string& coding_name, bool is_a,
               std::int64_t surface_lanes, std::int64_t surface_depth, int limit, float scale,
               const std::optional<std::string>& dtype, const std::string& layout_name) {
  const Packing packing{.coding = coding_from(coding_name), .limit = limit, .scale = scale};
  const int lane_axis = is_a ? 0 : 1;
  const Lanes lanes{.data = matrix.data(),
                    .lane_stride = matrix.strides(lane_axis),
                    .depth_stride = matrix.strides(1 - lane_axis),
                    .dtype = dtype_of(matrix, dtype),
                    .lanes = matrix.shape(lane_axis),
                    .depth = matrix.shape(1 - lane_axis)};
  const bool is_split = packing.coding == Coding::split;
  const bool halves = is_split || packing.coding == Coding::half;
  const std::int64_t size = surface_lanes * surface_depth * (halves ? 2 : 1);
  // Not zero, so that the tests see what isn't written.
  auto surface = filled<std::uint8_t>(size, 0xaa);
  auto low = filled<std::uint8_t>(is_split ? size : 0, 0xaa);
  auto scales = filled<double>(lanes.lanes, std::nan(""));
  auto sums = filled<std::int32_t>(lanes.lanes, 0);
  auto losses = filled<LaneLoss>(lanes.lanes, LaneLoss{});
  const LaneNotes notes{scales.mutable_data(), sums.mutable_data(), losses.mutable_data()};
  void* const high = surface.mutable_data();
  void* const rest = is_split ? low.mutable_data() : nullptr;
  const Layout layout = layout_from(layout_name);
  const Packed packed =
      is_a ? pack_a(lanes, packing, layout, surface_lanes, surface_depth, high, rest, notes)
           : pack_b(lanes, packing, surface_lanes, surface_depth, high, rest, notes);
  py::dict seen;
  seen["finite"] = packed.finite;
  seen["zero"] = packed.zero;
  seen["low_zero"] = packed.low_zero;
  seen["subnormal"] = packed.subnormal;
  return py::make_tuple(surface, is_split ? py::object(low) : py::none(), scales, sums, losses,
                        seen);
}

/// All of a matrix, tile after tile, as an executor does; for benchmarks. Tiles at the edges are
/// padded to whole ones.
void pack_tiles(const py::array& matrix, const std::string& coding_name, bool is_a,
                std::int64_t tile_lanes, std::int64_t tile_depth, py::array& surfaces,
                std::optional<py::array>& low, const std::optional<std::string>& dtype,
                const std::string& layout_name) {
  const Packing packing{.coding = coding_from(coding_name)};
  const Layout layout = layout_from(layout_name);
  const int lane_axis = is_a ? 0 : 1;
  const std::int64_t lanes = matrix.shape(lane_axis), depth = matrix.shape(1 - lane_axis);
  const bool halves = packing.coding == Coding::half || packing.coding == Coding::split;
  const std::int64_t bytes = tile_lanes * tile_depth * (halves ? 2 : 1);
  const std::int64_t tiles = ceil_div(lanes, tile_lanes) * ceil_div(depth, tile_depth);
  if (surfaces.nbytes() < tiles * bytes || (low && low->nbytes() < tiles * bytes))
    throw py::value_error("the surfaces have no room for all tiles");
  std::vector<double> scales(static_cast<std::size_t>(tile_lanes));
  std::vector<std::int32_t> sums(scales.size());
  std::vector<LaneLoss> losses(scales.size());
  const LaneNotes notes{scales.data(), sums.data(), losses.data()};
  auto* to = static_cast<std::byte*>(surfaces.mutable_data());
  auto* rest = low ? static_cast<std::byte*>(low->mutable_data()) : nullptr;
  for (std::int64_t lane = 0; lane < lanes; lane += tile_lanes)
    for (std::int64_t d = 0; d < depth; d += tile_depth) {
      const Lanes part{.data = static_cast<const std::byte*>(matrix.data()) +
                               lane * matrix.strides(lane_axis) + d * matrix.strides(1 - lane_axis),
                       .lane_stride = matrix.strides(lane_axis),
                       .depth_stride = matrix.strides(1 - lane_axis),
                       .dtype = dtype_of(matrix, dtype),
                       .lanes = std::min(tile_lanes, lanes - lane),
                       .depth = std::min(tile_depth, depth - d)};
      if (is_a)
        pack_a(part, packing, layout, tile_lanes, tile_depth, to, rest, notes);
      else
        pack_b(part, packing, tile_lanes, tile_depth, to, rest, notes);
      to += bytes;
      if (rest) rest += bytes;
    }
}

py::dict as_dict(const Unpacked& unpacked) {
  py::dict seen;
  seen["finite"] = unpacked.finite;
  seen["underflow"] = unpacked.underflow;
  seen["main_zero"] = unpacked.main_zero;
  seen["a_low_zero"] = unpacked.a_low_zero;
  seen["b_low_zero"] = unpacked.b_low_zero;
  return seen;
}

void register_instructions(py::module_& module) {
  module.def("instruction_sets", [] {
    py::list names;
    for (const Isa isa : kAllIsas)
      if (has(isa)) names.append(name_of(isa));
    return names;
  });
  module.def("instruction_set", [] { return name_of(isa_in_use()); });
  module.def("use_instruction_set", [](const std::string& name) {
    for (const Isa isa : kAllIsas)
      if (name == name_of(isa)) return use_isa(isa);
    throw py::value_error("no instruction set " + name);
  });
}

void register_packing(py::module_& module) {
  PYBIND11_NUMPY_DTYPE(LaneLoss, largest, total, size, top, large);
  module.def("pack", &pack, py::arg("matrix"), py::arg("coding"), py::kw_only(), py::arg("is_a"),
             py::arg("surface_lanes"), py::arg("surface_depth"), py::arg("limit") = 127,
             py::arg("scale") = 0.0f, py::arg("dtype") = py::none(), py::arg("layout") = "native");
  module.def("pack_tiles", &pack_tiles, py::arg("matrix"), py::arg("coding"), py::kw_only(),
             py::arg("is_a"), py::arg("tile_lanes"), py::arg("tile_depth"), py::arg("surfaces"),
             py::arg("low") = py::none(), py::arg("dtype") = py::none(),
             py::arg("layout") = "native");
}

/// `shape`: rows and columns.
Surface surface_from(std::pair<std::int64_t, std::int64_t> shape, const std::string& layout) {
  return {shape.first, shape.second, layout_from(layout)};
}

using Sums = py::array_t<std::int32_t>;
using Floats = py::array_t<float>;
using Scales = py::array_t<double>;
using Pair = std::pair<std::int64_t, std::int64_t>;

FloatSums float_sums(const Floats& main, const std::optional<Floats>& a_low,
                     const std::optional<Floats>& b_low) {
  return {main.data(), data_or_null(a_low), data_or_null(b_low)};
}

/// Defines a function that unpacks `Parts`, named `names`, with scales.
template <typename... Parts, typename Unpack, typename... Names>
void def_unpacking(py::module_& module, const char* function, const Unpack& unpack,
                   const Names&... names) {
  module.def(
      function,
      [unpack](const Parts&... parts, Pair shape, const std::string& layout,
               const Scales& row_scales, const Scales& column_scales, bool accumulate,
               py::array& target, bool streamed) {
        return as_dict(unpack(parts..., surface_from(shape, layout), row_scales.data(),
                              column_scales.data(), accumulate,
                              target_of(target, std::nullopt, streamed)));
      },
      names..., py::kw_only(), py::arg("shape"), py::arg("layout") = "native",
      py::arg("row_scales"), py::arg("column_scales"), py::arg("accumulate"), py::arg("target"),
      py::arg("streamed") = false);
}

void register_unpacking(py::module_& module) {
  module.def(
      "unpack_integers",
      [](const Sums& sums, Pair shape, const std::string& layout,
         const std::optional<Sums>& row_offsets, const std::optional<Sums>& column_offsets,
         bool accumulate, py::array& target, bool streamed) {
        return as_dict(unpack_integers(sums.data(), surface_from(shape, layout),
                                       data_or_null(row_offsets), data_or_null(column_offsets),
                                       accumulate, target_of(target, std::nullopt, streamed)));
      },
      py::arg("sums"), py::kw_only(), py::arg("shape"), py::arg("layout") = "native",
      py::arg("row_offsets"), py::arg("column_offsets"), py::arg("accumulate"), py::arg("target"),
      py::arg("streamed") = false);
  def_unpacking<Floats, std::optional<Floats>, std::optional<Floats>>(
      module, "unpack_floats",
      [](const auto& main, const auto& a_low, const auto& b_low, const auto&... rest) {
        return unpack_floats(float_sums(main, a_low, b_low), rest...);
      },
      py::arg("main"), py::arg("a_low"), py::arg("b_low"));
  def_unpacking<Sums>(
      module, "unpack_quantized",
      [](const Sums& sums, const auto&... rest) { return unpack_quantized(sums.data(), rest...); },
      py::arg("sums"));
}

/// Unpacks all whole tiles of a matrix, row by row, each from the next of the surfaces in `main`
/// (and `low`, twice as many, of the float32 method), which are used in turns. For benchmarks,
/// which would otherwise measure Python.
void unpack_tiles(const py::array& main, const std::optional<py::array_t<float>>& low,
                  py::array& matrix, std::pair<std::int64_t, std::int64_t> tile,
                  const std::string& layout, bool accumulate,
                  const std::optional<py::array_t<double>>& bias,
                  const std::optional<std::string>& dtype) {
  const auto [rows, columns] = tile;
  const Surface surface = surface_from(tile, layout);
  const Target whole = target_of(matrix, dtype);
  const std::vector<double> row_scales(std::size_t(rows), 0x1p-3);
  const std::vector<double> column_scales(std::size_t(columns), 0x1p-5);
  const std::int64_t size = rows * columns, surfaces = main.size() / size;
  std::int64_t next = 0;
  for (std::int64_t row = 0; row + rows <= whole.rows; row += rows) {
    for (std::int64_t column = 0; column + columns <= whole.columns; column += columns, ++next) {
      Target target = whole;
      target.data = static_cast<std::byte*>(whole.data) + row * whole.row_stride +
                    column * whole.column_stride;
      target.rows = rows;
      target.columns = columns;
      if (!accumulate) target.whole_bytes = std::size_t(matrix.nbytes());
      const std::int64_t first = next % surfaces * size;
      const Epilogue epilogue{.bias = bias ? bias->data() + column : nullptr};
      if (main.dtype().kind() == 'f') {
        const FloatSums sums{static_cast<const float*>(main.data()) + first,
                             low ? low->data() + 2 * first : nullptr,
                             low ? low->data() + 2 * first + size : nullptr};
        if (dtype)
          finish_floats(sums, surface, row_scales.data(), column_scales.data(), DType::float32,
                        epilogue, target);
        else
          unpack_floats(sums, surface, row_scales.data(), column_scales.data(), accumulate, target);
      } else {
        const std::int32_t* const sums = static_cast<const std::int32_t*>(main.data()) + first;
        if (is_float(target.dtype))
          unpack_quantized(sums, surface, row_scales.data(), column_scales.data(), accumulate,
                           target);
        else
          unpack_integers(sums, surface, nullptr, nullptr, accumulate, target);
      }
    }
  }
}

Epilogue epilogue_of(double alpha, double beta, const std::optional<py::array_t<double>>& bias,
                     const std::string& activation) {
  return {.alpha = alpha,
          .beta = beta,
          .bias = data_or_null(bias),
          .activation = activation_from(activation)};
}

py::dict as_dict(const Rounded& rounded) {
  py::dict seen;
  seen["overflow"] = rounded.overflow;
  seen["underflow"] = rounded.underflow;
  return seen;
}

py::tuple as_tuple(const Finished& finished) {
  return py::make_tuple(as_dict(finished.unpacked), as_dict(finished.rounded));
}

/// Defines a function that finishes `Parts`, named `names`.
template <typename... Parts, typename Finish, typename... Names>
void def_finishing(py::module_& module, const char* function, const Finish& finish,
                   const Names&... names) {
  module.def(
      function,
      [finish](const Parts&... parts, py::array& target, Pair shape, const std::string& layout,
               const Scales& row_scales, const Scales& column_scales, const std::string& sums_type,
               double alpha, double beta, const std::optional<Scales>& bias,
               const std::string& activation, const std::optional<std::string>& dtype) {
        return as_tuple(finish(parts..., surface_from(shape, layout), row_scales.data(),
                               column_scales.data(), dtype_from(sums_type),
                               epilogue_of(alpha, beta, bias, activation),
                               target_of(target, dtype)));
      },
      names..., py::arg("target"), py::kw_only(), py::arg("shape"), py::arg("layout") = "native",
      py::arg("row_scales"), py::arg("column_scales"), py::arg("sums_type"), py::arg("alpha") = 1.0,
      py::arg("beta") = 0.0, py::arg("bias") = py::none(), py::arg("activation") = "none",
      py::arg("dtype") = py::none());
}

void register_finishing(py::module_& module) {
  module.def(
      "finish",
      [](const py::array& sums, py::array& target, double alpha, double beta,
         const std::optional<Scales>& bias, const std::string& activation,
         const std::optional<std::string>& dtype) {
        return as_dict(finish(sums.data(), dtype_of(sums),
                              epilogue_of(alpha, beta, bias, activation),
                              target_of(target, dtype)));
      },
      py::arg("sums"), py::arg("target"), py::kw_only(), py::arg("alpha") = 1.0,
      py::arg("beta") = 0.0, py::arg("bias") = py::none(), py::arg("activation") = "none",
      py::arg("dtype") = py::none());
  def_finishing<Floats, std::optional<Floats>, std::optional<Floats>>(
      module, "finish_floats",
      [](const auto& main, const auto& a_low, const auto& b_low, const auto&... rest) {
        return finish_floats(float_sums(main, a_low, b_low), rest...);
      },
      py::arg("main"), py::arg("a_low"), py::arg("b_low"));
  def_finishing<Sums>(
      module, "finish_quantized",
      [](const Sums& sums, const auto&... rest) { return finish_quantized(sums.data(), rest...); },
      py::arg("sums"));
  module.def("unpack_tiles", &unpack_tiles, py::arg("main"), py::arg("low"), py::arg("matrix"),
             py::kw_only(), py::arg("tile"), py::arg("layout"), py::arg("accumulate") = false,
             py::arg("bias") = py::none(), py::arg("dtype") = py::none());
  module.def("activate", [](const std::string& activation, double x) {
    return activate(activation_from(activation), x);
  });
  module.def(
      "method_of",
      [](const std::string& a, const std::string& b,
         const std::string& precision) -> std::optional<std::string> {
        const auto method = method_of(dtype_from(a), dtype_from(b),
                                      precision == "int8"      ? Precision::int8
                                      : precision == "float16" ? Precision::float16
                                                               : Precision::float32);
        return method ? std::optional<std::string>(name_of(*method)) : std::nullopt;
      },
      py::arg("a"), py::arg("b"), py::arg("precision"));
}

}  // namespace

void register_math(py::module_& module) {
  register_instructions(module);
  register_packing(module);
  register_unpacking(module);
  register_finishing(module);
  module.def(
      "product_is_zero",
      [](const py::array& a, const py::array& b, const std::string& element, std::int64_t rows,
         std::int64_t depth, std::int64_t columns, const std::string& layout,
         bool flushes_subnormals) {
        return product_is_zero(a.data(), b.data(), element_from(element), layout_from(layout), rows,
                               depth, columns, flushes_subnormals);
      },
      py::arg("a"), py::arg("b"), py::arg("element"), py::kw_only(), py::arg("rows"),
      py::arg("depth"), py::arg("columns"), py::arg("layout") = "native",
      py::arg("flushes_subnormals") = false);
  module.def("layout_index", [](const std::string& matrix, const std::string& element_name,
                                std::int64_t row, std::int64_t column, std::int64_t size) {
    const Element element = element_from(element_name);
    if (matrix == "A") return layout::a_at(element, row, column, size);
    if (matrix == "B") return layout::b_at(element, row, column, size);
    return layout::c_at(row, column, size);
  });
}

}  // namespace npublas::python
