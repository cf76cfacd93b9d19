// # What versions, chips and status codes mean
#include <doctest/doctest.h>

#include "fakes/load_fake.hpp"

using namespace npublas;
using namespace npublas::device;
using namespace std::string_literals;

TEST_CASE("a version is read out of whatever surrounds it") {
  CHECK(parse_version("2.3.2 (429f97ae6b@2025-04-09T09:09:27)") == Version{2, 3, 2});
  CHECK(parse_version("librknnrt version: 1.6.0 (9a7b5d24c@2023)") == Version{1, 6, 0});
  CHECK(parse_version("2.0.0b0") == Version{2, 0, 0});
  CHECK(parse_version("2.4.2a2") == Version{2, 4, 2});
  CHECK(parse_version("v0.9.8") == Version{0, 9, 8});
  CHECK(parse_version("RKNPU driver: v0.9.8") == Version{0, 9, 8});
  CHECK(parse_version("2.3") == Version{2, 3, 0});
  CHECK(parse_version("2.3.") == Version{2, 3, 0});
  CHECK(parse_version("rknn 5 of 10.11.12.13") == Version{10, 11, 12});
}

TEST_CASE("text without a version has version 0") {
  for (const char* text : {"", "2", "2.", "%s", ".5", "two.three", "a.b.c"}) {
    CHECK_MESSAGE(parse_version(text) == Version{}, text);
  }
}

TEST_CASE("a version's digits can be too many without harm") {
  CHECK(parse_version("99999999999999999999.1.2").minor == 1);
}

TEST_CASE("versions are ordered by number, not by text") {
  CHECK(parse_version("2.10.0") > parse_version("2.9.9"));
  CHECK(parse_version("1.6.0") < parse_version("2.0.0b0"));
}

TEST_CASE("depth limits follow the version") {
  struct Case {
    Version version;
    int int8, float16;
  };
  for (const auto& [version, int8, float16] :
       {Case{{1, 5, 2}, 4096, 2048}, Case{{1, 6, 0}, 10240, 10240}, Case{{2, 0, 0}, 8192, 8192},
        Case{{2, 3, 2}, 8192, 8192}, Case{{9, 0, 0}, 8192, 8192}, Case{{}, 8192, 8192}}) {
    CHECK_MESSAGE(quirks_of(version).max_depth_int8 == int8, to_string(version));
    CHECK_MESSAGE(quirks_of(version).max_depth_float16 == float16, to_string(version));
  }
}

TEST_CASE("versions are supported from 1.6.0 and known up to 2.3") {
  for (const Version version : {Version{1, 6, 0}, {2, 0, 0}, {2, 1, 0}, {2, 3, 0}, {2, 3, 2}}) {
    const Quirks quirks = quirks_of(version);
    CHECK_FALSE(quirks.unsupported);
    CHECK_FALSE(quirks.untested);
    CHECK(quirks.known_bad == "");
  }
  CHECK(quirks_of({1, 5, 2}).unsupported);
  CHECK(quirks_of({1, 5, 9}).unsupported);
  CHECK(quirks_of({2, 4, 0}).untested);
  CHECK(quirks_of({3, 0, 0}).untested);
  CHECK(quirks_of({}).untested);
}

TEST_CASE("2.2.0 and what crashes before 1.5.2 are known bad") {
  CHECK(quirks_of({2, 2, 0}).known_bad.find("zero") != std::string::npos);
  CHECK(quirks_of({1, 5, 0}).known_bad.find("crash") != std::string::npos);
  CHECK(quirks_of({1, 5, 2}).known_bad == "");
  CHECK(quirks_of({2, 2, 1}).known_bad == "");
}

TEST_CASE("a library's version is read without loading it") {
  CHECK(version_text_in(fake::path_of("fake_v2_3_2")) == "2.3.2 (429f97ae6b@2025-04-09T09:09:27)");
  CHECK(version_text_in(fake::path_of("fake_v2_0_0b0")) == "2.0.0b0 (fake@2024-03-22)");
  CHECK(version_text_in(fake::path_of("fake_silent")) == "");
  CHECK(version_text_in("/nonexistent/librknnrt.so") == "");
  CHECK(version_text_in("/") == "");
}

TEST_CASE("a format string is no version, and the words may end the file") {
  const fake::File format("format", "librknnrt version: %s (%s)\0 2.1.0"s);
  CHECK(version_text_in(format.path()) == "");
  const fake::File both("both",
                        "librknnrt version: %s\0librknnrt version: 2.1.0 (x@y)\nlibrknnrt ver"s);
  CHECK(version_text_in(both.path()) == "2.1.0 (x@y)");
  const fake::File cut("cut", "librknnrt version: 2.3.0");
  CHECK(version_text_in(cut.path()) == "2.3.0");
  const fake::File empty("empty", "");
  CHECK(version_text_in(empty.path()) == "");
}

TEST_CASE("a chip is found by the SoC's own entry of the device tree") {
  CHECK(chip_from_device_tree(fake::rk3588_board()) == &rk3588());
  CHECK(chip_from_device_tree("radxa,rock-5b\0rockchip,rk3588"s) == &rk3588());
  CHECK(chip_from_device_tree("a,b\0rockchip,rk3588s\0"s) == &rk3588());
  CHECK(chip_from_device_tree("rockchip,rk3588-evb1") == nullptr);
  CHECK(chip_from_device_tree("x,y\0rockchip,rk3576\0"s) == nullptr);
  CHECK(chip_from_device_tree("brcm,bcm2712") == nullptr);
  CHECK(chip_from_device_tree("") == nullptr);
  CHECK(chip_from_device_tree(std::string(3, '\0')) == nullptr);
}

TEST_CASE("the SoC is named even where it is not supported") {
  CHECK(soc_from_device_tree("rockchip,rk3576-evb1\0rockchip,rk3576\0"s) == "rk3576");
  CHECK(soc_from_device_tree("brcm,bcm2712") == "");
}

TEST_CASE("every documented status has words, a kind and a remedy") {
  for (int status = -1; status >= -13; --status) {
    const std::string text = describe(status, "rknn_matmul_run", "int8 4x32x32, core 1");
    CHECK(text.find("rknn_matmul_run(int8 4x32x32, core 1) failed with " + std::to_string(status) +
                    ": ") == 0);
    CHECK(text.find("not documented") == std::string::npos);
    CHECK(text.back() == '.');
  }
  CHECK(describe(-99, "rknn_query", "").find("not documented") != std::string::npos);
  CHECK(kind_of(abi::kMallocFail) == ErrorKind::memory);
  CHECK(kind_of(abi::kTimeout) == ErrorKind::timeout);
  CHECK(kind_of(abi::kDeviceUnavailable) == ErrorKind::unavailable);
  CHECK(kind_of(abi::kPlatformUnmatch) == ErrorKind::unavailable);
  CHECK(kind_of(abi::kFail) == ErrorKind::device);
  CHECK(kind_of(-99) == ErrorKind::device);
}

TEST_CASE("check passes success and throws the rest") {
  check(0, "rknn_matmul_run", "");
  CHECK(fake::failure_of([] { check(-4, "rknn_create_mem", "1 MiB"); }).kind == ErrorKind::memory);
  CHECK(fake::failure_of([] { check(1, "rknn_matmul_run", "x"); }).kind == ErrorKind::device);
}

TEST_CASE("a run that fails after the driver's patience has timed out") {
  using namespace std::chrono_literals;
  CHECK(status_of_run(abi::kFail, 6s) == abi::kTimeout);
  CHECK(status_of_run(abi::kFail, 4999ms) == abi::kFail);
  CHECK(status_of_run(abi::kSuccess, 18s) == abi::kSuccess);
  CHECK(status_of_run(abi::kParamInvalid, 18s) == abi::kParamInvalid);
}
