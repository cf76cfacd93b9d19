// # Faults
// What can be made to go wrong, at the n-th chance from now, for a number of times or from then on.
// A fault that is armed twice is armed anew. They are off until something arms them.
#pragma once

#include <cstdint>
#include <string_view>

namespace npublas::simulator {

enum class Fault {
  enomem,          ///< an allocation: rknn_create_mem*, a context's own two, a normal B's copy
  create_failure,  ///< rknn_matmul_create*: -1
  refused_mask,    ///< rknn_matmul_set_core_mask: -1
  bind_failure,    ///< rknn_matmul_set_io_mem: -4, as seen when an import fails
  sync_failure,    ///< rknn_mem_sync: -1, nothing is moved
  submit_failure,  ///< rknn_matmul_run: -1 at once
  timeout,         ///< rknn_matmul_run: -1 after `timeout_ms`
  timeout_status,  ///< the same with -2, RKNN_ERR_TIMEOUT
  hang,            ///< rknn_matmul_run: blocks until released, then goes on as usual
  zeros,           ///< rknn_matmul_run: success, and C is all zero (runtime 2.2.0)
  lost_device,     ///< every function: -1 or NULL; what is given back is freed all the same
};
inline constexpr int kFaults = int(Fault::lost_device) + 1;

/// The fault of that name, or -1.
int find_fault(std::string_view name);
/// Null past the last.
const char* fault_name(int index);

/// Fires at the `nth` chance from now (1 is the next) and the `count - 1` after it; `count` 0 means
/// from then on. False if `nth` < 1 or `count` < 0.
bool arm(Fault fault, std::int64_t nth, std::int64_t count);
void disarm(Fault fault);
void disarm_all();
/// How often it has fired since it was armed.
std::int64_t fired(Fault fault);

/// A chance: true if it fires.
bool strikes(Fault fault);

/// Blocks as a run that never comes back, until `release_hung`.
void hang();
void release_hung();

}  // namespace npublas::simulator
