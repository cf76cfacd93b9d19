// # npublas._ufuncs
// The module: the ufunc, and what Python tells the loops. See `_ufuncs.pyi`.
#define NPUBLAS_IMPORTS_NUMPY
#include "call.hpp"
#include "docstring.hpp"
#include "gufunc.hpp"
#include "npublas/exec/trace.hpp"
#include "numpy_api.hpp"
#include "report.hpp"
#include "signatures.hpp"

namespace {

PyObject* learn_bfloat16(PyObject*, PyObject* matmul) {
  if (!npublas::learn_bfloat16(matmul)) return nullptr;
  Py_RETURN_NONE;
}

PyObject* set_hooks(PyObject*, PyObject* args, PyObject* keywords) {
  static const char* names[] = {"open_engine", "fallback", "product", "cached", "news", nullptr};
  PyObject *open_engine = Py_None, *fallback = Py_None, *product = Py_None, *cached = Py_None,
           *news = Py_None;
  if (!PyArg_ParseTupleAndKeywords(args, keywords, "|$OOOOO", const_cast<char**>(names),
                                   &open_engine, &fallback, &product, &cached, &news)) {
    return nullptr;
  }
  npublas::set_hooks(open_engine, fallback, product, cached, news);
  Py_RETURN_NONE;
}

PyObject* on_cpu(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  if (count < 1) {
    PyErr_SetString(PyExc_TypeError, "on_cpu() needs the ufunc");
    return nullptr;
  }
  return npublas::call_on_cpu(args[0], args + 1, count - 1, names);
}

PyObject* set_default_settings(PyObject*, PyObject* settings) {
  const long packed = PyLong_AsLong(settings);
  if (packed == -1 && PyErr_Occurred()) return nullptr;
  npublas::set_default_settings(int(packed));
  Py_RETURN_NONE;
}

PyObject* watch_overrides(PyObject*, PyObject*) {
  npublas::watch_overrides();
  Py_RETURN_NONE;
}

PyObject* begin_product(PyObject*, PyObject*) {
  npublas::trace::begin_product();
  Py_RETURN_NONE;
}

PyObject* set_verbose(PyObject*, PyObject* verbose) {
  const int on = PyObject_IsTrue(verbose);
  if (on < 0) return nullptr;
  npublas::set_verbose(on);
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"set_hooks", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(set_hooks)),
     METH_VARARGS | METH_KEYWORDS, "Sets the Python functions that the loops call."},
    {"set_default_settings", set_default_settings, METH_O, "Sets the process's packed settings."},
    {"watch_overrides", watch_overrides, METH_NOARGS, "Makes calls look at `override`."},
    {"begin_product", begin_product, METH_NOARGS,
     "Says that a product of another door begins, which counts it at its end."},
    {"set_verbose", set_verbose, METH_O, "Makes the loops call the hook `product`."},
    {"on_cpu", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(on_cpu)),
     METH_FASTCALL | METH_KEYWORDS, "Calls the ufunc on the CPU, and counts nothing."},
    {"learn_bfloat16", learn_bfloat16, METH_O,
     "Makes the ufunc know bfloat16, if the program has imported ml_dtypes."},
    {},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "npublas._ufuncs",
                          "npublas.matmul, and the settings that its loops read.", -1, methods};

}  // namespace

PyMODINIT_FUNC PyInit__ufuncs() {
  import_array();
  import_umath();
  PyObject* const module = PyModule_Create(&definition);
  if (!module) return nullptr;
  PyObject* const override_variable = npublas::make_override_variable();
  PyObject* const matmul = npublas::make_matmul(npublas::kMatmulDoc);
  const bool made = override_variable && matmul &&
                    PyModule_AddObjectRef(module, "override", override_variable) == 0 &&
                    PyModule_AddObjectRef(module, "ufunc", matmul) == 0;
  Py_XDECREF(override_variable);
  Py_XDECREF(matmul);
  if (!made) Py_DECREF(module);
  return made ? module : nullptr;
}
