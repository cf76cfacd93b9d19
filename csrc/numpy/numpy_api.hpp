// # NumPy's C interface
// Built with NumPy 2 headers for an older target, so that one binary serves NumPy 1.26 and 2.x.
// What only newer versions have is asked for at run time. `module.cpp` imports the tables, the rest
// of this folder uses them.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_1_23_API_VERSION
#define NPY_TARGET_VERSION NPY_1_23_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL npublas_array_api
#define PY_UFUNC_UNIQUE_SYMBOL npublas_ufunc_api
#ifndef NPUBLAS_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#define NO_IMPORT_UFUNC
#endif
#include <numpy/arrayobject.h>
#include <numpy/dtype_api.h>
#include <numpy/ufuncobject.h>
