// # Trust
// What the engine has learnt about the device while it is open, in atomics that a decision reads
// without a lock: types that failed their self-test are off, and a device that fails product after
// product is left alone for a while.
#pragma once

#include <string>

#include "npublas/math/layout.hpp"

namespace npublas::trust {

void reset();

void turn_off(Element element);
bool is_off(Element element) noexcept;

void note_success() noexcept;
/// After three products in a row the device is quarantined, for 1 s, then 2, 4, ... 64 s.
void note_failure(const std::string& what);
bool quarantined() noexcept;
std::string last_failure();

/// Another process holds the NPU: for a second, only those who demand the NPU ask again.
void note_busy() noexcept;
bool busy() noexcept;

/// For a forked child: forgets everything, without touching locks that may be held.
void restart_after_fork();

}  // namespace npublas::trust
