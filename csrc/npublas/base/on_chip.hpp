// # The buffer on the chip
// How many rows of A one task of the NPU takes, with A and C in native layout: what librknnrt 1.6.0
// was seen to do with 2676 shapes (docs/runtimes.md). The rest of A are further tasks, each of
// which streams all of B.
#pragma once

#include <cstdint>

namespace npublas {

inline constexpr std::int64_t kBankBytes = 32768;     // of twelve
inline constexpr std::int64_t kEntriesPerBank = 512;  // of 64 bytes, each four chunks of a row
inline constexpr std::int64_t kBanks = 12;
inline constexpr std::int64_t kBanksOfWeights = 8;  // at least

/// Entries of `rows` rows of A, each `row_bytes` long.
constexpr std::int64_t entries_on_chip(std::int64_t rows, std::int64_t row_bytes) {
  const std::int64_t chunks = row_bytes / 16, rest = chunks % 4;
  return chunks / 4 * rows + (rest == 3 ? rows : (rest * rows + 3) / 4);
}

/// True if A fits one task. `group_bytes`: of the columns of B that are multiplied together (64 of
/// int4), over the whole depth.
constexpr bool is_one_task(std::int64_t rows, std::int64_t row_bytes, std::int64_t group_bytes) {
  const std::int64_t group = (group_bytes + kBankBytes - 1) / kBankBytes;
  const std::int64_t weights = group > kBanksOfWeights ? group : kBanksOfWeights;
  return entries_on_chip(rows, row_bytes) <= (kBanks - weights) * kEntriesPerBank;
}

/// Where A of int4 must be split, create dies of SIGFPE (1.6.0, each of 233 shapes). Whether later
/// versions do, nobody has said, so that no context is made that would need it.
constexpr bool int4_is_one_task(std::int64_t rows, std::int64_t depth) {
  return is_one_task(rows, depth / 2, 64 * (depth / 2));
}

}  // namespace npublas
