#include "gufunc.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "call.hpp"
#include "loops.hpp"
#include "report.hpp"
#include "signatures.hpp"

namespace npublas {
namespace {

vectorcallfunc numpys_call = nullptr;  // how NumPy calls a ufunc

struct Choice {
  const char* name;
  int value;
};
struct Setting {
  const char* name;
  int shift, mask;
  std::vector<Choice> choices;
  PyObject* interned = nullptr;
};

Setting settings_of_a_call[] = {
    {"precision",
     kPrecisionShift,
     kPrecisionMask,
     {{"float32", int(Precision::float32)},
      {"float16", int(Precision::float16)},
      {"int8", int(Precision::int8)}}},
    {"device",
     kDeviceShift,
     kDeviceMask,
     {{"auto", int(Device::automatic)}, {"npu", int(Device::npu)}, {"cpu", int(Device::cpu)}}},
};

/// The setting that the keyword `name` is, null if it is one of NumPy's.
const Setting* setting_named(PyObject* name) {
  for (const Setting& setting : settings_of_a_call) {
    if (name == setting.interned) return &setting;
  }
  if (PyUnicode_CHECK_INTERNED(name)) return nullptr;
  for (const Setting& setting : settings_of_a_call) {  // a name that was made at run time
    if (PyUnicode_Compare(name, setting.interned) == 0) return &setting;
  }
  return nullptr;
}

/// Adds what `value` says about `setting` to `*override`; None says nothing.
bool read_setting(const Setting& setting, PyObject* value, int* override) {
  if (value == Py_None) return true;
  for (const Choice& choice : setting.choices) {
    if (PyUnicode_Check(value) && PyUnicode_CompareWithASCIIString(value, choice.name) == 0) {
      *override |= (setting.mask << kOverrideShift) | (choice.value << setting.shift);
      if (setting.mask == kPrecisionMask) *override |= kPrecisionAsked;
      return true;
    }
  }
  PyObject* const error = error_class("ConfigurationError");
  if (!error) return false;
  std::string names;
  for (const Choice& choice : setting.choices) {
    if (!names.empty()) names += &choice == &setting.choices.back() ? " or " : ", ";
    names.append("'").append(choice.name).append("'");
  }
  PyErr_Format(error, "%s must be %s, not %R", setting.name, names.c_str(), value);
  Py_DECREF(error);
  return false;
}

/// True if the second operand of a plain call may be known to the cache of weights: it is large and
/// read-only, which weights that can't change are.
bool may_be_cached(PyObject* const* args, std::size_t count, PyObject* names) {
  constexpr npy_intp kSmallest = 128 * 128;
  if (names || PyVectorcall_NARGS(count) != 2 || !PyArray_CheckExact(args[0])) return false;
  if (!PyArray_Check(args[1])) return false;
  auto* const b = reinterpret_cast<PyArrayObject*>(args[1]);
  return !PyArray_ISWRITEABLE(b) && PyArray_SIZE(b) >= kSmallest;
}

/// Calls NumPy within the call's own settings, which nested calls neither see nor disturb.
PyObject* call_numpy(int override, PyObject* self, PyObject* const* args, std::size_t count,
                     PyObject* names) {
  Settings settings;
  if (!read_settings(override, &settings)) return nullptr;
  if (may_be_cached(args, count, names)) {
    PyObject* const result = multiply_cached(args[0], args[1], pack(settings));
    if (result != Py_NotImplemented) return result;
    Py_DECREF(result);
  }
  Call& call = this_call;
  const Call outer = call;
  call = {.settings = settings, .known = true};
  PyObject* const result = numpys_call(self, args, count, names);
  call = outer;
  return result;
}

/// True if NumPy will multiply these itself. Anything but a plain array may have an override, whose
/// own calls of the ufunc are still the caller's product.
bool are_plain_arrays(const std::vector<PyObject*>& arguments) {
  return std::all_of(arguments.begin(), arguments.end(),
                     [](PyObject* argument) { return PyArray_CheckExact(argument); });
}

/// The rest of `call_matmul`, where a keyword is ours.
[[gnu::noinline]] PyObject* call_with_settings(PyObject* self, PyObject* const* args,
                                               std::size_t positional, PyObject* names) {
  int override = 0;
  std::vector<PyObject*> kept(args, args + positional);
  std::vector<PyObject*> kept_names;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i) {
    PyObject* const name = PyTuple_GET_ITEM(names, i);
    PyObject* const value = args[positional + std::size_t(i)];
    if (const Setting* const setting = setting_named(name)) {
      if (!read_setting(*setting, value, &override)) return nullptr;
    } else {
      kept.push_back(value);
      kept_names.push_back(name);
    }
  }
  PyObject* numpys_names = nullptr;
  if (!kept_names.empty()) {
    numpys_names = PyTuple_New(Py_ssize_t(kept_names.size()));
    if (!numpys_names) return nullptr;
    for (std::size_t i = 0; i < kept_names.size(); ++i) {
      PyTuple_SET_ITEM(numpys_names, Py_ssize_t(i), Py_NewRef(kept_names[i]));
    }
  }
  PyObject* result = nullptr;
  if (are_plain_arrays(kept)) {
    result = call_numpy(override, self, kept.data(), positional, numpys_names);
  } else if (const ContextOverride context(override); context.holds()) {
    result = call_numpy(0, self, kept.data(), positional, numpys_names);
  }
  Py_XDECREF(numpys_names);
  return result;
}

PyObject* call_matmul(PyObject* self, PyObject* const* args, std::size_t count, PyObject* names) {
  if (may_be_bfloat16(args, PyVectorcall_NARGS(count), names) && !learn_bfloat16(self)) {
    return nullptr;
  }
  if (names) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i) {
      if (setting_named(PyTuple_GET_ITEM(names, i))) {
        return call_with_settings(self, args, std::size_t(PyVectorcall_NARGS(count)), names);
      }
    }
  }
  return call_numpy(0, self, args, count, names);
}

/// np.matmul. A new reference, or null with an exception set.
PyUFuncObject* numpy_matmul() {
  PyObject* const numpy = PyImport_ImportModule("numpy");
  if (!numpy) return nullptr;
  PyObject* const matmul = PyObject_GetAttrString(numpy, "matmul");
  Py_DECREF(numpy);
  if (matmul && !PyObject_TypeCheck(matmul, &PyUFunc_Type)) {
    PyErr_SetString(PyExc_ImportError, "numpy.matmul is not a ufunc: another package replaced it");
    Py_DECREF(matmul);
    return nullptr;
  }
  return reinterpret_cast<PyUFuncObject*>(matmul);
}

/// The arrays that a ufunc points to and does not own.
struct Tables {
  std::vector<Loop> loops;
  std::vector<PyUFuncGenericFunction> functions;
  std::vector<void*> data;
  std::vector<char> types;
};

Tables tables_like(const PyUFuncObject& numpy) {
  Tables tables;
  tables.loops.reserve(std::size_t(numpy.ntypes));  // so that pointers to them stay true
  for (int i = 0; i < numpy.ntypes; ++i) {
    const char* const types = numpy.types + i * numpy.nargs;
    tables.loops.push_back({.a = dtype_of(types[0]),
                            .b = dtype_of(types[1]),
                            .out = dtype_of(types[2]),
                            .numpy = {numpy.functions[i], numpy.data ? numpy.data[i] : nullptr}});
    tables.functions.push_back(run_loop);
    tables.data.push_back(&tables.loops.back());
    tables.types.insert(tables.types.end(), types, types + numpy.nargs);
  }
  return tables;
}

/// Copies NumPy's rules, which its constructor of ufuncs has no arguments for.
void copy_rules(const PyUFuncObject& numpy, PyUFuncObject* ours) {
  // Without the output's flags, an `out=` that overlaps an operand gives wrong results.
  std::copy(numpy.op_flags, numpy.op_flags + numpy.nargs, ours->op_flags);
  ours->iter_flags = numpy.iter_flags;
}

}  // namespace

PyObject* call_on_cpu(PyObject* matmul, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  Call& call = this_call;
  const Call outer = call;
  call = {.settings = {.device = Device::cpu}, .known = true, .uncounted = true};
  PyObject* const result = numpys_call(matmul, args, std::size_t(count), names);
  call = outer;
  return result;
}

PyObject* make_matmul(const char* doc) {
  if (PyUFunc_Type.tp_vectorcall_offset != Py_ssize_t(offsetof(PyUFuncObject, vectorcall))) {
    PyErr_SetString(PyExc_ImportError,
                    "this NumPy calls ufuncs in a way that npublas doesn't know");
    return nullptr;
  }
  for (Setting& setting : settings_of_a_call) {
    setting.interned = PyUnicode_InternFromString(setting.name);
    if (!setting.interned) return nullptr;
  }
  PyUFuncObject* const numpy = numpy_matmul();
  if (!numpy) return nullptr;
  static Tables tables = tables_like(*numpy);
  for (const Loop& loop : tables.loops) {
    if (loop.a == DType::float32) set_float32_loop(loop.numpy);
  }
  PyObject* matmul = PyUFunc_FromFuncAndDataAndSignature(
      tables.functions.data(), tables.data.data(), tables.types.data(), numpy->ntypes, numpy->nin,
      numpy->nout, numpy->identity, "matmul", doc, 0, numpy->core_signature);
  if (matmul) {
    auto* const ours = reinterpret_cast<PyUFuncObject*>(matmul);
    copy_rules(*numpy, ours);
    numpys_call = ours->vectorcall;
    ours->vectorcall = call_matmul;
  }
  if (matmul && !add_signatures(reinterpret_cast<PyUFuncObject*>(matmul), numpy)) {
    Py_CLEAR(matmul);
  }
  Py_DECREF(numpy);
  return matmul;
}

}  // namespace npublas
