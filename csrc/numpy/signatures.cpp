#include "signatures.hpp"

#include "loops.hpp"

namespace npublas {

std::atomic<int> bfloat16_type{-1};

namespace {

using TypeResolver = int (*)(PyUFuncObject*, NPY_CASTING, PyArrayObject**, PyObject*,
                             PyArray_Descr**);

PyUFuncObject* numpys = nullptr;  // np.matmul
bool integers_are_added = false;

template <DType A, DType B, DType Out>
int run_signature(PyArrayMethod_Context*, char* const* args, const npy_intp* dims,
                  const npy_intp* steps, NpyAuxData*) {
  static constexpr Loop loop{.a = A, .b = B, .out = Out};
  return run_loop(loop, args, dims, steps) ? 0 : -1;
}

using StridedLoop = int (*)(PyArrayMethod_Context*, char* const*, const npy_intp*, const npy_intp*,
                            NpyAuxData*);

bool add(PyUFuncObject* matmul, int a, int b, int out, const char* name, StridedLoop loop) {
  using AddLoopFromSpec = int (*)(PyObject*, PyArrayMethod_Spec*);
  const auto add_loop = reinterpret_cast<AddLoopFromSpec>(PyUFunc_API[43]);
  const int numbers[] = {a, b, out};
  PyArray_DTypeMeta* dtypes[3];
  for (int i = 0; i < 3; ++i) {
    PyArray_Descr* const descr = PyArray_DescrFromType(numbers[i]);
    dtypes[i] = reinterpret_cast<PyArray_DTypeMeta*>(Py_TYPE(descr));  // lives as long as NumPy
    Py_DECREF(descr);
  }
  PyType_Slot slots[] = {{NPY_METH_strided_loop, reinterpret_cast<void*>(loop)}, {0, nullptr}};
  PyArrayMethod_Spec spec{};
  spec.name = name;
  spec.nin = 2;
  spec.nout = 1;
  spec.casting = NPY_SAFE_CASTING;  // a call with casting="no" is an error, as it is NumPy's
  spec.flags = NPY_METH_NO_FLOATINGPOINT_ERRORS;
  spec.dtypes = dtypes;
  spec.slots = slots;
  return add_loop(reinterpret_cast<PyObject*>(matmul), &spec) == 0;
}

bool is_byte(int type) { return type == NPY_BYTE || type == NPY_UBYTE; }

/// NumPy asks here where the types of the operands alone leave it a choice of signatures, or none.
/// Those that are added must not change what it chooses: mixed bytes give int16, two bfloat16 give
/// float32, and whatever else there is of bfloat16 is widened as for np.matmul, which has no loop
/// for it.
int resolve_types(PyUFuncObject* matmul, NPY_CASTING casting, PyArrayObject** operands,
                  PyObject* signature, PyArray_Descr** types) {
  if (!signature) {
    const int a = PyArray_TYPE(operands[0]), b = PyArray_TYPE(operands[1]);
    const bool two_bfloat16 = a == b && a == bfloat16_type.load(std::memory_order_relaxed);
    const bool mixed = a != b && is_byte(a) && is_byte(b) && integers_are_added;
    if (!two_bfloat16 && !mixed)
      return numpys->type_resolver(numpys, casting, operands, signature, types);
    const int numbers[] = {a, b, mixed ? NPY_SHORT : NPY_FLOAT};
    for (int i = 0; i < 3; ++i) types[i] = PyArray_DescrFromType(numbers[i]);
    return 0;
  }
  return numpys->type_resolver(matmul, casting, operands, signature, types);
}

}  // namespace

bool add_signatures(PyUFuncObject* matmul, PyUFuncObject* numpy) {
  Py_INCREF(numpy);
  numpys = numpy;
  matmul->type_resolver = resolve_types;
  constexpr unsigned kNumpy2 = 0x12;  // the feature version of NumPy 2.0
  if (PyArray_GetNDArrayCFeatureVersion() < kNumpy2) return true;
  constexpr DType i8 = DType::int8, u8 = DType::uint8, i16 = DType::int16, i32 = DType::int32;
  if (!add(matmul, NPY_BYTE, NPY_BYTE, NPY_INT32, "npublas_bb_i", run_signature<i8, i8, i32>) ||
      !add(matmul, NPY_BYTE, NPY_UBYTE, NPY_INT32, "npublas_bB_i", run_signature<i8, u8, i32>) ||
      !add(matmul, NPY_UBYTE, NPY_BYTE, NPY_INT32, "npublas_Bb_i", run_signature<u8, i8, i32>) ||
      !add(matmul, NPY_UBYTE, NPY_UBYTE, NPY_INT32, "npublas_BB_i", run_signature<u8, u8, i32>) ||
      !add(matmul, NPY_BYTE, NPY_UBYTE, NPY_INT16, "npublas_bB_h", run_signature<i8, u8, i16>) ||
      !add(matmul, NPY_UBYTE, NPY_BYTE, NPY_INT16, "npublas_Bb_h", run_signature<u8, i8, i16>))
    return false;
  integers_are_added = true;
  return true;
}

bool learn_bfloat16(PyObject* matmul) {
  if (bfloat16_type >= 0) return true;
  PyObject* const name = PyUnicode_FromString("ml_dtypes");
  if (!name) return false;
  PyObject* const module = PyImport_GetModule(name);
  Py_DECREF(name);
  if (!module) return !PyErr_Occurred();
  PyObject* const scalar = PyObject_GetAttrString(module, "bfloat16");
  Py_DECREF(module);
  if (!scalar) {  // another thread has only begun to import it
    PyErr_Clear();
    return true;
  }
  PyArray_Descr* descr = nullptr;
  const bool found = PyArray_DescrConverter(scalar, &descr) == NPY_SUCCEED;
  Py_DECREF(scalar);
  if (!found) return false;
  const int type = descr->type_num;
  if (type < NPY_USERDEF) {
    Py_DECREF(descr);
    return true;
  }
  static Loop wide{DType::bfloat16, DType::bfloat16, DType::float32};
  static Loop narrow{DType::bfloat16, DType::bfloat16, DType::bfloat16};
  const int to_wide[] = {type, type, NPY_FLOAT}, to_narrow[] = {type, type, type};
  auto* const ufunc = reinterpret_cast<PyUFuncObject*>(matmul);
  const bool added = PyUFunc_RegisterLoopForType(ufunc, type, run_loop, to_wide, &wide) == 0 &&
                     PyUFunc_RegisterLoopForType(ufunc, type, run_loop, to_narrow, &narrow) == 0;
  Py_DECREF(descr);
  if (added) bfloat16_type = type;
  return added;
}

}  // namespace npublas
