// # Reports
// What the simulator says on stderr, and the violations that it counts: things that a program does
// to the runtime which the runtime does not check, and which on a board would read or write
// somebody else's memory, use freed memory, or crash.
#pragma once

#include <string>

namespace npublas::simulator {

enum class Violation {
  out_of_bounds,  ///< the NPU would have read or written past a buffer
  unbound,        ///< run without A, B or C
  stale_handle,   ///< a context or memory that is not (or no longer) alive
  concurrent,     ///< two threads in one context
  misuse,         ///< anything else that a board would not have survived or would have got wrong
};
inline constexpr int kViolations = int(Violation::misuse) + 1;

/// One line on stderr, always.
[[gnu::format(printf, 1, 2)]] void say(const char* format, ...);
/// One line on stderr unless the setting `log` is 0: what the vendor's runtime logs too.
[[gnu::format(printf, 1, 2)]] void log(const char* format, ...);
/// Says it and counts it.
[[gnu::format(printf, 2, 3)]] void violation(Violation kind, const char* format, ...);

/// The text of the latest violation; empty if there was none.
std::string last_violation();
void forget_violations();

}  // namespace npublas::simulator
