// # The window
// The share of NPU memory that npublas allows itself. It bounds bytes, contexts and file
// descriptors together (each buffer is one descriptor, each context two and two pages), and keeps
// what was used for the next product: the least recently used idle buffer or context makes room for
// a new one. Tiles of weights are buffers with a name: whoever asks for one finds it filled, and
// several may use it at once.
#pragma once

#include <compare>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

#include "npublas/device/context.hpp"

namespace npublas::exec {

struct WindowLimits {
  std::size_t bytes = std::size_t(1) << 30;
  int contexts = 96;  ///< librknnrt fails at about 150 live contexts; stay well below
  int files = 512;    ///< half of the usual limit of 1024 for a process
};

struct WindowUsage {
  std::size_t bytes = 0, peak_bytes = 0;
  std::size_t weight_bytes = 0, pinned_bytes = 0;  ///< of `bytes`: tiles of weights
  int contexts = 0, memories = 0, files = 0;
  std::uint64_t weights_filled = 0, weights_found = 0;  ///< tiles that were asked for
  std::uint64_t memories_created = 0, contexts_created = 0, evictions = 0;
  std::uint64_t contexts_unpinned = 0;  ///< whose core mask the runtime refused
};

/// A surface of a tile of weights.
struct WeightKey {
  enum class Part : std::uint8_t { high, low, unpacked };
  std::uint64_t weights = 0;  ///< Weights::id
  std::int64_t tile = 0;
  Part part = Part::high;
  auto operator<=>(const WeightKey&) const = default;
};

class Window {
  struct Entry;

 public:
  Window(std::shared_ptr<device::Runtime> runtime, const WindowLimits& limits);
  ~Window();
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  /// A buffer or a context on loan; it goes back to the window, idle but kept, when the loan ends.
  template <typename T>
  class Loan {
   public:
    Loan(Window* window, Entry* entry, T* thing) : window_(window), entry_(entry), thing_(thing) {}
    Loan(Loan&& other) noexcept
        : window_(other.window_),
          entry_(std::exchange(other.entry_, nullptr)),
          thing_(other.thing_) {}
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    ~Loan() {
      if (entry_) window_->give_back(entry_);
    }
    T& operator*() const { return *thing_; }
    T* operator->() const { return thing_; }

   private:
    Window* window_;
    Entry* entry_;
    T* thing_;
  };

  /// A buffer of at least `bytes`. Throws Error(memory) if what is on loan leaves no room for it,
  /// or if the device has none even after everything idle was freed.
  Loan<device::Memory> memory(std::size_t bytes);
  /// The context for this type, shape and core.
  Loan<device::Context> context(device::Type type, const device::ContextShape& shape, int core);

  /// The surface of weights with this name, which `fill` has written and synced if it wasn't there.
  /// A pinned one makes room for others only where there is none left else; all of them take half
  /// of the window at most.
  Loan<device::Memory> weight(const WeightKey& key, std::size_t bytes, bool pin,
                              const std::function<void(device::Memory&)>& fill);
  /// Frees what is idle of the weights, and unpins the rest.
  void forget(std::uint64_t weights);

  /// Frees everything idle; if that is all there is, also the context that memories come from.
  void clear();
  const WindowLimits& limits() const { return limits_; }
  WindowUsage usage() const;

 private:
  template <typename T, typename... Arguments>
  std::unique_ptr<T> make(const Arguments&... arguments);
  void give_back(Entry* entry);
  void evict(std::list<std::unique_ptr<Entry>>::iterator entry);
  bool evict_one(bool pinned = false);
  void make_room(std::size_t bytes, int files, int contexts);
  Entry& admit(std::unique_ptr<Entry> entry);

  std::shared_ptr<device::Runtime> runtime_;
  WindowLimits limits_;
  mutable std::mutex mutex_;
  std::condition_variable filled_;             // a weight, or not
  std::list<std::unique_ptr<Entry>> entries_;  // most recently used first
  WindowUsage usage_;
};

}  // namespace npublas::exec
