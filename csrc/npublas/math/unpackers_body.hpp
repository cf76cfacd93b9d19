// # The body of the unpackers
// Included by one file for each set of instructions, after it has defined, in the same anonymous
// namespace, its vectors: a *unit* is `kUnit` neighbouring columns (4 or 8),
//
//   Words    of 32 bits each, in a vector of the compiler's; Doubles the same of double
//   load_groups, widen_float, widen_integer, narrow, broadcast, load_doubles, store_doubles,
//   any, lost
//
// Nothing here has external linkage, and nothing of the standard library is instantiated: the
// linker must not find the copy that was compiled for other machines.

template <typename T>
constexpr int kLine = int(kLineBytes / std::int64_t(sizeof(T)));  // columns

/// Vectors of the compiler's, of `kUnit` elements of any type.
template <typename T>
struct Unit {
  typedef T Type __attribute__((vector_size(kUnit * sizeof(T))));
};

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

inline Words load_unit(const std::uint32_t* surface, int unit, std::ptrdiff_t group_step) {
  return load_groups(surface + unit * (kUnit / 4) * group_step, group_step);
}

// Lines of the surface that will be needed soon: a whole line of the result's columns, this many
// ahead. A native surface has four rows in a line, so that each row asks for one group of four.
constexpr int kAhead = 2;
template <int columns>
inline void prefetch(const std::uint32_t* surface, const Strip& strip, std::int64_t row) {
  const bool is_native = strip.row_step == 4;
  const std::int64_t first = is_native ? row & ~std::int64_t(3) : row;
  const std::int64_t group = is_native ? row & 3 : 0;
  for (int column = 0; column < columns; column += 16)
    __builtin_prefetch(surface + first * strip.row_step +
                       (kAhead * columns / 4 + column / 4 + group) * strip.group_step);
}

/// Modulo the range of T, which is unsigned.
template <typename T, bool accumulate>
void integers(const Strip& strip, SeenInStrips& seen) {
  using Narrow = typename Unit<T>::Type;
  constexpr int units = kLine<T> / kUnit;
  Words any_main = read<Words>(seen.main);
  for (std::int64_t line = 0; line < strip.lines; ++line) {
    const std::int64_t column = line * kLine<T>;
    const std::uint32_t* from = strip.main + column / 4 * strip.group_step;
    const auto* const of_rows = static_cast<const std::uint32_t*>(strip.of_rows);
    const auto* const of_columns = static_cast<const std::uint32_t*>(strip.of_columns) + column;
    std::byte* to = strip.to + line * kLineBytes;
    for (std::int64_t row = 0; row < strip.rows; ++row) {
      prefetch<kLine<T>>(strip.main + column / 4 * strip.group_step, strip, row);
      for (int unit = 0; unit < units; ++unit) {
        Words sum = load_unit(from, unit, strip.group_step);
        any_main |= sum;
        sum += read<Words>(of_columns + unit * kUnit) + of_rows[row];
        std::byte* const at = to + unit * kUnit * int(sizeof(T));
        Narrow narrow;
        if constexpr (sizeof(T) == sizeof(std::uint32_t))
          narrow = sum;
        else
          narrow = __builtin_convertvector(sum, Narrow);
        if constexpr (accumulate) narrow += read<Narrow>(at);
        write(at, narrow);
      }
      from += strip.row_step;
      to += strip.pitch;
    }
  }
  write(seen.main, any_main);
}

/// `sums`: anything but integers. T is float or double.
template <SumsOf sums, typename T, bool accumulate>
void scaled(const Strip& strip, SeenInStrips& seen) {
  constexpr int units = kLine<T> / kUnit;
  constexpr std::uint32_t kMagnitude = 0x7fffffffu, kSmallestNormal = 0x00800000u;
  Words any_main = read<Words>(seen.main), any_a_low = read<Words>(seen.a_low),
        any_b_low = read<Words>(seen.b_low), largest = read<Words>(seen.largest);
  for (std::int64_t line = 0; line < strip.lines; ++line) {
    const std::int64_t column = line * kLine<T>;
    std::ptrdiff_t at = column / 4 * strip.group_step;
    const auto* const of_rows = static_cast<const double*>(strip.of_rows);
    const auto* const of_columns = static_cast<const double*>(strip.of_columns) + column;
    std::byte* to = strip.to + line * kLineBytes;
    for (std::int64_t row = 0; row < strip.rows; ++row) {
      const std::ptrdiff_t first = column / 4 * strip.group_step;
      prefetch<kLine<T>>(strip.main + first, strip, row);
      if constexpr (sums == SumsOf::floats_in_parts) {
        if (strip.a_low) prefetch<kLine<T>>(strip.a_low + first, strip, row);
        if (strip.b_low) prefetch<kLine<T>>(strip.b_low + first, strip, row);
      }
      const Doubles row_scale = broadcast(of_rows[row]);
      Doubles totals[units];
      Words results[units];
      Words small = {};
      for (int unit = 0; unit < units; ++unit) {
        const Words main = load_unit(strip.main + at, unit, strip.group_step);
        any_main |= main;
        Doubles sum;
        if constexpr (sums == SumsOf::quantized)
          sum = widen_integer(main);
        else
          sum = widen_float(main);
        if constexpr (sums == SumsOf::floats_in_parts) {
          Doubles low = broadcast(0.0);
          if (strip.a_low) {
            const Words a_low = load_unit(strip.a_low + at, unit, strip.group_step);
            any_a_low |= a_low;
            low = widen_float(a_low);
          }
          if (strip.b_low) {
            const Words b_low = load_unit(strip.b_low + at, unit, strip.group_step);
            any_b_low |= b_low;
            low = low + widen_float(b_low);
          }
          sum = sum + low * broadcast(kLowScale);
        }
        // The product of the scales is exact: powers of two, or floats.
        const Doubles exact = row_scale * load_doubles(of_columns + unit * kUnit) * sum;
        // A zero is +0 whatever its terms' signs, as a sum that starts at +0 is.
        Doubles before = broadcast(0.0);
        std::byte* const unit_to = to + unit * kUnit * int(sizeof(T));
        if constexpr (accumulate) {
          if constexpr (sizeof(T) == sizeof(double))
            before = load_doubles(unit_to);
          else
            before = widen_float(read<Words>(unit_to));
        }
        totals[unit] = before + exact;
        results[unit] = narrow(totals[unit]);
        const Words magnitude = results[unit] & kMagnitude;
        largest = magnitude > largest ? magnitude : largest;
        if constexpr (sizeof(T) == sizeof(double)) {
          store_doubles(unit_to, totals[unit]);
        } else {
          small |= Words(magnitude < kSmallestNormal);
          write(unit_to, results[unit]);
        }
      }
      if constexpr (sizeof(T) != sizeof(double)) {
        if (any(small))
          for (int unit = 0; unit < units; ++unit)
            seen.underflow |= lost(totals[unit], widen_float(results[unit]));
      }
      at += strip.row_step;
      to += strip.pitch;
    }
  }
  write(seen.main, any_main);
  write(seen.a_low, any_a_low);
  write(seen.b_low, any_b_low);
  write(seen.largest, largest);
}

template <bool accumulate>
UnpackStrip unpack_strip(SumsOf sums, DType target) {
  if (sums == SumsOf::integers) {
    switch (target) {
      case DType::int8:
      case DType::uint8:
        return integers<std::uint8_t, accumulate>;
      case DType::int16:
        return integers<std::uint16_t, accumulate>;
      case DType::int32:
        return integers<std::uint32_t, accumulate>;
      default:
        return nullptr;
    }
  }
  if (target != DType::float32 && target != DType::float64) return nullptr;
  const bool wide = target == DType::float64;
  switch (sums) {
    case SumsOf::quantized:
      return wide ? scaled<SumsOf::quantized, double, accumulate>
                  : scaled<SumsOf::quantized, float, accumulate>;
    case SumsOf::floats_in_parts:
      return wide ? scaled<SumsOf::floats_in_parts, double, accumulate>
                  : scaled<SumsOf::floats_in_parts, float, accumulate>;
    default:
      return wide ? scaled<SumsOf::floats, double, accumulate>
                  : scaled<SumsOf::floats, float, accumulate>;
  }
}

UnpackStrip unpack_strip_of(SumsOf sums, DType target, bool accumulate) {
  return accumulate ? unpack_strip<true>(sums, target) : unpack_strip<false>(sums, target);
}

void stream(const std::byte* from, std::byte* to, std::int64_t lines) {
  for (std::int64_t line = 0; line < lines; ++line)
    stream_line(from + line * kLineBytes, to + line * kLineBytes);
}
