// # The open engine
// What `multiply` needs of it, and whoever opens, closes and reports. Freed by whoever has it last:
// a product under way keeps the engine that it began with.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>

#include "npublas/engine/engine.hpp"
#include "npublas/exec/device_lock.hpp"
#include "npublas/exec/executor.hpp"

namespace npublas {

/// What an open engine has. Freed in the reverse order.
struct Engine {
  EngineOptions options;
  std::shared_ptr<device::Runtime> runtime;
  std::string fingerprint;
  std::array<exec::Verdict, kElements> verdicts;
  std::unique_ptr<exec::DeviceLock> lock;
  std::unique_ptr<exec::Executor> executor;
  std::uint64_t retries = 0;  // both under Opened::fields
  std::string last_retry;
};

/// Everything that a forked child must not inherit.
struct Opened {
  std::shared_mutex use;  // held shared by products, and alone to open and close
  std::mutex fields;      // guards what follows, for moments only: reports never wait for a product
  std::shared_ptr<Engine> engine;
  std::string unavailable_because;
  std::string given_up_because;  // a thread hangs in the driver: never opened again

  std::shared_ptr<Engine> get() {
    const std::lock_guard lock(fields);
    return engine;
  }
  void set(std::shared_ptr<Engine> next) {
    const std::lock_guard lock(fields);
    engine.swap(next);
  }
};

/// Never destroyed: workers may outlive main. A forked child has another one.
Opened& opened() noexcept;

/// Nothing of the engine can be freed any more, and the device isn't opened again.
void give_up(std::shared_ptr<Engine> engine, const std::string& because);

}  // namespace npublas
