// # A fake runtime's strings and switches
// The fakes answer what they are told to and count the calls. They compute nothing: whoever wants
// right numbers takes the simulator.
#pragma once

#include <cstddef>

namespace npublas::fake {

struct Control {
  // What the next calls answer, until it is changed.
  int create_status = 0;
  bool create_gives_null = false;  // success, and no context
  int create_shifts_dim = -1;      // 0, 1, 2: report A, B, C with another first dimension
  int create_adds_bytes = -1;      // 0, 1, 2: report A, B, C four bytes larger
  int set_core_mask_status = 0;
  int set_io_mem_status = 0;
  int run_status = 0;
  bool create_mem_fails = false;
  std::size_t create_mem_lacks = 0;  // bytes that are missing from the buffer
  int offset = 0;                    // of the data within the mapping
  int failing_syncs = 0;             // so many calls of rknn_mem_sync fail
  int query_status = 0;
  const char* api_version = nullptr;  // nullptr: as the file says
  const char* driver_version = "0.9.8";

  // What was called.
  int contexts = 0;  // alive
  int memories = 0;  // alive
  int creates = 0;
  int binds = 0;
  int runs = 0;
  int syncs_to_device = 0;
  int syncs_from_device = 0;
  int last_mask = -1;
  int nonzero_reserved_bytes = 0;  // in the infos that create got
  bool freed_through_dead_context = false;
  bool created_on_a_thread_of_its_own = true;  // not on the thread that reset the control
  bool overlapped = false;                     // create, alloc, free or bind while a run was on
};

}  // namespace npublas::fake
