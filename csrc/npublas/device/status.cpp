// # Status codes
// The only place that knows what the runtime's numbers mean, and what can be done about them.
#include <chrono>
#include <string>

#include "npublas/device/runtime.hpp"

namespace npublas::device {
namespace {

struct Meaning {
  int status;
  ErrorKind kind;
  const char* words;
  const char* remedy;
};

// Just below the driver's 6 s.
constexpr std::chrono::seconds kGivenUp{5};

constexpr const char* kSeeDriver =
    "Look at `dmesg | grep -i rknpu`; driver 0.9.8 cured many such failures, `npublas info` names "
    "yours.";
constexpr const char* kReport =
    "The shape is within the documented limits, so please report it with the output of `npublas "
    "info`.";
constexpr const char* kWrongChip =
    "Install the librknnrt.so that belongs to this board's chip and driver; `npublas info` names "
    "them.";

constexpr Meaning kMeanings[] = {
    {abi::kFail, ErrorKind::device, "the driver or the hardware refused", kSeeDriver},
    {abi::kTimeout, ErrorKind::timeout, "the NPU did not answer in time", kSeeDriver},
    {abi::kDeviceUnavailable, ErrorKind::unavailable, "there is no device",
     "`npublas info` names the cause."},
    {abi::kMallocFail, ErrorKind::memory, "the NPU's memory is exhausted",
     "Close other programs that use the NPU, or lower NPUBLAS_MEMORY_LIMIT."},
    {abi::kParamInvalid, ErrorKind::device, "the runtime does not take these parameters", kReport},
    {abi::kModelInvalid, ErrorKind::device, "model invalid", kReport},
    {abi::kContextInvalid, ErrorKind::device, "the context is not valid any more",
     "The device was lost or reset. npublas makes its contexts anew and tries once more; if that "
     "fails too, restart the program."},
    {abi::kInputInvalid, ErrorKind::device, "input invalid", kReport},
    {abi::kOutputInvalid, ErrorKind::device, "output invalid", kReport},
    {abi::kDeviceUnmatch, ErrorKind::unavailable, "runtime and driver do not fit", kWrongChip},
    {abi::kPreCompiledUnmatch, ErrorKind::device, "precompiled model does not fit", kReport},
    {abi::kOptimizationUnmatch, ErrorKind::device, "optimization level does not fit", kReport},
    {abi::kPlatformUnmatch, ErrorKind::unavailable, "the runtime is for another chip", kWrongChip},
};

const Meaning& meaning_of(int status) {
  static constexpr Meaning unknown = {0, ErrorKind::device, "a status that is not documented",
                                      kSeeDriver};
  for (const Meaning& meaning : kMeanings) {
    if (meaning.status == status) return meaning;
  }
  return unknown;
}

}  // namespace

ErrorKind kind_of(int status) { return meaning_of(status).kind; }

int status_of_run(int status, std::chrono::steady_clock::duration took) {
  return status == abi::kFail && took >= kGivenUp ? int(abi::kTimeout) : status;
}

std::string describe(int status, const char* call, const std::string& what) {
  const Meaning& meaning = meaning_of(status);
  return std::string(call) + "(" + what + ") failed with " + std::to_string(status) + ": " +
         meaning.words + ". " + meaning.remedy;
}

void check(int status, const char* call, const std::string& what) {
  // Success is 0; a positive status has not been seen, and is no success either.
  if (status != abi::kSuccess) throw Error(kind_of(status), describe(status, call, what));
}

}  // namespace npublas::device
