// # Which runtime is taken, and which is refused with what words
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "fakes/load_fake.hpp"

using namespace npublas;
using namespace npublas::device;
using fake::failure_of;
using fake::path_of;
using namespace std::string_literals;

namespace {

// A board whose usual places are those named here.
struct Board {
  explicit Board(std::vector<std::string> candidates,
                 const std::string& compatible = fake::rk3588_board())
      : tree("compatible", compatible) {
    around.candidates = std::move(candidates);
    around.device_tree = tree.path();
  }
  fake::File tree;
  Surroundings around;
};

}  // namespace

TEST_CASE("auto takes the first of the usual places that has a runtime") {
  const Board board({"/nonexistent/librknnrt.so", path_of("fake_v2_3_2"), path_of("fake_v1_6_0")});
  const auto runtime = Runtime::load("auto", board.around);
  CHECK(runtime->path() == std::filesystem::canonical(path_of("fake_v2_3_2")).string());
  CHECK(runtime->version() == Version{2, 3, 2});
  CHECK(runtime->version_text() == "2.3.2 (429f97ae6b@2025-04-09T09:09:27)");
  CHECK(runtime->chip().name == "RK3588");
  CHECK_FALSE(runtime->is_simulated());
  CHECK_FALSE(runtime->quirks().untested);
}

TEST_CASE("the usual places start with the vendor's and include the loader's own") {
  const auto paths = candidate_paths();
  CHECK(paths.front() == "/usr/lib/librknnrt.so");
  CHECK(std::find(paths.begin(), paths.end(), "librknnrt.so") != paths.end());
}

TEST_CASE("auto passes over a place whose runtime may not be used if a later one may") {
  const Board board({path_of("fake_v2_2_0"), path_of("fake_v2_0_0b0")});
  CHECK(Runtime::load("auto", board.around)->version() == Version{2, 0, 0});
}

TEST_CASE("auto says what is wrong with the first runtime that it found") {
  const Board board({"/nonexistent/librknnrt.so", path_of("fake_v2_2_0"), path_of("fake_v1_5_2")});
  const auto failure = failure_of([&] { Runtime::load("auto", board.around); });
  CHECK(failure.kind == ErrorKind::unavailable);
  CHECK(failure.says("2.2.0"));
  CHECK(failure.says("all zero"));
  CHECK(failure.says("2.3.2"));  // the cure
}

TEST_CASE("auto without a runtime names the places and the cure") {
  const Board board({"/nonexistent/a.so", "librknnrt-that-is-nowhere.so"});
  const auto failure = failure_of([&] { Runtime::load("auto", board.around); });
  CHECK(failure.kind == ErrorKind::unavailable);
  CHECK(failure.says("/nonexistent/a.so, librknnrt-that-is-nowhere.so"));
  CHECK(failure.says("NPUBLAS_RUNTIME"));
}

TEST_CASE("auto on a machine that is no board says so first") {
  Board board({});
  board.around.device_tree = "/nonexistent/compatible";
  const auto failure = failure_of([&] { Runtime::load("auto", board.around); });
  CHECK(failure.says("no Rockchip board"));
  CHECK(failure.says("runtime=\"simulator\""));
}

TEST_CASE("auto refuses a chip that is not in the table, because the runtime would crash") {
  const Board rockchip({path_of("fake_v2_3_2")}, "a,b\0rockchip,rk3576\0"s);
  const auto failure = failure_of([&] { Runtime::load("auto", rockchip.around); });
  CHECK(failure.kind == ErrorKind::unavailable);
  CHECK(failure.says("rk3576"));
  const Board other({path_of("fake_v2_3_2")}, "raspberrypi,5-model-b");
  CHECK(failure_of([&] { Runtime::load("auto", other.around); }).says("no Rockchip board"));
}

TEST_CASE("auto refuses a simulator wherever it is found") {
  const Board board({path_of("fake_simulator")});
  const auto usual = failure_of([&] { Runtime::load("auto", board.around); });
  CHECK(usual.kind == ErrorKind::unavailable);
  CHECK(usual.says("simulator"));
  CHECK(usual.says("runtime=\"simulator\""));

  const fake::Environment variable("NPUBLAS_RUNTIME", path_of("fake_simulator"));
  const auto named = failure_of([&] { Runtime::load("auto", board.around); });
  CHECK(named.says("runtime=\"simulator\""));

  const fake::Environment real("NPUBLAS_RUNTIME", NPUBLAS_SIMULATOR_PATH);
  CHECK(failure_of([&] { Runtime::load("auto", board.around); }).says("runtime=\"simulator\""));
}

TEST_CASE("auto refuses a simulator behind another name") {
  const std::string link = std::string(NPUBLAS_FAKES) + "/librknnrt.so";
  ::unlink(link.c_str());
  REQUIRE(::symlink("fake_simulator.so", link.c_str()) == 0);
  const Board board({link});
  CHECK(failure_of([&] { Runtime::load("auto", board.around); }).says("is a simulator"));
  ::unlink(link.c_str());
}

TEST_CASE("a runtime is known by the file that was really loaded") {
  const std::string link = std::string(NPUBLAS_FAKES) + "/link.so";
  ::unlink(link.c_str());
  REQUIRE(::symlink("fake_v2_3_2.so", link.c_str()) == 0);
  CHECK(Runtime::load(link)->path() == std::filesystem::canonical(path_of("fake_v2_3_2")).string());
  ::unlink(link.c_str());
}

TEST_CASE("auto refuses a simulator that only says so when it is asked") {
  fake::Control& control = fake::reset("fake_silent");
  control.api_version = "2.3.2 (a SIMULATOR)";
  const Board board({path_of("fake_silent")});
  const auto runtime = Runtime::load("auto", board.around);
  CHECK(failure_of([&] { runtime->learn_driver(); }).says("is a simulator"));
}

TEST_CASE("a simulator may be named by its path") {
  CHECK(fake::load("fake_simulator")->is_simulated());
}

TEST_CASE("runtime=simulator is the one beside the core") {
  const auto runtime = Runtime::load("simulator");
  CHECK(runtime->path() == std::filesystem::canonical(NPUBLAS_SIMULATOR_PATH).string());
  CHECK(runtime->is_simulated());
  CHECK(runtime->chip().name == "RK3588");
}

TEST_CASE("NPUBLAS_RUNTIME goes before the usual places") {
  const Board board({path_of("fake_v2_3_2")});
  const fake::Environment variable("NPUBLAS_RUNTIME", path_of("fake_v1_6_0"));
  CHECK(Runtime::load("auto", board.around)->version() == Version{1, 6, 0});
}

TEST_CASE("NPUBLAS_RUNTIME must be a path, and exist") {
  const Board board({path_of("fake_v2_3_2")});
  {
    const fake::Environment variable("NPUBLAS_RUNTIME", "librknnrt");
    const auto failure = failure_of([&] { Runtime::load("auto", board.around); });
    CHECK(failure.kind == ErrorKind::argument);
    CHECK(failure.says("NPUBLAS_RUNTIME=librknnrt is neither"));
  }
  const fake::Environment variable("NPUBLAS_RUNTIME", "/nonexistent/librknnrt.so");
  const auto failure = failure_of([&] { Runtime::load("auto", board.around); });
  CHECK(failure.kind == ErrorKind::unavailable);
  CHECK(failure.says("/nonexistent/librknnrt.so does not exist"));
}

TEST_CASE(
    "asking for auto overrules NPUBLAS_RUNTIME=simulator, the setting that a process began with") {
  const Board board({path_of("fake_v2_3_2")});
  const fake::Environment variable("NPUBLAS_RUNTIME", "simulator");
  CHECK(Runtime::load("auto", board.around)->version() == Version{2, 3, 2});
}

TEST_CASE("a bare library name is left to the loader") {
  CHECK(failure_of([] {
          Runtime::load("librknnrt-that-is-nowhere.so");
        }).says("could not be loaded"));
}

TEST_CASE("a word that is neither auto nor simulator nor a path is an error that lists them") {
  const auto failure = failure_of([] { Runtime::load("simulatr"); });
  CHECK(failure.kind == ErrorKind::argument);
  CHECK(failure.says("\"auto\" nor \"simulator\" nor a path"));
}

TEST_CASE("without a device tree an RK3588 is assumed for a runtime that was chosen") {
  Surroundings nowhere;
  nowhere.device_tree = "/nonexistent/compatible";
  CHECK(Runtime::load(path_of("fake_v2_3_2"), nowhere)->chip().name == "RK3588");
  const fake::Environment variable("NPUBLAS_RUNTIME", path_of("fake_v2_3_2"));
  CHECK(Runtime::load("auto", nowhere)->chip().name == "RK3588");
}

TEST_CASE("a chosen runtime is refused on a chip that it would die of; a simulator is not") {
  const Board board({}, "a,b\0rockchip,rk3576\0"s);
  CHECK(failure_of([&] { Runtime::load(path_of("fake_v2_3_2"), board.around); }).says("rk3576"));
  CHECK(Runtime::load(path_of("fake_simulator"), board.around)->chip().name == "RK3588");
}

TEST_CASE("a file that is no library says so in the loader's words") {
  const fake::File file("text.so", "this is no library");
  const auto failure = failure_of([&] { Runtime::load(file.path()); });
  CHECK(failure.kind == ErrorKind::unavailable);
  CHECK(failure.says(file.path()));
  CHECK(failure.says("architecture"));
}

TEST_CASE("a library without a matrix product is refused by the symbols that it lacks") {
  const auto failure = failure_of([] { fake::load("fake_without_run"); });
  CHECK(failure.kind == ErrorKind::unavailable);
  CHECK(failure.says("has no rknn_matmul_run"));
}

TEST_CASE("runtimes before 1.6.0 are refused with a hint, and tried only on demand") {
  const auto failure = failure_of([] { fake::load("fake_v1_5_2"); });
  CHECK(failure.kind == ErrorKind::unavailable);
  CHECK(failure.says("1.5.2"));
  CHECK(failure.says("2.3.2"));
  CHECK(failure.says("NPUBLAS_UNSUPPORTED_RUNTIME=1"));

  const fake::Environment variable("NPUBLAS_UNSUPPORTED_RUNTIME", "1");
  const auto runtime = fake::load("fake_v1_5_2");
  CHECK(runtime->quirks().unsupported);
  CHECK(runtime->quirks().max_depth_int8 == 4096);
  CHECK(runtime->quirks().max_depth_float16 == 2048);
  CHECK((runtime->call().mem_sync == nullptr));
}

TEST_CASE("a known bad runtime is refused even on demand") {
  const fake::Environment variable("NPUBLAS_UNSUPPORTED_RUNTIME", "1");
  CHECK(failure_of([] { fake::load("fake_v1_5_0"); }).says("crash"));
  CHECK(failure_of([] { fake::load("fake_v2_2_0"); }).says("all zero"));
}

TEST_CASE("NPUBLAS_UNSUPPORTED_RUNTIME is 0 or 1") {
  {
    const fake::Environment variable("NPUBLAS_UNSUPPORTED_RUNTIME", "0");
    CHECK(failure_of([] { fake::load("fake_v1_5_2"); }).kind == ErrorKind::unavailable);
  }
  const fake::Environment variable("NPUBLAS_UNSUPPORTED_RUNTIME", "yes");
  const auto failure = failure_of([] { fake::load("fake_v2_3_2"); });
  CHECK(failure.kind == ErrorKind::argument);
  CHECK(failure.says("NPUBLAS_UNSUPPORTED_RUNTIME=yes: write 1 or 0"));
}

TEST_CASE("a runtime newer than what is known is tried with caution") {
  const auto runtime = fake::load("fake_v3_1_4a1");
  CHECK(runtime->version() == Version{3, 1, 4});
  CHECK(runtime->quirks().untested);
  CHECK(runtime->quirks().known_bad == "");
}

TEST_CASE("a library that tells no version is judged by its symbols, with caution") {
  const auto runtime = fake::load("fake_silent");
  CHECK(runtime->version() == Version{2, 1, 0});
  CHECK(runtime->version_text() == "at least 2.1.0, by its symbols");
  CHECK(runtime->quirks().untested);
  CHECK(failure_of([] { fake::load("fake_silent_old"); }).says("too old"));
}

TEST_CASE("words and symbols that disagree call for caution") {
  const auto runtime = fake::load("fake_contradictory");
  CHECK(runtime->version() == Version{2, 3, 2});
  CHECK((runtime->call().mem_sync == nullptr));
  CHECK(runtime->quirks().untested);
}

TEST_CASE("a live context tells the driver, and corrects the version") {
  fake::Control& control = fake::reset("fake_silent");
  control.api_version = "1.6.0 (9a7b5d24c@2023-12-13T17:32:13)";
  const auto runtime = fake::load("fake_silent");
  CHECK(runtime->driver_text() == "");
  runtime->learn_driver();
  CHECK(runtime->driver_text() == "0.9.8");
  CHECK(runtime->version_text() == "1.6.0 (9a7b5d24c@2023-12-13T17:32:13)");
  CHECK(runtime->quirks().max_depth_int8 == 10240);
  CHECK_FALSE(runtime->quirks().serialise_with_run);
}

TEST_CASE("a runtime that turns out to be known bad when asked is refused") {
  fake::Control& control = fake::reset("fake_silent");
  control.api_version = "2.2.0 (x)";
  const auto runtime = fake::load("fake_silent");
  CHECK(failure_of([&] { runtime->learn_driver(); }).says("all zero"));
}

TEST_CASE("drivers are judged by version") {
  struct Case {
    const char* driver;
    bool refused, serialise, untested;
  };
  for (const auto& [driver, refused, serialise, untested] :
       {Case{"0.8.2", true, true, false}, Case{"0.9.5", true, true, false},
        Case{"0.9.6", false, true, false}, Case{"0.9.7", false, true, false},
        Case{"0.9.8", false, false, false}, Case{"0.9.9", false, false, true},
        Case{"1.0.0", false, false, true}, Case{"", false, true, true}}) {
    CAPTURE(driver);
    fake::reset("fake_v2_3_2").driver_version = driver;
    const auto runtime = fake::load("fake_v2_3_2");
    const auto failure = failure_of([&] { runtime->learn_driver(); });
    CHECK((failure.message != "") == refused);
    if (refused) {
      CHECK(failure.kind == ErrorKind::unavailable);
      CHECK(failure.says(driver));
      CHECK(failure.says("0.9.8"));
    }
    CHECK(runtime->quirks().serialise_with_run == serialise);
    CHECK(runtime->quirks().untested == untested);
  }
}

TEST_CASE("a driver that is too old is tried only on demand") {
  const fake::Environment variable("NPUBLAS_UNSUPPORTED_RUNTIME", "1");
  fake::reset("fake_v2_3_2").driver_version = "0.9.2";
  const auto runtime = fake::load("fake_v2_3_2");
  runtime->learn_driver();
  CHECK(runtime->quirks().unsupported);
  CHECK(runtime->quirks().serialise_with_run);
}

TEST_CASE("a query that fails leaves the driver unknown and the core careful") {
  fake::reset("fake_v2_3_2").query_status = -1;
  const auto runtime = fake::load("fake_v2_3_2");
  runtime->learn_driver();
  CHECK(runtime->driver_text() == "");
  CHECK(runtime->quirks().untested);
  CHECK(runtime->quirks().serialise_with_run);
  CHECK(runtime->version() == Version{2, 3, 2});
}

TEST_CASE("a device that cannot be opened is unavailable, and says where to look") {
  fake::reset("fake_v2_3_2").create_status = -1;
  const auto runtime = fake::load("fake_v2_3_2");
  const auto failure = failure_of([&] { runtime->learn_driver(); });
  CHECK(failure.kind == ErrorKind::unavailable);
  CHECK(failure.says("npublas info"));
  // And it can be opened once the cause is gone.
  fake::reset("fake_v2_3_2");
  runtime->learn_driver();
  CHECK(runtime->driver_text() == "0.9.8");
}

TEST_CASE("the allocator is one context, made once and destroyed with the runtime") {
  fake::Control& control = fake::reset("fake_v2_3_2");
  auto runtime = fake::load("fake_v2_3_2");
  CHECK(control.contexts == 0);
  CHECK(runtime->allocator() != 0);
  CHECK(runtime->allocator() == runtime->allocator());
  CHECK(control.contexts == 1);
  CHECK(control.created_on_a_thread_of_its_own);
  CHECK(control.nonzero_reserved_bytes == 0);
  runtime.reset();
  CHECK(control.contexts == 0);
}

TEST_CASE("success without a context is no success") {
  fake::reset("fake_v2_3_2").create_gives_null = true;
  const auto runtime = fake::load("fake_v2_3_2");
  CHECK(failure_of([&] { runtime->allocator(); }).kind == ErrorKind::unavailable);
}

TEST_CASE("a fingerprint is of the file") {
  const auto one = fake::load("fake_v2_3_2")->fingerprint();
  CHECK(one.size() == 64);
  CHECK(one == fake::load("fake_v2_3_2")->fingerprint());
  CHECK(one != fake::load("fake_v1_6_0")->fingerprint());
}
