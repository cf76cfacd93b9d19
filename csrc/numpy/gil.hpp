// # The interpreter's lock
// NumPy lets it go before a loop if the result has more than 500 elements, and keeps it otherwise,
// so a loop may run with or without it.
#pragma once

#include "numpy_api.hpp"

namespace npublas {

/// Lets go of the lock for a while, if this thread holds it and `wanted`.
class GilReleased {
 public:
  explicit GilReleased(bool wanted) {
    if (wanted && PyGILState_Check()) state_ = PyEval_SaveThread();
  }
  // Before Python 3.14 a thread that wants the lock back while the interpreter ends is unwound
  // here.
  ~GilReleased() noexcept(false) {
    if (state_) PyEval_RestoreThread(state_);
  }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* state_ = nullptr;
};

/// Holds the lock for a while, whether this thread has it already or not.
class GilHeld {
 public:
  GilHeld() : state_(PyGILState_Ensure()) {}
  ~GilHeld() { PyGILState_Release(state_); }
  GilHeld(const GilHeld&) = delete;
  GilHeld& operator=(const GilHeld&) = delete;

 private:
  PyGILState_STATE state_;
};

}  // namespace npublas
