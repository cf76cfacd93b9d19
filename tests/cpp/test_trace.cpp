// What is recorded of what threads do, and what isn't.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "npublas/exec/trace.hpp"

namespace npublas::trace {
namespace {

const Shape kShape{1, 2, 3, 4};

std::size_t count(const Recorded& recorded, Act act) {
  return std::size_t(std::count_if(recorded.events.begin(), recorded.events.end(),
                                   [act](const Event& event) { return event.act == act; }));
}

}  // namespace

TEST_CASE("nothing is recorded while nobody asks") {
  {
    const Span span(Act::plan, here, 1);
  }
  Recording recording;
  const Recorded recorded = recording.stop();
  CHECK(recorded.events.empty());
  CHECK(recorded.threads.empty());
  CHECK(recorded.begin <= recorded.end);
}

TEST_CASE("a span is recorded with its times, its track and what it moved") {
  Recording recording;
  {
    const Span span(Act::pack_a, here, 7, 100);
  }
  {
    Span span(Act::unpack, here, 7);
    span.set_bytes(50);
  }
  {
    const Run run(2, Element::float16, 7, 30, 1000);
  }
  const Recorded recorded = recording.stop();
  REQUIRE(recorded.events.size() == 3);
  const Event &pack = recorded.events[0], &unpack = recorded.events[1], &run = recorded.events[2];
  CHECK(pack.act == Act::pack_a);
  CHECK(pack.product == 7);
  CHECK(pack.bytes == 100);
  CHECK(recorded.begin <= pack.begin);
  CHECK(pack.begin <= pack.end);
  CHECK(run.end <= recorded.end);
  CHECK(unpack.bytes == 50);
  CHECK(run.track.is_core());
  CHECK(run.track.core() == 2);
  CHECK(run.flops == 1000);
  CHECK(Element(run.element) == Element::float16);
  REQUIRE(recorded.threads.size() == 1);
  CHECK(recorded.threads[0].number == pack.track.number);
}

TEST_CASE("a span that began before the recording, or ends after it, is left out") {
  {
    const Span before(Act::plan, here, 1);
    Recording recording;
    {
      const Span within(Act::sync, here, 1);
    }
    const Span after(Act::finish, here, 1);
    const Recorded recorded = recording.stop();
    CHECK(recorded.events.size() == 1);
    CHECK(count(recorded, Act::sync) == 1);
  }
  Recording next;
  CHECK(next.stop().events.empty());
}

TEST_CASE("recordings nest, and each has what happened while it was open") {
  Recording outer;
  {
    const Span span(Act::plan, here, 1);
  }
  Recording inner;
  {
    const Span span(Act::sync, here, 1);
  }
  CHECK(inner.stop().events.size() == 1);
  {
    const Span span(Act::finish, here, 1);
  }
  const Recorded recorded = outer.stop();
  CHECK(recorded.events.size() == 3);
  CHECK(std::is_sorted(recorded.events.begin(), recorded.events.end(),
                       [](const Event& a, const Event& b) { return a.begin < b.begin; }));
  CHECK(outer.stop().events.empty());
}

TEST_CASE("what a thread did is there after the thread has ended") {
  Recording recording;
  std::thread([] { const Span span(Act::pack_b, here, 3, 1); }).join();
  std::thread([] { const Span span(Act::pack_b, here, 3, 1); }).join();
  const Recorded recorded = recording.stop();
  REQUIRE(recorded.events.size() == 2);
  CHECK(recorded.events[0].track.number != recorded.events[1].track.number);
  CHECK(recorded.threads.size() == 2);
}

TEST_CASE("a thread is shown by its name") {
  Recording recording;
  std::thread([] {
    name_this_thread("npublas-test-of-a-name");
    const Span span(Act::sync, here, 0);
  }).join();
  const Recorded recorded = recording.stop();
  REQUIRE(recorded.threads.size() == 1);
  CHECK(recorded.threads[0].name == "npublas-test-of");
}

TEST_CASE("what is more than the buffers hold is dropped and counted") {
  constexpr std::size_t beyond = 1000;
  Recording recording;
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i)
    threads.emplace_back([] {
      for (std::size_t n = 0; n < (kMostEvents + beyond) / 2; ++n)
        const Span span(Act::sync, here, 1);
    });
  for (std::thread& thread : threads) thread.join();
  const Recorded recorded = recording.stop();
  CHECK(recorded.events.size() == kMostEvents);
  CHECK(recorded.dropped == beyond);
  Recording next;
  {
    const Span span(Act::sync, here, 1);
  }
  const Recorded after = next.stop();
  CHECK(after.events.size() == 1);
  CHECK(after.dropped == 0);
}

TEST_CASE("threads that never pause are recorded by whoever begins and ends meanwhile") {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i)
    threads.emplace_back([&stop] {
      while (!stop) {
        begin_product();
        {
          const Span span(Act::pack_a, here, this_product(), 1);
        }
        if (is_on()) end_product_now(kShape, DType::int8, 0, false, false, 0);
      }
    });
  threads.emplace_back([&stop] {
    while (!stop) {
      Recording recording;
      recording.stop();
    }
  });
  for (int i = 0; i < 200; ++i) {
    Recording recording;
    const std::int64_t begin = now();
    while (now() - begin < 20'000) {
    }
    const Recorded recorded = recording.stop();
    for (const Event& event : recorded.events) {
      REQUIRE(event.act == Act::pack_a);
      REQUIRE(event.bytes == 1);
      REQUIRE(event.begin >= recorded.begin);
      REQUIRE(event.end >= event.begin);
    }
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_CASE("a product has a number from its beginning to its end, in its thread") {
  begin_product();
  CHECK(this_product() == 0);
  Recording recording;
  begin_product();
  const std::uint64_t mine = this_product();
  CHECK(mine != 0);
  std::thread([] { CHECK(this_product() == 0); }).join();
  note_method(Method::int8);
  end_product_now(kShape, DType::float32, 3, true, true, 0);
  CHECK(this_product() == 0);
  begin_product();
  CHECK(this_product() != mine);
  const Recorded recorded = recording.stop();
  CHECK(this_product() == 0);
  REQUIRE(recorded.products.size() == 1);
  const ProductNote& product = recorded.products[0];
  CHECK(product.product == mine);
  CHECK(product.shape.n == 4);
  CHECK(product.dtype == DType::float32);
  CHECK(product.reason == 3);
  CHECK(Method(product.method) == Method::int8);
  CHECK(product.fallback);
  CHECK(product.simulated);
  CHECK(product.begin <= product.end);
  CHECK(product.cpu_nanoseconds >= 0);
}

TEST_CASE("a product whose beginning was not seen has none but its own seconds") {
  Recording recording;
  end_product_now(kShape, DType::int8, 0, false, false, 0);
  const Recorded recorded = recording.stop();
  REQUIRE(recorded.products.size() == 1);
  CHECK(recorded.products[0].product == 0);
  CHECK(recorded.products[0].method == -1);
  CHECK(recorded.products[0].begin == recorded.products[0].end);
}

TEST_CASE("a core is busy while any of its runs is, recorded or not") {
  reset_busy();
  CHECK(busy().since == 0);
  const std::int64_t begin = now();
  {
    const Run first(1, Element::int8, 0, 0, 0);
    const Run queued(1, Element::int8, 0, 0, 0);
    while (now() - begin < 1'000'000) {
    }
  }
  const double most = double(now() - begin) * 1e-9;
  const Busy after = busy();
  CHECK(after.seconds[0] == 0);
  CHECK(after.seconds[1] >= 1e-3);
  CHECK(after.seconds[1] <= most);
  CHECK(after.since >= after.seconds[1]);
  reset_busy();
  CHECK(busy().seconds[1] == 0);
}

TEST_CASE("a forked child records nothing of its parent's, and may record anew") {
  Recording parents;
  {
    const Span span(Act::plan, here, 1);
  }
  const pid_t child = ::fork();
  if (child == 0) {
    bool right = !is_on() && parents.stop().events.empty();
    Recording recording;
    {
      const Span span(Act::plan, here, 1);
    }
    right = right && recording.stop().events.size() == 1;
    ::_exit(right ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(parents.stop().events.size() == 1);
}

}  // namespace npublas::trace
