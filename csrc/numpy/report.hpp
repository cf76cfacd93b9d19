// # What Python hears from a loop
// The engine is opened by Python, and Python warns, logs and raises. Each function here takes the
// interpreter's lock, leaves the floating-point flags alone, and returns false with an exception
// set if Python raised one.
#pragma once

#include <atomic>
#include <string>

#include "npublas/engine/product.hpp"
#include "numpy_api.hpp"

namespace npublas {

/// Python's functions, each a callable or None; steals nothing. See `_ufuncs.pyi`.
void set_hooks(PyObject* open_engine, PyObject* fallback, PyObject* product, PyObject* cached,
               PyObject* news);
/// A line per product, or not.
void set_verbose(bool on);
extern std::atomic<bool> verbose;
inline bool is_verbose() { return verbose.load(std::memory_order_relaxed); }

bool open_engine();
/// Raises NpuUnavailableError with the engine's words. Always returns false.
bool raise_unavailable();
bool report_fallback(Reason reason, DType in, const std::string& detail, OnFallback on_fallback);
bool report_product(DType in, const Shape& shape, Reason reason, double seconds);
/// The engine has news (engine/tuning.hpp).
bool report_news();

/// The product with what is kept packed of `b`: a new reference, to NotImplemented if nothing is,
/// or null with an exception set. Needs the interpreter's lock; `settings` are packed.
PyObject* multiply_cached(PyObject* a, PyObject* b, int settings);

/// A class of npublas.errors. A new reference, or null with an exception set.
PyObject* error_class(const char* name);

}  // namespace npublas
