// # A thread of its own
// The driver gives the thread that creates a context a nice value of -19, and threads that it
// starts later inherit that. So contexts are created on a thread that ends right afterwards.
#pragma once

#include <exception>
#include <system_error>
#include <thread>

#include "npublas/base/error.hpp"

namespace npublas::device {

/// Calls `work` on a new thread and waits for it; what it throws is thrown here.
template <typename Work>
void run_on_own_thread(Work&& work) {
  std::exception_ptr failure;
  try {
    std::thread thread([&] {
      try {
        work();
      } catch (...) {
        failure = std::current_exception();
      }
    });
    thread.join();
  } catch (const std::system_error& error) {
    throw Error(ErrorKind::device, std::string("no thread could be started to create a context (") +
                                       error.what() + "): raise the limit of `ulimit -u`.");
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace npublas::device
