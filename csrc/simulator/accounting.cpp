#include "accounting.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

#include "lock.hpp"
#include "settings.hpp"

namespace npublas::simulator {
namespace {

constexpr std::array<const char*, kFunctions> kFunctionNames = {
    "rknn_matmul_create",
    "rknn_matmul_create_dynamic_shape",
    "rknn_matmul_set_io_mem",
    "rknn_matmul_set_core_mask",
    "rknn_matmul_set_quant_params",
    "rknn_matmul_get_quant_params",
    "rknn_matmul_set_dynamic_shape",
    "rknn_matmul_run",
    "rknn_matmul_destroy",
    "rknn_B_normal_layout_to_native_layout",
    "rknn_create_mem",
    "rknn_create_mem2",
    "rknn_create_mem_from_fd",
    "rknn_create_mem_from_phys",
    "rknn_destroy_mem",
    "rknn_mem_sync",
    "rknn_query",
    "rknn_destroy",
};

constexpr std::array<const char*, kCounters> kCounterNames = {
    "contexts",
    "buffers",
    "bytes",
    "fds",
    "imports",
    "contexts_peak",
    "buffers_peak",
    "bytes_peak",
    "fds_peak",
    "allocations",
    "runs",
    "runs_core_0",
    "runs_core_1",
    "runs_core_2",
    "runs_core_auto",
    "runs_at_once_peak",
    "operations",
    "busy_ns_core_0",
    "busy_ns_core_1",
    "busy_ns_core_2",
    "streamed_bytes",
    "host_ns",
    "managed_during_run",
    "stale_inputs",
    "leaked_fds",
    "faults",
    "violations",
    "violations_out_of_bounds",
    "violations_unbound",
    "violations_stale_handle",
    "violations_concurrent",
    "violations_misuse",
};

std::array<std::atomic<std::int64_t>, kCounters> values;
std::array<std::atomic<std::int64_t>, kFunctions> calls;
std::atomic<std::int64_t> running{0};

Lock taking;  // a check against a limit and the taking are one step
std::array<std::int64_t, kDomains> domain_bytes;

std::atomic<std::int64_t>& at(Counter counter) { return values[int(counter)]; }

void raise_to(Counter peak, std::int64_t value) {
  std::int64_t seen = at(peak).load();
  while (seen < value && !at(peak).compare_exchange_weak(seen, value)) {
  }
}

}  // namespace

const char* name_of(Function function) { return kFunctionNames[int(function)]; }

bool counter(std::string_view name, std::int64_t& value) {
  for (int i = 0; i < kCounters; ++i) {
    if (name == kCounterNames[i]) return value = values[i].load(), true;
  }
  for (int i = 0; i < kFunctions; ++i) {
    if (name == kFunctionNames[i]) return value = calls[i].load(), true;
  }
  return false;
}

const char* counter_name(int index) {
  if (index < 0 || index >= kCounters + kFunctions) return nullptr;
  return index < kCounters ? kCounterNames[index] : kFunctionNames[index - kCounters];
}

void reset_counters() {
  const std::lock_guard lock(taking);
  at(Counter::contexts_peak) = at(Counter::contexts).load();
  at(Counter::buffers_peak) = at(Counter::buffers).load();
  at(Counter::bytes_peak) = at(Counter::bytes).load();
  at(Counter::fds_peak) = at(Counter::fds).load();
  for (int i = int(Counter::allocations); i < kCounters; ++i) {
    if (Counter(i) != Counter::leaked_fds) values[i] = 0;
  }
  for (std::atomic<std::int64_t>& count : calls) count = 0;
}

void count_call(Function function) { calls[int(function)].fetch_add(1); }

void count_violation(Violation kind) {
  add(Counter::violations);
  add(Counter(int(Counter::violations_out_of_bounds) + int(kind)));
}

void add(Counter counter, std::int64_t amount) { at(counter).fetch_add(amount); }

bool take_context() {
  const std::lock_guard lock(taking);
  if (at(Counter::contexts) >= get(Setting::context_limit)) {
    log("no more contexts: %lld are alive", (long long)at(Counter::contexts).load());
    return false;
  }
  add(Counter::contexts);
  raise_to(Counter::contexts_peak, at(Counter::contexts));
  return true;
}

void give_context() { add(Counter::contexts, -1); }

bool take_buffer(std::int64_t bytes, int domain, bool with_fd) {
  const std::lock_guard lock(taking);
  if (domain_bytes[domain] + bytes > get(Setting::window_bytes)) {
    log("failed to allocate %lld bytes: %lld of %lld in domain %d are in use, errno 12",
        (long long)bytes, (long long)domain_bytes[domain], (long long)get(Setting::window_bytes),
        domain);
    return false;
  }
  if (with_fd && at(Counter::fds) >= get(Setting::fd_limit)) {
    log("failed to convert handle to fd, errno 24");
    return false;
  }
  domain_bytes[domain] += bytes;
  add(Counter::buffers);
  add(Counter::bytes, bytes);
  add(with_fd ? Counter::fds : Counter::imports);
  if (with_fd) add(Counter::allocations);
  raise_to(Counter::buffers_peak, at(Counter::buffers));
  raise_to(Counter::bytes_peak, at(Counter::bytes));
  raise_to(Counter::fds_peak, at(Counter::fds));
  return true;
}

void give_buffer(std::int64_t bytes, int domain, bool with_fd) {
  const std::lock_guard lock(taking);
  domain_bytes[domain] -= bytes;
  add(Counter::buffers, -1);
  add(Counter::bytes, -bytes);
  add(with_fd ? Counter::fds : Counter::imports, -1);
}

Running::Running() { raise_to(Counter::runs_at_once_peak, running.fetch_add(1) + 1); }
Running::~Running() { running.fetch_sub(1); }

void note_management() {
  if (running.load() > 0) add(Counter::managed_during_run);
}

}  // namespace npublas::simulator
