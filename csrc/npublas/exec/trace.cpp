#include "npublas/exec/trace.hpp"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <utility>

namespace npublas::trace {

// Counts up with every time that recording begins, and is 0 in between. An event belongs to the
// generation in which it began: one that ends in another is dropped.
std::atomic<std::uint64_t> generation{0};

namespace {

constexpr auto relaxed = std::memory_order_relaxed;

std::int64_t cpu_now() noexcept {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return std::int64_t(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

/// A list that one thread appends to while others read what is complete. Grows by chunks.
template <typename T>
class Log {
  static_assert(std::is_trivially_copyable_v<T>);
  static constexpr std::size_t kChunk = 256;
  struct Chunk {
    std::array<T, kChunk> entries;
    std::atomic<std::size_t> size{0};
    std::atomic<Chunk*> next{nullptr};
  };

 public:
  ~Log() { clear(); }

  /// False if there was no memory.
  bool append(const T& entry) noexcept {
    if (!last_ || last_->size.load(relaxed) == kChunk) {
      auto* const chunk = new (std::nothrow) Chunk;
      if (!chunk) return false;
      (last_ ? last_->next : first_).store(chunk, std::memory_order_release);
      last_ = chunk;
    }
    const std::size_t size = last_->size.load(relaxed);
    last_->entries[size] = entry;
    last_->size.store(size + 1, std::memory_order_release);
    return true;
  }

  /// What has begun since `begin`.
  void copy_to(std::vector<T>& to, std::int64_t begin) const {
    for (const Chunk* chunk = first_.load(std::memory_order_acquire); chunk;
         chunk = chunk->next.load(std::memory_order_acquire)) {
      const std::size_t size = chunk->size.load(std::memory_order_acquire);
      for (std::size_t i = 0; i < size; ++i)
        if (chunk->entries[i].begin >= begin) to.push_back(chunk->entries[i]);
    }
  }

  /// Only while nobody appends.
  void clear() {
    const Chunk* chunk = first_.exchange(nullptr, relaxed);
    last_ = nullptr;
    while (chunk) delete std::exchange(chunk, chunk->next.load(relaxed));
  }

 private:
  std::atomic<Chunk*> first_{nullptr};
  Chunk* last_ = nullptr;  // of whoever appends
};

/// What one thread notes. It outlives the thread, so that nothing of it is lost.
struct Buffer {
  Thread thread;
  // Set while the thread appends: whoever frees the logs has ended the generation before, and
  // waits for the last append that did not see it.
  std::atomic<bool> appending{false};
  Log<Event> events;
  Log<ProductNote> products;
};

/// The product that a thread is at.
struct Current {
  std::uint64_t generation = 0, product = 0;
  std::int64_t begin = 0, cpu_begin = 0;
  std::int8_t method = -1;
};

struct Registry {
  std::mutex mutex;
  std::vector<std::shared_ptr<Buffer>> buffers;  // of threads that have noted something
  int recordings = 0;
  std::uint64_t generations = 0;
  std::int16_t threads = 0;
  std::atomic<std::uint64_t> events{0}, products{0}, dropped{0};
  std::atomic<std::uint64_t> next_product{1};
};

Registry* make_registry();
Registry* registry = make_registry();  // never destroyed: threads may outlive everything else

/// A forked child has one thread, and records nothing until it is asked to.
void restart_after_fork() {
  generation = 0;
  registry = new Registry;
}

Registry* make_registry() {
  ::pthread_atfork(nullptr, nullptr, restart_after_fork);
  return new Registry;
}

struct Mine {
  const Registry* of = nullptr;  // to know that the process was forked
  std::shared_ptr<Buffer> buffer;
  Current current;
};
thread_local Mine mine;

Buffer& my_buffer() {
  if (mine.of != registry) {
    auto buffer = std::make_shared<Buffer>();
    char name[16] = "";
    ::pthread_getname_np(::pthread_self(), name, sizeof name);
    const std::lock_guard lock(registry->mutex);
    buffer->thread = {.number = registry->threads++, .name = name};
    registry->buffers.push_back(buffer);
    mine = {.of = registry, .buffer = std::move(buffer), .current = mine.current};
  }
  return *mine.buffer;
}

/// Appends what `fill` makes, if the generation has not ended and there is room.
template <typename T, typename Fill>
void append(Log<T> Buffer::* log, std::atomic<std::uint64_t>& count, std::size_t most,
            std::uint64_t of_generation, const Fill& fill) noexcept {
  try {
    Buffer& buffer = my_buffer();
    buffer.appending.store(true);
    if (generation.load() == of_generation &&
        (count.fetch_add(1, relaxed) >= most || !(buffer.*log).append(fill(buffer.thread.number))))
      registry->dropped.fetch_add(1, relaxed);
    buffer.appending.store(false, std::memory_order_release);
  } catch (...) {  // no memory for a buffer
    registry->dropped.fetch_add(1, relaxed);
  }
}

// Busy cores. A run that was queued behind another counts from the other's end.
struct Core {
  std::atomic<std::int64_t> busy{0}, until{0};
};
std::array<Core, kMostCores> cores;
std::atomic<std::int64_t> first_run{0};

void note_busy(int core, std::int64_t begin, std::int64_t end) noexcept {
  if (core < 0 || core >= kMostCores) return;
  std::int64_t none = 0;
  first_run.compare_exchange_strong(none, begin, relaxed);
  Core& of = cores[std::size_t(core)];
  std::int64_t until = of.until.load(relaxed);
  while (until < end && !of.until.compare_exchange_weak(until, end, relaxed)) {
  }
  if (until < end) of.busy.fetch_add(end - std::max(begin, until), relaxed);
}

}  // namespace

std::int64_t now() noexcept {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

void note(std::uint64_t of_generation, const Event& event) noexcept {
  append(&Buffer::events, registry->events, kMostEvents, of_generation, [&](std::int16_t thread) {
    Event complete = event;
    if (complete.track.number == Track::kHere) complete.track.number = thread;
    return complete;
  });
}

Run::Run(int core, Element element, std::uint64_t product, std::uint64_t bytes, std::uint64_t flops)
    : generation_(generation.load(relaxed)),
      event_{now(), 0, product, bytes, flops, Act::run, std::uint8_t(element), trace::core(core)} {}

Run::~Run() {
  event_.end = now();
  note_busy(event_.track.core(), event_.begin, event_.end);
  if (generation_ != 0) note(generation_, event_);
}

void name_this_thread(const std::string& name) noexcept {
  ::pthread_setname_np(::pthread_self(), name.substr(0, 15).c_str());
}

void begin_product_now() noexcept {
  mine.current = {.generation = generation.load(relaxed),
                  .product = registry->next_product.fetch_add(1, relaxed),
                  .begin = now(),
                  .cpu_begin = cpu_now()};
}

std::uint64_t this_product_now() noexcept {
  return mine.current.generation == generation.load(relaxed) ? mine.current.product : 0;
}

void note_method_now(Method method) noexcept { mine.current.method = std::int8_t(method); }

void end_product_now(const Shape& shape, DType dtype, std::uint8_t reason, bool fallback,
                     bool simulated, double seconds) noexcept {
  const Current current = std::exchange(mine.current, {});
  const std::uint64_t of_generation = generation.load(relaxed);
  if (of_generation == 0) return;
  const bool known = current.generation == of_generation;
  const std::int64_t end = now();
  ProductNote product{
      .product = known ? current.product : 0,
      .begin = known ? current.begin : end - std::int64_t(seconds * 1e9),
      .end = end,
      .cpu_nanoseconds = known ? cpu_now() - current.cpu_begin : 0,
      .shape = shape,
      .dtype = dtype,
      .reason = reason,
      .fallback = fallback,
      .simulated = simulated,
      .method = known ? current.method : std::int8_t(-1),
  };
  append(&Buffer::products, registry->products, kMostProducts, of_generation,
         [&](std::int16_t thread) {
           product.thread = thread;
           return product;
         });
}

Recording::Recording() : of_(registry), begin_(0), cpu_begin_(cpu_now()) {
  const std::lock_guard lock(registry->mutex);
  dropped_ = registry->dropped.load(relaxed);
  begin_ = now();
  if (registry->recordings++ == 0) generation.store(++registry->generations);
}

Recording::~Recording() { stop(); }

Recorded Recording::stop() {
  Recorded recorded;
  if (std::exchange(of_, nullptr) != registry) return recorded;
  recorded.cpu_nanoseconds = cpu_now() - cpu_begin_;
  recorded.begin = begin_;
  const std::lock_guard lock(registry->mutex);
  recorded.end = now();
  const bool is_last = --registry->recordings == 0;
  if (is_last) generation.store(0);
  for (const auto& buffer : registry->buffers) {
    while (is_last && buffer->appending.load()) std::this_thread::yield();
    const std::size_t events = recorded.events.size(), products = recorded.products.size();
    buffer->events.copy_to(recorded.events, begin_);
    buffer->products.copy_to(recorded.products, begin_);
    if (recorded.events.size() + recorded.products.size() > events + products)
      recorded.threads.push_back(buffer->thread);
    if (is_last) {
      buffer->events.clear();
      buffer->products.clear();
    }
  }
  recorded.dropped = registry->dropped.load(relaxed) - dropped_;
  if (is_last) {
    registry->events = 0;
    registry->products = 0;
    std::erase_if(registry->buffers, [](const auto& buffer) { return buffer.use_count() == 1; });
  }
  const auto by_beginning = [](const auto& a, const auto& b) { return a.begin < b.begin; };
  std::stable_sort(recorded.events.begin(), recorded.events.end(), by_beginning);
  std::stable_sort(recorded.products.begin(), recorded.products.end(), by_beginning);
  return recorded;
}

Busy busy() noexcept {
  Busy busy{};
  for (std::size_t i = 0; i < kMostCores; ++i)
    busy.seconds[i] = double(cores[i].busy.load(relaxed)) * 1e-9;
  const std::int64_t first = first_run.load(relaxed);
  busy.since = first == 0 ? 0 : double(now() - first) * 1e-9;
  return busy;
}

void reset_busy() noexcept {
  for (Core& core : cores) core.busy.store(0, relaxed);
  first_run.store(0, relaxed);
}

}  // namespace npublas::trace
