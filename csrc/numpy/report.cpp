#include "report.hpp"

#include "flags.hpp"
#include "gil.hpp"
#include "npublas/engine/engine.hpp"

namespace npublas {

std::atomic<bool> verbose{false};

namespace {

// Guarded by the interpreter's lock.
PyObject* open_engine_hook = nullptr;
PyObject* fallback_hook = nullptr;
PyObject* product_hook = nullptr;
PyObject* cached_hook = nullptr;
PyObject* news_hook = nullptr;

void assign(PyObject*& hook, PyObject* function) {
  PyObject* const old = hook;
  hook = function == Py_None ? nullptr : Py_NewRef(function);
  Py_XDECREF(old);
}

/// Calls `hook` with `arguments`, a tuple that it steals; null arguments are an exception already.
bool call(PyObject* hook, PyObject* arguments) {
  if (!arguments) return false;
  PyObject* const kept = Py_NewRef(hook);  // the call may replace the hook
  PyObject* const result = PyObject_CallObject(kept, arguments);
  Py_DECREF(kept);
  Py_DECREF(arguments);
  Py_XDECREF(result);
  return result != nullptr;
}

const char* name_of(OnFallback on_fallback) {
  switch (on_fallback) {
    case OnFallback::warn:
      return "warn";
    case OnFallback::error:
      return "error";
    default:
      return "allow";
  }
}

}  // namespace

void set_hooks(PyObject* open_engine, PyObject* fallback, PyObject* product, PyObject* cached,
               PyObject* news) {
  assign(open_engine_hook, open_engine);
  assign(fallback_hook, fallback);
  assign(product_hook, product);
  assign(cached_hook, cached);
  assign(news_hook, news);
}

void set_verbose(bool on) { verbose.store(on, std::memory_order_relaxed); }

bool open_engine() {
  const FlagsKept flags;
  const GilHeld gil;
  return !open_engine_hook || call(open_engine_hook, PyTuple_New(0));
}

bool raise_unavailable() {
  const FlagsKept flags;
  const GilHeld gil;
  PyObject* const error = error_class("NpuUnavailableError");
  if (!error) return false;
  PyErr_SetString(error, unavailable_because().c_str());
  Py_DECREF(error);
  return false;
}

bool report_fallback(Reason reason, DType in, const std::string& detail, OnFallback on_fallback) {
  const FlagsKept flags;
  const GilHeld gil;
  return !fallback_hook || call(fallback_hook, Py_BuildValue("(sss)", text_of(reason, in).c_str(),
                                                             detail.c_str(), name_of(on_fallback)));
}

bool report_product(DType in, const Shape& shape, Reason reason, double seconds) {
  const FlagsKept flags;
  const GilHeld gil;
  return !product_hook ||
         call(product_hook,
              Py_BuildValue("(s(LLLL)Osd)", npublas::name_of(in), (long long)shape.batch,
                            (long long)shape.m, (long long)shape.k, (long long)shape.n,
                            reason == Reason::npu ? Py_True : Py_False, text_of(reason, in).c_str(),
                            seconds));
}

bool report_news() {
  const FlagsKept flags;
  const GilHeld gil;
  return !news_hook || call(news_hook, PyTuple_New(0));
}

PyObject* multiply_cached(PyObject* a, PyObject* b, int settings) {
  if (!cached_hook) return Py_NewRef(Py_NotImplemented);
  PyObject* const hook = Py_NewRef(cached_hook);  // the call may replace it
  PyObject* const result = PyObject_CallFunction(hook, "OOi", a, b, settings);
  Py_DECREF(hook);
  return result;
}

PyObject* error_class(const char* name) {
  PyObject* const errors = PyImport_ImportModule("npublas.errors");
  if (!errors) return nullptr;
  PyObject* const found = PyObject_GetAttrString(errors, name);
  Py_DECREF(errors);
  return found;
}

}  // namespace npublas
