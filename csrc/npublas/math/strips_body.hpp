// # What unpackers and finishers share
// Included by their bodies, in the namespace that is theirs: vectors to and from memory, and asking
// for sums.

template <typename Vector>
inline Vector read(const void* from) {
  Vector vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}
template <typename Vector>
inline void write(void* to, const Vector& vector) {
  __builtin_memcpy(to, &vector, sizeof vector);
}

/// Elements from a line of a strip to what is needed two lines later, which may be the next
/// strip's.
template <typename Strip>
[[gnu::always_inline]] inline std::ptrdiff_t ahead_of(const Strip& strip, std::int64_t line,
                                                      int columns) {
  const bool is_here = line + 2 < strip.lines;
  const std::int64_t lines = is_here ? 2 : 2 - strip.lines;
  return (is_here ? 0 : strip.next) + lines * (columns / 4) * strip.group_step;
}

/// Asks for the sums of a line of the result. Of a native surface a line of the cache has four
/// rows. (If it weren't inlined at once, g++ 12 would see a call without effects, and leave it
/// out.)
template <bool is_native, int columns>
[[gnu::always_inline]] inline void prefetch(const std::uint32_t* surface, std::ptrdiff_t group_step,
                                            std::int64_t row) {
  if constexpr (is_native) {
    if (row % 4 != 0) return;
    for (int group = 0; group < columns / 4; ++group)
      __builtin_prefetch(surface + group * group_step);
  } else {
    for (int column = 0; column < columns; column += 16) __builtin_prefetch(surface + column);
  }
}
