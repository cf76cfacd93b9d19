// # Environment variables
// Read when they are needed, never kept; a malformed value is an error that lists the right ones.
#pragma once

#include <cstdlib>
#include <string>

#include "npublas/base/error.hpp"

namespace npublas {

/// The value of a variable, empty if it isn't set.
inline std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// True for "1", false for "0" or nothing; anything else is an error, not a guess.
inline bool environment_flag(const char* name) {
  const std::string value = environment(name);
  if (value.empty() || value == "0") return false;
  if (value == "1") return true;
  throw Error(ErrorKind::argument, std::string(name) + "=" + value + ": write 1 or 0.");
}

}  // namespace npublas
