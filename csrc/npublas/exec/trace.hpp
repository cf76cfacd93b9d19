// # Tracing
// What happened when, for whoever asks. While nothing records, a span is one relaxed load and a
// branch. While something does, every thread notes what it did in a buffer of its own, without a
// lock, and the recording collects them at its end:
//
//   begin_product()                            the door: from here on this thread's product has a
//   number
//     Span span(Act::pack_a, here, product)    an act, from the constructor to the destructor
//     Run run(core, element, product, ...)     one run of the NPU, on the core's track
//   end_product(...)                           the door, once: what it was and what became of it
//
// A span must end before whoever waits for the work is told that it is done: a recording that has
// ended takes no more events.
//
// Buffers are bounded: kMostEvents events and kMostProducts products of all threads together; what
// comes beyond is dropped and counted. Recordings may nest and overlap, in any threads; each sees
// what all threads did while it was open.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "npublas/base/dtype.hpp"
#include "npublas/base/matrix.hpp"
#include "npublas/math/layout.hpp"
#include "npublas/math/method.hpp"

namespace npublas::trace {

enum class Act : std::uint8_t {
  decide,  ///< where the product is to run
  plan,
  pack_a,
  pack_b,
  wait,  ///< for others: a turn, a tile, a core
  run,   ///< on the NPU, its queue included
  unpack,
  sync,    ///< caches
  finish,  ///< bias, activation, rounding
  repair,  ///< elements that the CPU computes again
  cpu,     ///< a product, or what is left of it, on the CPU
};
inline constexpr int kActs = int(Act::cpu) + 1;

constexpr const char* name_of(Act act) {
  constexpr const char* names[kActs] = {"decide", "plan", "pack_a", "pack_b", "wait", "run",
                                        "unpack", "sync", "finish", "repair", "cpu"};
  return names[int(act)];
}

/// Where an act is drawn: on an NPU core, or on the thread that does it.
struct Track {
  std::int16_t number;  ///< threads from 0, cores from -1 downwards
  static constexpr std::int16_t kHere = 0x7fff;

  bool is_core() const { return number < 0; }
  int core() const { return -1 - number; }
};
inline constexpr Track here{Track::kHere};
constexpr Track core(int number) { return {std::int16_t(-1 - number)}; }

struct Event {
  std::int64_t begin, end;  ///< nanoseconds of CLOCK_MONOTONIC
  std::uint64_t product;    ///< 0: of none that is known
  std::uint64_t bytes;      ///< read and written
  std::uint64_t flops;      ///< of `run` and `cpu`: done, padding and split parts included
  Act act;
  std::uint8_t element;  ///< of `run`: what the NPU multiplied
  Track track;
};

/// A product that has ended.
struct ProductNote {
  std::uint64_t product;
  std::int64_t begin, end;
  std::int64_t cpu_nanoseconds;  ///< CPU time of the whole process between the two
  Shape shape;
  DType dtype;          ///< of the operands
  std::uint8_t reason;  ///< engine/product.hpp's
  bool fallback, simulated;
  std::int8_t method;   ///< a Method, or -1: it never came to the NPU
  std::int16_t thread;  ///< of the caller
};

inline constexpr std::size_t kMostEvents = std::size_t(1) << 19;  // 24 MiB
inline constexpr std::size_t kMostProducts = std::size_t(1) << 16;

/// The number of the present recordings, or 0 while there is none; see trace.cpp.
extern std::atomic<std::uint64_t> generation;

inline bool is_on() { return generation.load(std::memory_order_relaxed) != 0; }
std::int64_t now() noexcept;
/// Notes an event unless everything that recorded at its beginning has ended.
void note(std::uint64_t of_generation, const Event& event) noexcept;

/// An act of `product`, as long as it lives.
class Span {
 public:
  Span(Act act, Track track, std::uint64_t product, std::uint64_t bytes = 0,
       std::uint64_t flops = 0)
      : generation_(generation.load(std::memory_order_relaxed)) {
    if (generation_ != 0) [[unlikely]]
      event_ = {now(), 0, product, bytes, flops, act, 0, track};
  }
  ~Span() {
    if (generation_ != 0) [[unlikely]] {
      event_.end = now();
      note(generation_, event_);
    }
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;
  /// For what is known at the end only.
  void set_bytes(std::uint64_t bytes) { event_.bytes = bytes; }

 private:
  const std::uint64_t generation_;
  Event event_;  // undefined while nothing records
};

/// A run of the NPU, as long as it lives: noted as Act::run on the core's track, and always counted
/// as time in which the core was busy, for which it reads the clock twice.
class Run {
 public:
  Run(int core, Element element, std::uint64_t product, std::uint64_t bytes, std::uint64_t flops);
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

 private:
  const std::uint64_t generation_;
  Event event_;
};

/// Gives this thread a name, of at most 15 bytes, that traces and the system's tools show.
void name_this_thread(const std::string& name) noexcept;

// ## Products

void begin_product_now() noexcept;
std::uint64_t this_product_now() noexcept;
void note_method_now(Method method) noexcept;

/// A new product of this thread begins; one that was left without an end is forgotten.
inline void begin_product() noexcept {
  if (is_on()) [[unlikely]]
    begin_product_now();
}
/// The product that this thread is at, for spans; 0 if none is being recorded.
inline std::uint64_t this_product() noexcept { return is_on() ? this_product_now() : 0; }
/// How the NPU is to compute the product that this thread is at.
inline void note_method(Method method) noexcept {
  if (is_on()) [[unlikely]]
    note_method_now(method);
}
/// The product that this thread is at has ended. One that has no beginning took `seconds`.
void end_product_now(const Shape& shape, DType dtype, std::uint8_t reason, bool fallback,
                     bool simulated, double seconds) noexcept;

// ## Recording

struct Thread {
  std::int16_t number;
  std::string name;  ///< as the system knows it
};

struct Recorded {
  std::int64_t begin = 0, end = 0;
  std::int64_t cpu_nanoseconds = 0;  ///< of the whole process
  std::vector<Event> events;         ///< by their beginning
  std::vector<ProductNote> products;
  std::vector<Thread> threads;
  std::uint64_t dropped = 0;  ///< events and products that had no room
};

/// Records what all threads do from its constructor to `stop`, or its destructor.
class Recording {
 public:
  Recording();
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  /// What was recorded; a second time, nothing.
  Recorded stop();

 private:
  const void* of_;  // the registry, which a forked child has its own of; null once stopped
  std::int64_t begin_, cpu_begin_;
  std::uint64_t dropped_;
};

// ## Busy cores, recorded or not

inline constexpr int kMostCores = 8;

struct Busy {
  double seconds[kMostCores];  ///< in which a run was under way
  double since;                ///< seconds since the first run after the start or the reset
};
Busy busy() noexcept;
void reset_busy() noexcept;

}  // namespace npublas::trace
