#include "report.hpp"

#include <cstdarg>
#include <cstdio>
#include <mutex>

#include "accounting.hpp"
#include "lock.hpp"
#include "settings.hpp"

namespace npublas::simulator {
namespace {

Lock mutex;
std::string& latest() {
  static std::string& text = *new std::string;  // outlives threads that are still running at exit
  return text;
}

std::string text_of(const char* format, std::va_list arguments) {
  char text[512];
  std::vsnprintf(text, sizeof text, format, arguments);
  return text;
}

// One call, so that lines of several threads don't mix.
void write_line(const char* kind, const std::string& text) {
  std::fprintf(stderr, "npublas simulator: %s%s\n", kind, text.c_str());
}

}  // namespace

void say(const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  write_line("", text_of(format, arguments));
  va_end(arguments);
}

void log(const char* format, ...) {
  if (!get(Setting::log)) return;
  std::va_list arguments;
  va_start(arguments, format);
  write_line("", text_of(format, arguments));
  va_end(arguments);
}

void violation(Violation kind, const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  const std::string text = text_of(format, arguments);
  va_end(arguments);
  write_line("VIOLATION: ", text);
  count_violation(kind);
  const std::lock_guard lock(mutex);
  latest() = text;
}

std::string last_violation() {
  const std::lock_guard lock(mutex);
  return latest();
}

void forget_violations() {
  const std::lock_guard lock(mutex);
  latest().clear();
}

}  // namespace npublas::simulator
