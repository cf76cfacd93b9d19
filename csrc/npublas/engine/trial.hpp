// # The trial of a device
// Before an engine is open, each of its cores computes products of known answer, for each type. On
// a thread of its own, because a runtime may hang in them.
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <optional>

#include "npublas/device/runtime.hpp"
#include "npublas/exec/selftest.hpp"
#include "npublas/math/layout.hpp"

namespace npublas {

using Verdicts = std::array<exec::Verdict, kElements>;  ///< by Element

/// The first calls that need the device; tried again if they fail, like any product's.
void learn_driver(device::Runtime& runtime);

/// What the first `cores` cores showed, of each type what all of them did. Nothing if they did not
/// come back.
std::optional<Verdicts> try_device(std::shared_ptr<device::Runtime> runtime, int cores,
                                   std::chrono::milliseconds patience);

}  // namespace npublas
