// # What happened when
// Recordings as Python sees them: events as columns, because there may be half a million of them.
#include "npublas/exec/trace.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>

#include "bindings.hpp"
#include "npublas/engine/product.hpp"

namespace py = pybind11;

namespace npublas::python {
namespace {

template <typename To, typename Get>
py::array_t<To> column(const std::vector<trace::Event>& events, const Get& get) {
  py::array_t<To> column{py::ssize_t(events.size())};
  std::transform(events.begin(), events.end(), column.mutable_data(), get);
  return column;
}

py::dict columns(const std::vector<trace::Event>& events) {
  using trace::Event;
  py::dict result;
  result["act"] = column<std::uint8_t>(events, [](const Event& e) { return std::uint8_t(e.act); });
  result["element"] = column<std::uint8_t>(events, [](const Event& e) { return e.element; });
  result["track"] = column<std::int16_t>(events, [](const Event& e) { return e.track.number; });
  result["product"] = column<std::uint64_t>(events, [](const Event& e) { return e.product; });
  result["begin"] = column<std::int64_t>(events, [](const Event& e) { return e.begin; });
  result["end"] = column<std::int64_t>(events, [](const Event& e) { return e.end; });
  result["bytes"] = column<std::uint64_t>(events, [](const Event& e) { return e.bytes; });
  result["flops"] = column<std::uint64_t>(events, [](const Event& e) { return e.flops; });
  return result;
}

py::dict to_dict(const trace::ProductNote& product) {
  py::dict result;
  result["product"] = product.product;
  result["begin"] = product.begin;
  result["end"] = product.end;
  result["cpu_nanoseconds"] = product.cpu_nanoseconds;
  const auto& [batch, m, k, n] = product.shape;
  result["shape"] = py::make_tuple(batch, m, k, n);
  result["dtype"] = npublas::name_of(product.dtype);
  result["method"] = product.method < 0 ? "" : npublas::name_of(Method(product.method));
  result["on_npu"] = Reason(product.reason) == Reason::npu;
  result["reason"] = text_of(Reason(product.reason), product.dtype);
  result["fallback"] = product.fallback;
  result["simulated"] = product.simulated;
  result["thread"] = product.thread;
  return result;
}

py::dict stop(trace::Recording& recording) {
  trace::Recorded recorded;
  {
    const py::gil_scoped_release release;
    recorded = recording.stop();
  }
  py::list products;
  for (const trace::ProductNote& product : recorded.products) products.append(to_dict(product));
  py::dict threads;
  for (const trace::Thread& thread : recorded.threads)
    threads[py::int_(thread.number)] = thread.name;
  py::dict result;
  result["begin"] = recorded.begin;
  result["end"] = recorded.end;
  result["cpu_nanoseconds"] = recorded.cpu_nanoseconds;
  result["dropped"] = recorded.dropped;
  result["threads"] = threads;
  result["products"] = products;
  result["events"] = columns(recorded.events);
  return result;
}

py::dict busy() {
  const trace::Busy busy = trace::busy();
  py::dict result;
  result["seconds"] = std::vector<double>(std::begin(busy.seconds), std::end(busy.seconds));
  result["since"] = busy.since;
  return result;
}

}  // namespace

void register_trace(py::module_& module) {
  py::class_<trace::Recording, std::unique_ptr<trace::Recording>>(
      module, "Recording", "Records what all threads do, from its making to `stop`.")
      .def(py::init<>())
      .def("stop", &stop, "Return what was recorded; a second time, nothing.");
  py::list acts;
  for (int act = 0; act < trace::kActs; ++act) acts.append(trace::name_of(trace::Act(act)));
  py::list elements;
  for (const Element element : kAllElements) elements.append(npublas::name_of(element));
  module.attr("ACTS") = py::tuple(acts);
  module.attr("ELEMENTS") = py::tuple(elements);
  module.def("busy", &busy, "Return for how long each core was busy, and since when.");
}

}  // namespace npublas::python
