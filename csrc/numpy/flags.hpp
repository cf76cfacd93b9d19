// # Floating-point flags
// NumPy clears them before a ufunc's loops and reads them afterwards, and what it finds becomes a
// RuntimeWarning or an exception. So a loop may raise what NumPy's own loop would, and nothing
// else.
#pragma once

#include <cfenv>

namespace npublas {

/// On destruction the flags are what they were on construction, and what `raise` added.
class FlagsKept {
 public:
  FlagsKept() : flags_(std::fetestexcept(FE_ALL_EXCEPT)) {}
  ~FlagsKept() {
    std::feclearexcept(FE_ALL_EXCEPT);
    if (flags_) std::feraiseexcept(flags_);
  }
  FlagsKept(const FlagsKept&) = delete;
  FlagsKept& operator=(const FlagsKept&) = delete;

  void raise(int flags) { flags_ |= flags; }

 private:
  int flags_;
};

}  // namespace npublas
