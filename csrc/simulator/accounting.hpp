// # Accounting
// What is alive, what was alive at most, and how often each function was called; and the limits
// that the device and the process set. Every buffer, context and descriptor is taken here before it
// exists and given back when it is gone, so that the counts cannot drift from the truth.
#pragma once

#include <cstdint>
#include <string_view>

#include "report.hpp"

namespace npublas::simulator {

/// The vendor's functions, in the order of their counters.
enum class Function {
  matmul_create,
  matmul_create_dynamic_shape,
  matmul_set_io_mem,
  matmul_set_core_mask,
  matmul_set_quant_params,
  matmul_get_quant_params,
  matmul_set_dynamic_shape,
  matmul_run,
  matmul_destroy,
  b_normal_to_native,
  create_mem,
  create_mem2,
  create_mem_from_fd,
  create_mem_from_phys,
  destroy_mem,
  mem_sync,
  query,
  destroy,
};
inline constexpr int kFunctions = int(Function::destroy) + 1;
const char* name_of(Function function);

enum class Counter {
  contexts,       // alive
  buffers,        // alive, the two that each context has for itself included
  bytes,          // of those buffers, rounded up to pages
  fds,            // one per buffer, and what leaked
  imports,        // foreign buffers that are mapped
  contexts_peak,  // the most of each since the last reset
  buffers_peak,
  bytes_peak,
  fds_peak,
  allocations,  // since the last reset, as everything below
  runs,         // that computed something
  runs_core_0,  // of those, by the context's mask
  runs_core_1,
  runs_core_2,
  runs_core_auto,
  runs_at_once_peak,
  operations,      // 2*m*k*n of each run
  busy_ns_core_0,  // of timed runs, from start to end
  busy_ns_core_1,
  busy_ns_core_2,
  streamed_bytes,      // by timed runs
  host_ns,             // that cache syncs, binds and creates took
  managed_during_run,  // create, destroy, allocate, free or bind B while some run was on
  stale_inputs,        // strict mode: runs whose A or native B was written but not synced
  leaked_fds,          // by memories without a context, as the vendor's runtime leaks them
  faults,              // fired
  violations,          // of all kinds
  violations_out_of_bounds,
  violations_unbound,
  violations_stale_handle,
  violations_concurrent,
  violations_misuse,
};
inline constexpr int kCounters = int(Counter::violations_misuse) + 1;

/// False if no counter has this name. Functions have counters too, under their full names.
bool counter(std::string_view name, std::int64_t& value);
/// Null past the last.
const char* counter_name(int index);
/// Zeros everything but what is alive; peaks start again from there.
void reset_counters();

void count_call(Function function);
void count_violation(Violation kind);
void add(Counter counter, std::int64_t amount = 1);

// Each take is refused, with a log line and nothing counted, when it would pass a limit.
constexpr int kDomains = 16;  // IOMMU domains; the window is per domain
bool take_context();
void give_context();
bool take_buffer(std::int64_t bytes, int domain, bool with_fd);
void give_buffer(std::int64_t bytes, int domain, bool with_fd);

/// A run in progress.
class Running {
 public:
  Running();
  ~Running();
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
};
/// To be called by what drivers before 0.9.8 don't survive beside a run.
void note_management();

}  // namespace npublas::simulator
