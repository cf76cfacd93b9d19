// # The C++ tests
// Every test_*.cpp beside this file, in one program; `-tc="*words*"` runs some of them.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
