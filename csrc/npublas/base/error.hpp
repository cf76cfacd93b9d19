// # Errors
// What can go wrong with the NPU, as one exception with a kind. A message says which call failed,
// with which values, and what to do; Python turns the kind into a class of its error tree.
#pragma once

#include <stdexcept>
#include <string>

namespace npublas {

enum class ErrorKind {
  unavailable,  ///< no NPU that can be used: no driver, no runtime, no permission, too old, ...
  memory,       ///< the window, the device or the file descriptors are exhausted
  timeout,      ///< a run did not come back in time
  result,       ///< the device answered, and the answer is wrong
  device,       ///< a call to the runtime failed
  file,         ///< a file of weights was altered or cut, or can't be read
  argument,  ///< the caller asked for something that cannot be (a defect of npublas, or bad input)
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace npublas
