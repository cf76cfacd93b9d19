// # Packed weights as Python sees them
// `_core.Weights`: packed from an array, laid over bytes, or over a part of an open file. The bytes
// themselves are read through the buffer protocol. What they mean is a dict, the grid, and a list
// of (offset, bytes, checksum, has_low, zero, subnormal), the tiles.
#include "npublas/math/weights.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <bit>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "bindings.hpp"
#include "names.hpp"
#include "npublas/base/error.hpp"
#include "npublas/base/integers.hpp"
#include "npublas/base/mapped_file.hpp"

namespace py = pybind11;

namespace npublas::python {
namespace {

static_assert(std::endian::native == std::endian::little, "tiles are written as they stand");

using Entry = std::tuple<std::uint64_t, std::uint64_t, std::uint32_t, bool, bool, bool>;

py::dict to_dict(const WeightsGrid& grid) {
  py::dict result;
  result["method"] = npublas::name_of(grid.method);
  result["dtype"] = npublas::name_of(grid.dtype);
  result["batch"] = grid.batch;
  result["k"] = grid.k;
  result["n"] = grid.n;
  result["tile_depth"] = grid.tile_depth;
  result["tile_columns"] = grid.tile_columns;
  return result;
}

using Fields = py::typing::Dict<py::str, py::object>;

WeightsGrid grid_from(const Fields& fields) {
  return {.method = method_from(fields["method"].cast<std::string>()),
          .dtype = dtype_from(fields["dtype"].cast<std::string>()),
          .batch = fields["batch"].cast<std::int64_t>(),
          .k = fields["k"].cast<std::int64_t>(),
          .n = fields["n"].cast<std::int64_t>(),
          .tile_depth = fields["tile_depth"].cast<std::int64_t>(),
          .tile_columns = fields["tile_columns"].cast<std::int64_t>()};
}

std::vector<WeightTileEntry> entries_from(const std::vector<Entry>& tuples) {
  std::vector<WeightTileEntry> entries;
  entries.reserve(tuples.size());
  for (const auto& [offset, bytes, checksum, has_low, zero, subnormal] : tuples)
    entries.push_back({offset, bytes, checksum, has_low, zero, subnormal});
  return entries;
}

template <typename Pointer>
BasicView<Pointer> view_of(Pointer data, const py::array& array) {
  if (array.ndim() != 3) throw py::value_error("weights are a stack of matrices");
  return {.data = data,
          .batch_stride = array.strides(0),
          .row_stride = array.strides(1),
          .column_stride = array.strides(2)};
}

/// `array` is read as it lies in memory: nothing of it is copied before it is packed.
std::pair<std::shared_ptr<Weights>, bool> pack(const py::array& array, const std::string& dtype,
                                               const std::string& method, std::int64_t group,
                                               const std::optional<py::array_t<float>>& scales) {
  const View source = view_of(array.data(), array);
  const WeightsGrid grid = grid_for(method_from(method), dtype_from(dtype), array.shape(0),
                                    array.shape(1), array.shape(2), group);
  if (array.itemsize() != py::ssize_t(bytes_of(grid.dtype)))
    throw py::value_error("elements of another size than " + dtype + " has");
  const float* tile_scales = nullptr;
  if (scales) {
    const std::int64_t depth = group != 0 ? group : grid.tile_depth;
    if (scales->size() != grid.batch * ceil_div(grid.k, depth) * grid.n ||
        !(scales->flags() & py::array::c_style))
      throw py::value_error("scales must be one for each group and column");
    tile_scales = scales->data();
  }
  const py::gil_scoped_release release;
  const auto packed =
      std::make_shared<const PackedWeights>(pack_weights(source, grid, tile_scales, group));
  return {std::make_shared<Weights>(grid, packed->bytes, packed->entries, packed), packed->exact};
}

/// Keeps a Python object alive, and may be freed on any thread.
std::shared_ptr<const void> owner_of(py::object object) {
  return {object.release().ptr(), [](PyObject* owned) {
            if (!Py_IsInitialized()) return;
            const py::gil_scoped_acquire acquire;
            Py_DECREF(owned);
          }};
}

/// Over the buffer itself if it can't change and begins where numbers may, else over a copy.
std::shared_ptr<Weights> from_buffer(const py::buffer& buffer, const Fields& grid,
                                     const std::vector<Entry>& entries) {
  const py::buffer_info info = buffer.request();
  if (info.ndim != 1 || info.itemsize != 1) throw py::value_error("packed bytes must be bytes");
  std::span<const std::byte> bytes(static_cast<const std::byte*>(info.ptr), std::size_t(info.size));
  std::shared_ptr<const void> owner;
  if (info.readonly && reinterpret_cast<std::uintptr_t>(info.ptr) % alignof(double) == 0) {
    owner = owner_of(py::memoryview(buffer));
  } else {
    const auto copy = std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end());
    bytes = *copy;
    owner = copy;
  }
  return std::make_shared<Weights>(grid_from(grid), bytes, entries_from(entries), owner);
}

std::shared_ptr<Weights> from_file(const std::shared_ptr<File>& file, std::uint64_t offset,
                                   std::size_t size, const Fields& grid,
                                   const std::vector<Entry>& entries) {
  const auto mapped = std::make_shared<const MappedFile>(file, offset, size);
  return std::make_shared<Weights>(grid_from(grid), mapped->bytes(), entries_from(entries), mapped,
                                   [mapped] { return mapped->stamp(); });
}

py::bytes read(const File& file, std::uint64_t offset, std::size_t size) {
  if (offset > file.size() || size > file.size() - offset)
    throw Error(ErrorKind::file, "the file was cut");
  py::bytes result(nullptr, size);
  const std::span<std::byte> bytes(reinterpret_cast<std::byte*>(PyBytes_AS_STRING(result.ptr())),
                                   size);
  const py::gil_scoped_release release;
  file.read(offset, bytes);
  return result;
}

}  // namespace

void register_weights(py::module_& module) {
  module.def(
      "tile_depth",
      [](const std::string& method, std::int64_t k, std::int64_t n, std::int64_t group) {
        return grid_for(method_from(method), DType::int8, 1, k, n, group).tile_depth;
      },
      py::arg("method"), py::arg("k"), py::arg("n"), py::kw_only(), py::arg("group"));

  py::class_<File, std::shared_ptr<File>>(module, "File",
                                          "An open file, closed when nobody has it any more.")
      .def(py::init<int>(), py::arg("descriptor"))
      .def_property_readonly("is_regular", &File::is_regular)
      .def_property_readonly("size", &File::size)
      .def("read", &read, py::arg("offset"), py::arg("size"));
  py::class_<Weights, std::shared_ptr<Weights>>(module, "Weights", py::buffer_protocol(),
                                                "A stack of packed matrices. Never changes.")
      .def_static("pack", &pack, py::arg("array"), py::kw_only(), py::arg("dtype"),
                  py::arg("method"), py::arg("group") = 0, py::arg("scales") = py::none(),
                  "Pack an array of three dimensions; return whether unpacking restores it, too.")
      .def_static("from_buffer", &from_buffer, py::arg("buffer"), py::kw_only(), py::arg("grid"),
                  py::arg("entries"), "Lay weights over read-only bytes, which are kept.")
      .def_static("from_file", &from_file, py::arg("file"), py::kw_only(), py::arg("offset"),
                  py::arg("size"), py::arg("grid"), py::arg("entries"),
                  "Lay weights over a part of an open file, each tile checked before it is used.")
      .def_property_readonly("grid", [](const Weights& self) { return to_dict(self.grid()); })
      .def_property_readonly("entries",
                             [](const Weights& self) {
                               std::vector<Entry> entries;
                               for (const WeightTileEntry& entry : self.entries())
                                 entries.push_back({entry.offset, entry.bytes, entry.checksum,
                                                    entry.has_low, entry.zero, entry.subnormal});
                               return entries;
                             })
      .def_property_readonly("id", &Weights::id)
      .def_property_readonly("nbytes", &Weights::bytes)
      .def_property_readonly("data", [](const py::buffer& self) { return py::memoryview(self); })
      .def(
          "check",
          [](const Weights& self) {
            for (std::int64_t i = 0; i < self.grid().tiles(); ++i) self.tile(i);
          },
          py::call_guard<py::gil_scoped_release>(), "Check every tile that has yet to be.")
      .def(
          "unpack_into",
          [](const Weights& self, py::array& target) {
            const WeightsGrid& grid = self.grid();
            const MutableView view = view_of(target.mutable_data(), target);
            const DType wanted = grid.method == Method::integers ? grid.dtype : DType::float32;
            if (target.itemsize() != py::ssize_t(bytes_of(wanted)) ||
                target.shape(0) != grid.batch || target.shape(1) != grid.k ||
                target.shape(2) != grid.n)
              throw py::value_error("the target must be as large as what is unpacked");
            const py::gil_scoped_release release;
            self.unpack(view);
          },
          py::arg("target"), "Unpack to float32, or to the integers that were packed.")
      .def_buffer([](const Weights& self) {
        return py::buffer_info(reinterpret_cast<const std::uint8_t*>(self.data()),
                               py::ssize_t(self.bytes()), true);
      });
}

}  // namespace npublas::python
