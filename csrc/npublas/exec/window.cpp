#include "npublas/exec/window.hpp"

#include <algorithm>
#include <iterator>
#include <string>

#include "npublas/base/error.hpp"
#include "npublas/base/integers.hpp"
#include "npublas/math/plan.hpp"

namespace npublas::exec {

struct Window::Entry {
  std::unique_ptr<device::Memory> memory;  // one of the two
  std::unique_ptr<device::Context> context;
  WeightKey key;  // of weights; 0 of everything else
  std::size_t bytes = 0;
  int files = 0;
  int loans = 1;
  bool pinned = false;
  bool filling = false;  // weights: on loan to whoever fills it, and nobody else yet

  bool is_weight() const { return key.weights != 0; }
};

namespace {

constexpr int kFilesOfContext = 2;

std::string mebibytes(std::size_t bytes) {
  return std::to_string((bytes + (1u << 20) - 1) >> 20) + " MiB";
}

}  // namespace

Window::Window(std::shared_ptr<device::Runtime> runtime, const WindowLimits& limits)
    : runtime_(std::move(runtime)), limits_(limits) {
  // The small context through which the runtime allocates is there before anything else.
  usage_.bytes = usage_.peak_bytes = kContextBytes;
  usage_.files = kFilesOfContext;
  usage_.contexts = 1;
}

Window::~Window() = default;

/// Makes a memory or a context; if the device has no room, once more after everything idle is
/// freed.
template <typename T, typename... Arguments>
std::unique_ptr<T> Window::make(const Arguments&... arguments) {
  try {
    return std::make_unique<T>(runtime_, arguments...);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::memory) throw;
  }
  while (evict_one() || evict_one(true)) {
  }
  return std::make_unique<T>(runtime_, arguments...);
}

Window::Loan<device::Memory> Window::memory(std::size_t bytes) {
  const std::size_t size =
      std::size_t(round_up(std::int64_t(std::max<std::size_t>(bytes, 1)), std::int64_t(kPage)));
  const std::lock_guard lock(mutex_);
  // Of exactly this size: a larger one, lent out, would be missing where the plan has counted on
  // it. The one that was used longest ago: so a product that is repeated finds each of its buffers
  // in the role that it had, and needs to bind fewer.
  for (auto it = entries_.end(); it != entries_.begin();) {
    --it;
    Entry& entry = **it;
    if (entry.memory && !entry.is_weight() && entry.loans == 0 && entry.bytes == size) {
      entry.loans = 1;
      entries_.splice(entries_.begin(), entries_, it);
      return {this, &entry, entry.memory.get()};
    }
  }
  make_room(size, 1, 0);
  auto entry = std::make_unique<Entry>();
  entry->bytes = size;
  entry->files = 1;
  entry->memory = make<device::Memory>(size);
  ++usage_.memories;
  ++usage_.memories_created;
  Entry& admitted = admit(std::move(entry));
  return {this, &admitted, admitted.memory.get()};
}

Window::Loan<device::Context> Window::context(device::Type type, const device::ContextShape& shape,
                                              int core) {
  const std::lock_guard lock(mutex_);
  for (auto it = entries_.end(); it != entries_.begin();) {
    --it;
    Entry& entry = **it;
    if (entry.context && entry.loans == 0 && entry.context->type() == type &&
        entry.context->core() == core && entry.context->shape() == shape) {
      entry.loans = 1;
      entries_.splice(entries_.begin(), entries_, it);
      return {this, &entry, entry.context.get()};
    }
  }
  make_room(kContextBytes, kFilesOfContext, 1);
  auto entry = std::make_unique<Entry>();
  entry->bytes = kContextBytes;
  entry->files = kFilesOfContext;
  entry->context = make<device::Context>(type, shape, core);
  if (!entry->context->pinned()) ++usage_.contexts_unpinned;
  ++usage_.contexts;
  ++usage_.contexts_created;
  Entry& admitted = admit(std::move(entry));
  return {this, &admitted, admitted.context.get()};
}

Window::Entry& Window::admit(std::unique_ptr<Entry> entry) {
  usage_.bytes += entry->bytes;
  usage_.files += entry->files;
  usage_.peak_bytes = std::max(usage_.peak_bytes, usage_.bytes);
  entries_.push_front(std::move(entry));
  return *entries_.front();
}

void Window::give_back(Entry* entry) {
  const std::lock_guard lock(mutex_);
  --entry->loans;
}

void Window::evict(std::list<std::unique_ptr<Entry>>::iterator it) {
  const Entry& entry = **it;
  usage_.bytes -= entry.bytes;
  usage_.files -= entry.files;
  if (entry.is_weight()) usage_.weight_bytes -= entry.bytes;
  if (entry.pinned) usage_.pinned_bytes -= entry.bytes;
  --(entry.context ? usage_.contexts : usage_.memories);
  entries_.erase(it);
}

bool Window::evict_one(bool pinned) {
  for (auto it = entries_.rbegin(); it != entries_.rend(); ++it) {
    if ((*it)->loans > 0 || (*it)->pinned != pinned) continue;
    evict(std::next(it).base());
    ++usage_.evictions;
    return true;
  }
  return false;
}

Window::Loan<device::Memory> Window::weight(const WeightKey& key, std::size_t bytes, bool pin,
                                            const std::function<void(device::Memory&)>& fill) {
  const std::size_t size = std::size_t(round_up(std::int64_t(bytes), std::int64_t(kPage)));
  std::unique_lock lock(mutex_);
  for (auto it = entries_.begin(); it != entries_.end();) {
    Entry& entry = **it;
    if (!entry.is_weight() || entry.key != key) {
      ++it;
      continue;
    }
    if (entry.filling) {  // somebody else does; it may come to nothing
      filled_.wait(lock);
      it = entries_.begin();
      continue;
    }
    ++entry.loans;
    ++usage_.weights_found;
    entries_.splice(entries_.begin(), entries_, it);
    return {this, &entry, entry.memory.get()};
  }
  make_room(size, 1, 0);
  auto entry = std::make_unique<Entry>();
  entry->key = key;
  entry->bytes = size;
  entry->files = 1;
  entry->memory = make<device::Memory>(size);
  entry->pinned = pin && usage_.pinned_bytes + size <= limits_.bytes / 2;
  entry->filling = true;
  if (entry->pinned) usage_.pinned_bytes += size;
  usage_.weight_bytes += size;
  ++usage_.memories;
  ++usage_.memories_created;
  ++usage_.weights_filled;
  Entry& admitted = admit(std::move(entry));
  lock.unlock();
  try {
    fill(*admitted.memory);
  } catch (...) {
    lock.lock();
    const auto is_it = [&](const auto& other) { return other.get() == &admitted; };
    evict(std::find_if(entries_.begin(), entries_.end(), is_it));
    filled_.notify_all();
    throw;
  }
  lock.lock();
  admitted.filling = false;
  filled_.notify_all();
  return {this, &admitted, admitted.memory.get()};
}

void Window::forget(std::uint64_t weights) {
  const std::lock_guard lock(mutex_);
  for (auto it = entries_.begin(); it != entries_.end();) {
    const auto next = std::next(it);
    Entry& entry = **it;
    if (entry.key.weights == weights) {
      if (entry.pinned) usage_.pinned_bytes -= entry.bytes;
      entry.pinned = false;
      if (entry.loans == 0) evict(it);
    }
    it = next;
  }
}

void Window::make_room(std::size_t bytes, int files, int contexts) {
  while (usage_.bytes + bytes > limits_.bytes || usage_.files + files > limits_.files ||
         usage_.contexts + contexts > limits_.contexts) {
    if (!evict_one() && !evict_one(true))
      throw Error(ErrorKind::memory,
                  "no room for " + mebibytes(bytes) +
                      " in the NPU window: " + mebibytes(usage_.bytes) + " of " +
                      mebibytes(limits_.bytes) + ", " + std::to_string(usage_.files) + " of " +
                      std::to_string(limits_.files) + " file descriptors and " +
                      std::to_string(usage_.contexts) + " of " + std::to_string(limits_.contexts) +
                      " contexts are in use. Raise memory_limit (NPUBLAS_MEMORY_LIMIT), or use "
                      "fewer cores.");
  }
}

void Window::clear() {
  const std::lock_guard lock(mutex_);
  while (evict_one() || evict_one(true)) {
  }
  if (entries_.empty()) runtime_->renew_allocator();
}

WindowUsage Window::usage() const {
  const std::lock_guard lock(mutex_);
  return usage_;
}

}  // namespace npublas::exec
