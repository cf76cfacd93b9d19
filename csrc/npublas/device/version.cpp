// # Versions
// What a runtime says of itself, and what that means: which shapes it takes, whether it may be
// used. The evidence is old-version black-box runs, the vendor's documents and users' reports.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <string_view>

#include "npublas/device/runtime.hpp"

namespace npublas::device {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Every librknnrt seen so far (1.5.0 to 2.3.2) carries its version behind these words.
constexpr std::string_view kMark = "librknnrt version: ";

std::string version_text_of(std::string_view bytes) {
  for (std::size_t at = bytes.find(kMark); at != bytes.npos; at = bytes.find(kMark, at + 1)) {
    const std::string_view rest = bytes.substr(at + kMark.size(), 200);
    const auto end =
        std::find_if(rest.begin(), rest.end(), [](char c) { return c < ' ' || c > '~'; });
    const std::string text(rest.begin(), end);
    // A format string ("librknnrt version: %s") is no version.
    if (parse_version(text) != Version{}) return text;
  }
  return "";
}

}  // namespace

Version parse_version(const std::string& text) {
  // The first "digits.digits" in the text; ".digits" may follow, and whatever comes then ("b0",
  // "a2 (hash@time)") is decoration.
  for (std::size_t at = 0; at + 2 < text.size(); ++at) {
    if (!is_digit(text[at]) || (at > 0 && is_digit(text[at - 1]))) continue;
    int parts[3] = {0, 0, 0};
    int count = 0;
    std::size_t i = at;
    while (count < 3 && i < text.size() && is_digit(text[i])) {
      for (; i < text.size() && is_digit(text[i]); ++i) {
        parts[count] = std::min(parts[count] * 10 + (text[i] - '0'), 99'999'999);
      }
      ++count;
      if (i >= text.size() || text[i] != '.') break;
      ++i;
    }
    if (count >= 2) return {parts[0], parts[1], parts[2]};
  }
  return {};
}

std::string to_string(const Version& version) {
  return std::to_string(version.major) + "." + std::to_string(version.minor) + "." +
         std::to_string(version.patch);
}

std::string version_text_in(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  struct stat status{};
  std::string text;
  if (::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
    const std::size_t size = std::size_t(status.st_size);
    void* const map = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map != MAP_FAILED) {
      text = version_text_of({static_cast<const char*>(map), size});
      ::munmap(map, size);
    }
  }
  ::close(fd);
  return text;
}

Quirks quirks_of(const Version& version) {
  Quirks quirks;
  if (version == Version{}) {
    // No version at all: the smallest limits of the supported ones.
    quirks.max_depth_int8 = quirks.max_depth_float16 = quirks.max_depth_int4 = 8192;
    quirks.untested = true;
  } else if (version < kOldestRuntime) {
    // "4096" in its documentation is bytes: int8 4096 and float16 2048 are taken, 32 more are not.
    // There is no int4 before 1.6.0.
    quirks.max_depth_int8 = 4096;
    quirks.max_depth_float16 = 2048;
    quirks.unsupported = true;
  } else if (version < Version{2, 0, 0}) {
    // 10240 is documented, and 10304 was the last one taken.
    quirks.max_depth_int8 = quirks.max_depth_float16 = quirks.max_depth_int4 = 10240;
  } else {
    // From 2.0 on a native B is cut into segments above this depth, and nobody knows where.
    quirks.max_depth_int8 = quirks.max_depth_float16 = quirks.max_depth_int4 = 8192;
    quirks.untested = version >= Version{2, 4, 0};
  }
  if (version != Version{} && version < Version{1, 5, 2}) {
    quirks.known_bad = "its matrix product crashes";  // a write to address 0 after create, 1.5.0
  } else if (version == Version{2, 2, 0}) {
    quirks.known_bad = "its float16 products are all zero, with success";
  }
  return quirks;
}

}  // namespace npublas::device
