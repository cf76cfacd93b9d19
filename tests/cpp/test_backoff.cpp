// Backing off, by its spans alone: nothing here waits.
#include <doctest/doctest.h>

#include "npublas/engine/backoff.hpp"

using namespace npublas;

TEST_CASE("what fails is tried again at once as often as is free, and then not") {
  for (const int free : {0, 2, 3}) {
    CAPTURE(free);
    Backoff backoff(free);
    CHECK(!backoff.waits());
    for (int i = 0; i < free; ++i) backoff.note_failure();
    CHECK(!backoff.waits());
    backoff.note_failure();
    CHECK(backoff.waits());
  }
}

TEST_CASE("each further failure in a row doubles the wait, up to 64 s") {
  Backoff backoff(1);
  backoff.note_failure();
  for (const int seconds : {1, 2, 4, 8, 16, 32, 64, 64, 64}) {
    CAPTURE(seconds);
    const std::int64_t before = nanoseconds_now();
    backoff.note_failure();
    const std::int64_t after = nanoseconds_now();
    CHECK(backoff.until() >= before + seconds * 1'000'000'000LL);
    CHECK(backoff.until() <= after + seconds * 1'000'000'000LL);
  }
}

TEST_CASE("a success begins the row anew, but ends no wait") {
  Backoff backoff(1);
  backoff.note_failure();
  backoff.note_success();
  backoff.note_failure();
  CHECK(!backoff.waits());
  backoff.note_failure();
  backoff.note_success();
  CHECK(backoff.waits());
  backoff.note_failure();  // free, and no reason to end the wait either
  CHECK(backoff.waits());
}

TEST_CASE("a wait can be ended, and be for good") {
  Backoff backoff(0);
  backoff.wait_for_good();
  CHECK(backoff.waits());
  backoff.wait_no_longer();
  CHECK(!backoff.waits());
  backoff.note_failure();
  backoff.note_failure();
  backoff.reset();
  CHECK(!backoff.waits());
  const std::int64_t before = nanoseconds_now();
  backoff.note_failure();
  CHECK(backoff.until() < before + 2'000'000'000);  // the first in a row: one second
}
