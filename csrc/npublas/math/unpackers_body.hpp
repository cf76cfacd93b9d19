// # The body of the unpackers
// Included by one file for each set of instructions, after it has defined, in the same anonymous
// namespace, its vectors:
//
//   Wide     of 32 bits each, as many as there are in a register; load_wide_groups, stream_wide
//   Words    the same of a *unit*, `kUnit` columns (4 or 8) whose Doubles fill a register (or two);
//            load_groups, widen_float, widen_integer, narrow, narrow_to_wide, broadcast,
//            load_doubles, store_doubles, lost
//   any, stream_line, copy_line
//
// Nothing here has external linkage, and nothing of the standard library is instantiated: the
// linker must not find the copy that was compiled for other machines.

constexpr int kWide = int(sizeof(Wide) / sizeof(std::uint32_t));
typedef float WideFloats __attribute__((vector_size(sizeof(Wide))));
typedef std::uint16_t WideHalves __attribute__((vector_size(sizeof(Wide))));
typedef std::uint8_t WideBytes __attribute__((vector_size(sizeof(Wide))));
constexpr std::uint32_t kMagnitude = 0x7fffffffu, kSmallestNormal = 0x00800000u,
                        kInfinity = 0x7f800000u;

template <typename T>
constexpr int kLine = int(kLineBytes / std::int64_t(sizeof(T)));  // columns

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

template <bool is_native>
inline Words load_unit(const std::uint32_t* surface, int unit, std::ptrdiff_t group_step) {
  if constexpr (is_native)
    return load_groups(surface + unit * (kUnit / 4) * group_step, group_step);
  return read<Words>(surface + unit * kUnit);
}

template <bool is_native>
inline Wide load_wide(const std::uint32_t* surface, int wide, std::ptrdiff_t group_step) {
  if constexpr (is_native)
    return load_wide_groups(surface + wide * (kWide / 4) * group_step, group_step);
  return read<Wide>(surface + wide * kWide);
}

/// The SeenInStrips of a vector: what all parts of it have.
inline Words folded(Wide wide) {
  Words words = {};
  for (int i = 0; i < kWide / kUnit; ++i) {
    Words part;
    __builtin_memcpy(&part, reinterpret_cast<const char*>(&wide) + i * int(sizeof part),
                     sizeof part);
    words |= part;
  }
  return words;
}

// Asks for what is needed two lines of the result from here, `columns` each. Of a native surface a
// line has four rows. (If it weren't inlined at once, g++ 12 would see a call without effects, and
// leave it out.)
template <bool is_native, int columns>
[[gnu::always_inline]] inline void prefetch(const std::uint32_t* surface, std::ptrdiff_t group_step,
                                            std::int64_t row) {
  if constexpr (is_native) {
    if (row % 4 != 0) return;
    surface += columns / 2 * group_step;
    for (int group = 0; group < columns / 4; ++group)
      __builtin_prefetch(surface + group * group_step);
  } else {
    for (int column = 0; column < columns; column += 16)
      __builtin_prefetch(surface + 2 * columns + column);
  }
}

/// The doubles of a unit's floats.
inline Doubles widen_part(Wide wide, int unit) {
  Words words;
  __builtin_memcpy(&words, reinterpret_cast<const char*>(&wide) + unit * int(sizeof words),
                   sizeof words);
  return widen_float(words);
}

/// The lower halves of the elements of two vectors.
inline Wide lower_halves(Wide first, Wide second) {
  WideHalves evens;
  for (int i = 0; i < 2 * kWide; ++i) evens[i] = std::uint16_t(2 * i);
  return (Wide)__builtin_shuffle((WideHalves)first, (WideHalves)second, evens);
}
inline Wide lower_bytes(Wide first, Wide second) {
  WideBytes evens;
  for (int i = 0; i < 4 * kWide; ++i) evens[i] = std::uint8_t(2 * i);
  return (Wide)__builtin_shuffle((WideBytes)first, (WideBytes)second, evens);
}

/// `before + sums` in each element, modulo the range of T.
template <typename T>
inline Wide add(Wide before, Wide sums) {
  if constexpr (sizeof(T) == 1) return (Wide)((WideBytes)before + (WideBytes)sums);
  if constexpr (sizeof(T) == 2) return (Wide)((WideHalves)before + (WideHalves)sums);
  return before + sums;
}

/// Modulo the range of T, which is unsigned.
template <typename T, bool is_native, Way way>
void integers(const Strip& given, SeenInStrips& seen) {
  const Strip strip = given;               // of which the compiler knows that no store changes it
  constexpr int wides = kLine<T> / kWide;  // of sums
  constexpr int stored = int(kLineBytes) / int(sizeof(Wide));
  Wide any_main = {};
  for (std::int64_t line = 0; line < strip.lines; ++line) {
    const std::int64_t column = line * kLine<T>;
    const std::uint32_t* from = strip.main + column / 4 * strip.group_step;
    const auto* const of_rows = static_cast<const std::uint32_t*>(strip.of_rows);
    const auto* const of_columns = static_cast<const std::uint32_t*>(strip.of_columns) + column;
    std::byte* to = strip.to + line * kLineBytes;
    for (std::int64_t row = 0; row < strip.rows; ++row) {
      prefetch<is_native, kLine<T>>(from, strip.group_step, row);
      Wide sums[wides];
      for (int i = 0; i < wides; ++i) {
        sums[i] = load_wide<is_native>(from, i, strip.group_step);
        any_main |= sums[i];
        sums[i] += read<Wide>(of_columns + i * kWide) + of_rows[row];
      }
      if constexpr (sizeof(T) <= 2)
        for (int i = 0; i < wides / 2; ++i) sums[i] = lower_halves(sums[2 * i], sums[2 * i + 1]);
      if constexpr (sizeof(T) == 1)
        for (int i = 0; i < wides / 4; ++i) sums[i] = lower_bytes(sums[2 * i], sums[2 * i + 1]);
      for (int i = 0; i < stored; ++i) {
        std::byte* const at = to + i * int(sizeof(Wide));
        if constexpr (way == Way::stream)
          stream_wide(at, sums[i]);
        else if constexpr (way == Way::add)
          write(at, add<T>(read<Wide>(at), sums[i]));
        else
          write(at, sums[i]);
      }
      from += strip.row_step;
      to += strip.pitch;
    }
  }
  write(seen.main, read<Words>(seen.main) | folded(any_main));
}

/// `sums`: anything but integers. T is float or double.
template <SumsOf sums, typename T, bool is_native, Way way>
void scaled(const Strip& given, SeenInStrips& seen) {
  constexpr int units = kLine<T> / kUnit;
  constexpr bool is_double = sizeof(T) == sizeof(double);
  const Strip strip = given;  // of which the compiler knows that no store changes it
  Words any_main = read<Words>(seen.main), any_a_low = read<Words>(seen.a_low),
        any_b_low = read<Words>(seen.b_low), largest = read<Words>(seen.largest);
  bool underflow = false;
  for (std::int64_t line = 0; line < strip.lines; ++line) {
    const std::int64_t column = line * kLine<T>;
    std::ptrdiff_t at = column / 4 * strip.group_step;
    const auto* const of_rows = static_cast<const double*>(strip.of_rows);
    const auto* const of_columns = static_cast<const double*>(strip.of_columns) + column;
    Doubles column_scales[units];
    for (int unit = 0; unit < units; ++unit)
      column_scales[unit] = load_doubles(of_columns + unit * kUnit);
    std::byte* to = strip.to + line * kLineBytes;
    for (std::int64_t row = 0; row < strip.rows; ++row) {
      prefetch<is_native, kLine<T>>(strip.main + at, strip.group_step, row);
      if constexpr (sums == SumsOf::floats_in_parts) {
        if (strip.a_low) prefetch<is_native, kLine<T>>(strip.a_low + at, strip.group_step, row);
        if (strip.b_low) prefetch<is_native, kLine<T>>(strip.b_low + at, strip.group_step, row);
      }
      const Doubles row_scale = broadcast(of_rows[row]);
      Doubles totals[units];
      Words results[units];
      Words irregular = {};
      for (int unit = 0; unit < units; ++unit) {
        const Words main = load_unit<is_native>(strip.main + at, unit, strip.group_step);
        any_main |= main;
        Doubles sum;
        if constexpr (sums == SumsOf::quantized)
          sum = widen_integer(main);
        else
          sum = widen_float(main);
        if constexpr (sums == SumsOf::floats_in_parts) {
          Doubles low = broadcast(0.0);
          if (strip.a_low) {
            const Words a_low = load_unit<is_native>(strip.a_low + at, unit, strip.group_step);
            any_a_low |= a_low;
            low = widen_float(a_low);
          }
          if (strip.b_low) {
            const Words b_low = load_unit<is_native>(strip.b_low + at, unit, strip.group_step);
            any_b_low |= b_low;
            low = low + widen_float(b_low);
          }
          sum = sum + low * broadcast(kLowScale);
        }
        // The product of the scales is exact: powers of two, or floats.
        const Doubles exact = row_scale * column_scales[unit] * sum;
        // A zero is +0 whatever its terms' signs, as a sum that starts at +0 is.
        Doubles before = broadcast(0.0);
        std::byte* const unit_to = to + unit * kUnit * int(sizeof(T));
        if constexpr (way == Way::add) {
          if constexpr (is_double)
            before = load_doubles(unit_to);
          else
            before = widen_float(read<Words>(unit_to));
        }
        totals[unit] = before + exact;
        results[unit] = narrow(totals[unit]);
        // Whatever isn't a normal number is as large as infinity here.
        const Words size = (results[unit] & kMagnitude) - kSmallestNormal;
        irregular = size > irregular ? size : irregular;
        if constexpr (is_double)
          store_doubles(unit_to, totals[unit]);
        else
          write(unit_to, results[unit]);
      }
      if (any(Words(irregular >= kInfinity - kSmallestNormal))) {
        for (int unit = 0; unit < units; ++unit) {
          const Words magnitude = results[unit] & kMagnitude;
          largest = magnitude > largest ? magnitude : largest;
          if constexpr (!is_double) underflow |= lost(totals[unit], widen_float(results[unit]));
        }
      }
      at += strip.row_step;
      to += strip.pitch;
    }
  }
  write(seen.main, any_main);
  write(seen.a_low, any_a_low);
  write(seen.b_low, any_b_low);
  write(seen.largest, largest);
  seen.underflow |= underflow;
}

// Where all scales are powers of two, they are taken off in float32:
//
//   float32(double(sum) · 2^e)  =  float32(sum) · 2^e
//
// to the last bit, and without a flag, if both sides are normal numbers, and if the sum is zero.
// The same holds with `before` added, unless there are low parts: adding two floats in double and
// rounding that is what adding them in float32 is (Figueroa 1995: 53 >= 2·24 + 2). A line with any
// other element goes the general way.
template <SumsOf sums, bool is_native, Way way>
void scaled_by_powers(const Strip& given, SeenInStrips& seen) {
  constexpr Way general = way == Way::add ? Way::add : Way::store;
  if (!given.row_floats) {
    scaled<sums, float, is_native, general>(given, seen);
    return;
  }
  const Strip strip = given;  // of which the compiler knows that no store changes it
  constexpr int wides = kLine<float> / kWide;
  constexpr bool in_parts = sums == SumsOf::floats_in_parts;
  Wide any_main = {}, any_a_low = {}, any_b_low = {}, largest = {};
  for (std::int64_t line = 0; line < strip.lines; ++line) {
    const std::int64_t column = line * kLine<float>;
    std::ptrdiff_t at = column / 4 * strip.group_step;
    WideFloats column_scales[wides];
    for (int i = 0; i < wides; ++i)
      column_scales[i] = read<WideFloats>(strip.column_floats + column + i * kWide);
    std::byte* to = strip.to + line * kLineBytes;
    for (std::int64_t row = 0; row < strip.rows; ++row) {
      prefetch<is_native, kLine<float>>(strip.main + at, strip.group_step, row);
      if constexpr (in_parts) {
        if (strip.a_low) prefetch<is_native, kLine<float>>(strip.a_low + at, strip.group_step, row);
        if (strip.b_low) prefetch<is_native, kLine<float>>(strip.b_low + at, strip.group_step, row);
      }
      Wide read_bits[wides], results[wides], irregular = {}, irregulars[wides];
      for (int i = 0; i < wides; ++i) {
        const Wide main = load_wide<is_native>(strip.main + at, i, strip.group_step);
        any_main |= main;
        read_bits[i] = main;
        Wide sum = main;
        if constexpr (in_parts) {
          Wide a_low = {}, b_low = {};
          if (strip.a_low) a_low = load_wide<is_native>(strip.a_low + at, i, strip.group_step);
          if (strip.b_low) b_low = load_wide<is_native>(strip.b_low + at, i, strip.group_step);
          any_a_low |= a_low;
          any_b_low |= b_low;
          read_bits[i] |= a_low | b_low;
          Doubles doubles[kWide / kUnit];
          for (int unit = 0; unit < kWide / kUnit; ++unit) {
            const Doubles low = widen_part(a_low, unit) + widen_part(b_low, unit);
            doubles[unit] = widen_part(main, unit) + low * broadcast(kLowScale);
          }
          sum = narrow_to_wide(doubles);
        }
        const WideFloats result = (WideFloats)sum * (column_scales[i] * strip.row_floats[row]);
        results[i] = (Wide)result;
        irregulars[i] =
            (Wide)((results[i] & kMagnitude) - kSmallestNormal >= kInfinity - kSmallestNormal);
        if constexpr (in_parts)
          irregulars[i] |=
              (Wide)((sum & kMagnitude) - kSmallestNormal >= kInfinity - kSmallestNormal);
        irregular |= irregulars[i];
      }
      bool general_way = false;
      if (any(irregular)) {
        for (int i = 0; i < wides; ++i) {
          general_way |= any(irregulars[i] & (Wide)((read_bits[i] & kMagnitude) != 0));
          if constexpr (way != Way::add)
            results[i] = (Wide)((WideFloats)results[i] + 0.0f);  // a zero is +0
        }
      }
      if (general_way) {
        Strip one = strip;
        one.main += at;
        if (in_parts && one.a_low) one.a_low += at;
        if (in_parts && one.b_low) one.b_low += at;
        one.of_rows = static_cast<const double*>(strip.of_rows) + row;
        one.of_columns = static_cast<const double*>(strip.of_columns) + column;
        one.rows = one.lines = 1;
        one.to = to;
        scaled<sums, float, is_native, general>(one, seen);
      } else {
        for (int i = 0; i < wides; ++i) {
          std::byte* const wide_to = to + i * int(sizeof(Wide));
          if constexpr (way == Way::stream) {
            stream_wide(wide_to, results[i]);
          } else if constexpr (way == Way::add) {
            results[i] = (Wide)(read<WideFloats>(wide_to) + (WideFloats)results[i]);
            const Wide magnitude = results[i] & kMagnitude;
            largest = magnitude > largest ? magnitude : largest;
            write(wide_to, results[i]);
          } else {
            write(wide_to, results[i]);
          }
        }
      }
      at += strip.row_step;
      to += strip.pitch;
    }
  }
  write(seen.main, read<Words>(seen.main) | folded(any_main));
  write(seen.a_low, read<Words>(seen.a_low) | folded(any_a_low));
  write(seen.b_low, read<Words>(seen.b_low) | folded(any_b_low));
  const Wide beyond = (Wide)(largest >= kInfinity) & kInfinity;
  write(seen.largest, read<Words>(seen.largest) | folded(beyond));
}

template <bool is_native, Way way>
UnpackStrip unpack_strip(SumsOf sums, DType target) {
  constexpr bool streams = way == Way::stream;
  if (sums == SumsOf::integers) {
    if (target == DType::int32) return integers<std::uint32_t, is_native, way>;
    if (target == DType::int16) return integers<std::uint16_t, is_native, way>;
    if (target == DType::int8 || target == DType::uint8)
      return integers<std::uint8_t, is_native, way>;
    return nullptr;
  }
  if (target == DType::float32) {
    if (sums == SumsOf::floats) return scaled_by_powers<SumsOf::floats, is_native, way>;
    if constexpr (way == Way::add)  // rounded twice otherwise
      if (sums == SumsOf::floats_in_parts)
        return scaled<SumsOf::floats_in_parts, float, is_native, way>;
    if (sums == SumsOf::floats_in_parts)
      return scaled_by_powers<SumsOf::floats_in_parts, is_native, way>;
    if constexpr (!streams) return scaled<SumsOf::quantized, float, is_native, way>;
  }
  if constexpr (!streams) {
    if (target == DType::float64) {
      if (sums == SumsOf::floats) return scaled<SumsOf::floats, double, is_native, way>;
      if (sums == SumsOf::floats_in_parts)
        return scaled<SumsOf::floats_in_parts, double, is_native, way>;
      return scaled<SumsOf::quantized, double, is_native, way>;
    }
  }
  return nullptr;
}

template <bool is_native>
UnpackStrip unpack_strip(SumsOf sums, DType target, Way way) {
  if (way == Way::stream) return unpack_strip<is_native, Way::stream>(sums, target);
  if (way == Way::add) return unpack_strip<is_native, Way::add>(sums, target);
  return unpack_strip<is_native, Way::store>(sums, target);
}

UnpackStrip unpack_strip_of(SumsOf sums, DType target, bool is_native, Way way) {
  return is_native ? unpack_strip<true>(sums, target, way) : unpack_strip<false>(sums, target, way);
}

void flush(std::byte* buffer, std::ptrdiff_t buffer_pitch, std::byte* to, std::ptrdiff_t to_pitch,
           std::int64_t rows, std::int64_t lines, bool is_first) {
  for (std::int64_t row = 0; row < rows; ++row, buffer += buffer_pitch, to += to_pitch) {
    const auto over = std::ptrdiff_t(reinterpret_cast<std::uintptr_t>(to) % kLineBytes);
    std::int64_t line = 0;
    if (is_first && over > 0) {
      __builtin_memcpy(to, buffer, std::size_t(kLineBytes - over));
      line = 1;
    }
    for (; line < lines; ++line)
      stream_line(buffer + line * kLineBytes - over, to + line * kLineBytes - over);
    copy_line(buffer + (lines - 1) * kLineBytes, buffer - kLineBytes);
  }
}
