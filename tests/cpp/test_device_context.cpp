// # Contexts and memories check each call before they make it
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "fakes/load_fake.hpp"
#include "npublas/device/context.hpp"
#include "npublas/device/own_thread.hpp"

using namespace npublas;
using namespace npublas::device;
using fake::failure_of;

namespace {

struct Fake {
  explicit Fake(const std::string& name = "fake_v2_3_2")
      : control(fake::reset(name)), runtime(fake::load(name)) {}
  fake::Control& control;
  std::shared_ptr<Runtime> runtime;

  auto refusal(Type type, ContextShape shape, int core = 0) {
    return failure_of([&] { Context(runtime, type, shape, core); });
  }
};

// The three buffers of a context.
struct Buffers {
  explicit Buffers(const std::shared_ptr<Runtime>& runtime, const Context& context)
      : a(runtime, context.a_bytes()),
        b(runtime, context.b_bytes()),
        c(runtime, context.c_bytes()) {}
  Memory a, b, c;
};

}  // namespace

TEST_CASE("a context reports the bytes of its surfaces") {
  Fake fake;
  const Context int8(fake.runtime, Type::int8, {4, 64, 96}, 0);
  CHECK(int8.a_bytes() == 4 * 64);
  CHECK(int8.b_bytes() == 64 * 96);
  CHECK(int8.c_bytes() == 4 * 96 * 4);
  const Context float16(fake.runtime, Type::float16, {1, 32, 16}, 2);
  CHECK(float16.a_bytes() == 32 * 2);
  CHECK(float16.b_bytes() == 32 * 16 * 2);
  CHECK(float16.c_bytes() == 16 * 4);
  CHECK(float16.core() == 2);
  CHECK(float16.type() == Type::float16);
  CHECK(float16.shape() == ContextShape{1, 32, 16});
}

TEST_CASE("each core has a mask of its own") {
  Fake fake;
  for (const auto& [core, mask] : {std::pair{0, 1}, {1, 2}, {2, 4}}) {
    const Context context(fake.runtime, Type::int8, {4, 32, 32}, core);
    CHECK(fake.control.last_mask == mask);
    CHECK(context.pinned());
  }
}

TEST_CASE("a refused core mask is no failure") {
  Fake fake;
  fake.control.set_core_mask_status = -1;
  CHECK_FALSE(Context(fake.runtime, Type::int8, {4, 32, 32}, 1).pinned());
}

TEST_CASE("shapes that the runtime would crash on or miscompute never reach it") {
  Fake fake;
  for (const ContextShape shape : {ContextShape{0, 32, 32},
                                   {4, 0, 32},
                                   {4, 32, 0},
                                   {-4, 32, 32},
                                   {4, -32, 32},
                                   {4, 32, -32},
                                   {2, 32, 32},
                                   {3, 32, 32},
                                   {5, 32, 32},
                                   {2045, 32, 32},
                                   {2048, 32, 32},
                                   {4, 31, 32},
                                   {4, 33, 32},
                                   {4, 8192 + 32, 32},
                                   {4, 32, 31},
                                   {4, 32, 48},
                                   {4, 32, 8192 + 32}}) {
    CAPTURE(to_string(shape));
    const auto failure = fake.refusal(Type::int8, shape);
    CHECK(failure.kind == ErrorKind::argument);
    CHECK(failure.says(to_string(shape)));
  }
  CHECK(fake.refusal(Type::float16, {4, 32, 24}).says("multiple of 16"));
  CHECK(fake.refusal(Type::int8, {4, 32, 32}, 3).says("core 3 does not exist"));
  CHECK(fake.refusal(Type::int8, {4, 32, 32}, -1).says("core -1"));
  CHECK(fake.control.creates == 0);
}

TEST_CASE("the limits themselves are taken") {
  Fake fake;
  for (const ContextShape shape :
       {ContextShape{1, 32, 32}, {4, 8192, 32}, {2044, 32, 32}, {4, 32, 8192}}) {
    CHECK(fake.refusal(Type::int8, shape).message == "");
  }
  CHECK(fake.refusal(Type::float16, {4, 32, 16}).message == "");
}

TEST_CASE("depth limits are the version's") {
  Fake newer("fake_v1_6_0");
  CHECK(newer.refusal(Type::int8, {4, 10240, 32}).message == "");
  CHECK(newer.refusal(Type::int8, {4, 10272, 32}).says("1.6.0 takes K up to 10240"));
  const fake::Environment variable("NPUBLAS_UNSUPPORTED_RUNTIME", "1");
  Fake older("fake_v1_5_2");
  CHECK(older.refusal(Type::int8, {4, 4096, 32}).message == "");
  CHECK(older.refusal(Type::int8, {4, 4128, 32}).says("4096"));
  CHECK(older.refusal(Type::float16, {4, 2048, 32}).message == "");
  CHECK(older.refusal(Type::float16, {4, 2080, 32}).says("2048"));
}

TEST_CASE("a context is zeroed, made off the calling thread, and destroyed") {
  Fake fake;
  {
    const Context context(fake.runtime, Type::int8, {4, 32, 32}, 0);
    CHECK(fake.control.contexts == 1);
    CHECK(fake.control.nonzero_reserved_bytes == 0);
    CHECK(fake.control.created_on_a_thread_of_its_own);
  }
  CHECK(fake.control.contexts == 0);
}

TEST_CASE("a refusal of the runtime names the call, the shape and the core") {
  Fake fake;
  fake.control.create_status = -5;
  const auto failure = fake.refusal(Type::float16, {8, 64, 48}, 2);
  CHECK(failure.kind == ErrorKind::device);
  CHECK(failure.says("rknn_matmul_create(float16 8x64x48, core 2) failed with -5"));
  fake.control.create_status = -4;
  CHECK(fake.refusal(Type::int8, {4, 32, 32}).kind == ErrorKind::memory);
}

TEST_CASE("success without a context is an error") {
  Fake fake;
  fake.control.create_gives_null = true;
  CHECK(fake.refusal(Type::int8, {4, 32, 32}).kind == ErrorKind::device);
}

TEST_CASE("a layout that is not the formula's is an error that names both") {
  for (int matrix = 0; matrix < 3; ++matrix) {
    Fake fake;
    fake.control.create_shifts_dim = matrix;
    const auto shifted = fake.refusal(Type::int8, {4, 64, 96});
    CHECK(shifted.kind == ErrorKind::device);
    const char* both[] = {"A out as [5, 4, 16] in 256 bytes, npublas packs [4, 4, 16] in 256",
                          "B out as [4, 2, 32, 32] in 6144 bytes, npublas packs [3, 2, 32, 32]",
                          "C out as [25, 4, 4] in 1536 bytes, npublas packs [24, 4, 4]"};
    CHECK_MESSAGE(shifted.says(both[matrix]), shifted.message);
    CHECK(fake.control.contexts == 0);

    fake.control.create_shifts_dim = -1;
    fake.control.create_adds_bytes = matrix;
    CHECK(fake.refusal(Type::float16, {4, 64, 96}).kind == ErrorKind::device);
    CHECK(fake.control.contexts == 0);
  }
}

TEST_CASE("a memory is what was asked for, or an error that says what to do") {
  Fake fake;
  fake.control.offset = 4096;
  Memory memory(fake.runtime, 1000);
  CHECK(memory.size() == 1000);
  CHECK(memory.data() == static_cast<std::byte*>(memory.handle()->virt_addr) + 4096);
  std::memset(memory.data(), 1, memory.size());

  fake.control.create_mem_fails = true;
  const auto failure = failure_of([&] { Memory(fake.runtime, 3 << 20); });
  CHECK(failure.kind == ErrorKind::memory);
  CHECK(failure.says("rknn_create_mem(3.0 MiB) failed"));
  CHECK(failure.says("NPUBLAS_MEMORY_LIMIT"));
  fake.control.create_mem_fails = false;

  fake.control.create_mem_lacks = 1;
  CHECK(failure_of([&] { Memory(fake.runtime, 100); }).kind == ErrorKind::memory);
  CHECK(fake.control.memories == 1);
}

TEST_CASE("sizes that the interface cannot say are refused") {
  Fake fake;
  for (const std::size_t bytes : {std::size_t(0), std::size_t(1) << 32}) {
    CHECK(failure_of([&] { Memory(fake.runtime, bytes); }).kind == ErrorKind::argument);
  }
  CHECK(fake.control.memories == 0);
}

TEST_CASE("a memory outlives the contexts it is bound to, and is freed through a live one") {
  Fake fake;
  {
    auto context = std::make_unique<Context>(fake.runtime, Type::int8, ContextShape{4, 32, 32}, 0);
    const Buffers buffers(fake.runtime, *context);
    CHECK(fake.control.memories == 3);
    context.reset();
    fake.runtime.reset();  // the memories keep it
    CHECK(fake.control.contexts == 1);
  }
  CHECK(fake.control.memories == 0);
  CHECK(fake.control.contexts == 0);
  CHECK_FALSE(fake.control.freed_through_dead_context);
}

TEST_CASE("syncs go to the runtime, and are tried again when they fail in passing") {
  Fake fake;
  Memory memory(fake.runtime, 64);
  memory.to_device();
  memory.from_device();
  CHECK(fake.control.syncs_to_device == 1);
  CHECK(fake.control.syncs_from_device == 1);
  fake.control.failing_syncs = 3;
  memory.from_device();
  CHECK(fake.control.syncs_from_device == 2);
  fake.control.failing_syncs = 1000;
  const auto failure = failure_of([&] { memory.to_device(); });
  CHECK(failure.kind == ErrorKind::device);
  CHECK(failure.says("rknn_mem_sync(64 bytes to the device) failed with -1"));
}

TEST_CASE("what is bound already is not bound again") {
  Fake fake;
  Context context(fake.runtime, Type::int8, {4, 32, 32}, 0);
  Buffers buffers(fake.runtime, context);
  context.bind(buffers.a, buffers.b, buffers.c);
  CHECK(fake.control.binds == 3);
  context.bind(buffers.a, buffers.b, buffers.c);
  CHECK(fake.control.binds == 3);
  Memory other(fake.runtime, context.b_bytes());
  context.bind(buffers.a, other, buffers.c);
  CHECK(fake.control.binds == 4);
  context.unbind();
  context.bind(buffers.a, other, buffers.c);
  CHECK(fake.control.binds == 7);
}

TEST_CASE("without rknn_mem_sync every bind is made, because it is what syncs") {
  const fake::Environment variable("NPUBLAS_UNSUPPORTED_RUNTIME", "1");
  Fake fake("fake_v1_5_2");
  Context context(fake.runtime, Type::int8, {4, 32, 32}, 0);
  Buffers buffers(fake.runtime, context);
  for (int times = 1; times <= 2; ++times) {
    context.bind(buffers.a, buffers.b, buffers.c);
    CHECK(fake.control.binds == 3 * times);
  }
  buffers.a.to_device();  // does nothing, and is no error
  buffers.c.from_device();
}

TEST_CASE("a new memory at an old address is bound anew") {
  Fake fake;
  Context context(fake.runtime, Type::int8, {4, 32, 32}, 0);
  Memory a(fake.runtime, context.a_bytes());
  Memory c(fake.runtime, context.c_bytes());
  for (int times = 0; times < 3; ++times) {
    Memory b(fake.runtime, context.b_bytes());
    context.bind(a, b, c);
  }
  CHECK(fake.control.binds == 5);
}

TEST_CASE("a buffer that is smaller than its surface is not bound") {
  Fake fake;
  Context context(fake.runtime, Type::int8, {4, 32, 32}, 0);
  Buffers buffers(fake.runtime, context);
  Memory small(fake.runtime, context.c_bytes() - 1);
  const auto failure = failure_of([&] { context.bind(buffers.a, buffers.b, small); });
  CHECK(failure.kind == ErrorKind::argument);
  CHECK(failure.says("511 bytes and the surface 512"));
  CHECK(failure_of([&] { context.run(); }).kind == ErrorKind::argument);
  CHECK(fake.control.runs == 0);
}

TEST_CASE("nothing runs unbound") {
  Fake fake;
  Context context(fake.runtime, Type::int8, {4, 32, 32}, 0);
  Buffers buffers(fake.runtime, context);
  CHECK(failure_of([&] { context.run(); }).kind == ErrorKind::argument);
  context.bind(buffers.a, buffers.b, buffers.c);
  context.run();
  CHECK(fake.control.runs == 1);
  context.unbind();
  CHECK(failure_of([&] { context.run(); }).says("must be bound"));
  // A bind that fails leaves nothing bound that might be stale.
  context.bind(buffers.a, buffers.b, buffers.c);
  fake.control.set_io_mem_status = -4;
  Memory other(fake.runtime, context.b_bytes());
  CHECK(failure_of([&] { context.bind(buffers.a, other, buffers.c); }).kind == ErrorKind::memory);
  CHECK(failure_of([&] { context.run(); }).kind == ErrorKind::argument);
  CHECK(fake.control.runs == 1);
}

TEST_CASE("a run that fails says which") {
  Fake fake;
  Context context(fake.runtime, Type::int8, {4, 32, 32}, 1);
  Buffers buffers(fake.runtime, context);
  context.bind(buffers.a, buffers.b, buffers.c);
  fake.control.run_status = -1;
  const auto failed = failure_of([&] { context.run(); });
  CHECK(failed.kind == ErrorKind::device);
  CHECK(failed.says("rknn_matmul_run(int8 4x32x32, core 1) failed with -1"));
  fake.control.run_status = -2;
  CHECK(failure_of([&] { context.run(); }).kind == ErrorKind::timeout);
}

TEST_CASE("with a driver before 0.9.8 nothing is made, freed or bound while a run is on") {
  Fake fake;
  fake.control.driver_version = "0.9.6";
  fake.runtime->learn_driver();
  REQUIRE(fake.runtime->quirks().serialise_with_run);
  std::vector<std::thread> threads;
  for (int core = 0; core < 3; ++core) {
    threads.emplace_back([&fake, core] {
      for (int times = 0; times < 20; ++times) {
        Context context(fake.runtime, Type::int8, {4, 32, 32}, core);
        Buffers buffers(fake.runtime, context);
        context.bind(buffers.a, buffers.b, buffers.c);
        context.run();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_FALSE(fake.control.overlapped);
  CHECK(fake.control.runs == 60);
  CHECK(fake.control.memories == 0);
}

TEST_CASE("work on a thread of its own leaves the caller's nice value, and its errors arrive") {
  // Raising one's own nice value needs no privilege, so that stands for the driver's -19.
  const int before = ::getpriority(PRIO_PROCESS, 0);
  run_on_own_thread([] { ::setpriority(PRIO_PROCESS, pid_t(::syscall(SYS_gettid)), 19); });
  CHECK(::getpriority(PRIO_PROCESS, 0) == before);
  CHECK(failure_of([] {
          run_on_own_thread([] { throw Error(ErrorKind::memory, "full"); });
        }).message == "full");
}

TEST_CASE("the simulator multiplies through a context what was packed by the formula") {
  const auto runtime = Runtime::load("simulator");
  runtime->learn_driver();
  CHECK(runtime->driver_text() != "");
  CHECK_FALSE(runtime->quirks().untested);
  const ContextShape shape{8, 64, 96};
  const auto at_a = [&](int i, int p) { return i % 7 - 3 + (p % 5 - 2); };
  const auto at_b = [&](int p, int j) { return (p * 3 + j) % 11 - 5; };
  for (int core = 0; core < runtime->chip().cores; ++core) {
    Context context(runtime, Type::int8, shape, core);
    CHECK(context.pinned());
    Buffers buffers(runtime, context);
    auto* const a = reinterpret_cast<std::int8_t*>(buffers.a.data());
    auto* const b = reinterpret_cast<std::int8_t*>(buffers.b.data());
    const auto* const c = reinterpret_cast<const std::int32_t*>(buffers.c.data());
    for (int i = 0; i < shape.m; ++i) {
      for (int p = 0; p < shape.k; ++p) {
        a[((p / 16) * shape.m + i) * 16 + p % 16] = std::int8_t(at_a(i, p));
      }
    }
    for (int p = 0; p < shape.k; ++p) {
      for (int j = 0; j < shape.n; ++j) {
        b[((j / 32 * (shape.k / 32) + p / 32) * 32 + j % 32) * 32 + p % 32] =
            std::int8_t(at_b(p, j));
      }
    }
    buffers.a.to_device();
    buffers.b.to_device();
    context.bind(buffers.a, buffers.b, buffers.c);
    context.run();
    buffers.c.from_device();
    int wrong = 0;
    for (int i = 0; i < shape.m; ++i) {
      for (int j = 0; j < shape.n; ++j) {
        std::int32_t sum = 0;
        for (int p = 0; p < shape.k; ++p) sum += at_a(i, p) * at_b(p, j);
        wrong += c[((j / 4) * shape.m + i) * 4 + j % 4] != sum;
      }
    }
    CHECK(wrong == 0);
  }
}
