// # The body of the unpackers
// Included by one file for each set of instructions, after it has defined, in the same anonymous
// namespace, its vectors:
//
//   Wide     of 32 bits each, as many as there are in a register; load_wide_groups, stream_wide,
//            part
//   Words    the same of a *unit*, `kUnit` columns (4 or 8) whose Doubles fill a register (or two);
//            load_groups, widen_float, widen_integer, narrow, join, broadcast,
//            load_doubles, store_doubles, lost
//   any, stream_line, copy_line
//
// Nothing here has external linkage, and nothing of the standard library is instantiated: the
// linker must not find the copy that was compiled for other machines.

#include "npublas/math/strips_body.hpp"

constexpr int kWide = int(sizeof(Wide) / sizeof(std::uint32_t));
typedef float WideFloats __attribute__((vector_size(sizeof(Wide))));
typedef std::uint16_t WideHalves __attribute__((vector_size(sizeof(Wide))));
typedef std::uint8_t WideBytes __attribute__((vector_size(sizeof(Wide))));
constexpr std::uint32_t kMagnitude = 0x7fffffffu, kSmallestNormal = 0x00800000u,
                        kInfinity = 0x7f800000u;

template <typename T>
constexpr int kLine = int(kLineBytes / std::int64_t(sizeof(T)));  // columns

/// Of what is added to.
template <Way way>
[[gnu::always_inline]] inline void prefetch_target(const std::byte* to) {
  if constexpr (way == Way::add) __builtin_prefetch(to + 4 * kLineBytes, 1);
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

/// What all units of a vector have.
inline Words folded(Wide wide) {
  Words words = part(wide, 0);
  for (int unit = 1; unit < kWide / kUnit; ++unit) words |= part(wide, unit);
  return words;
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
    const std::ptrdiff_t ahead = ahead_of(strip, line, kLine<T>);
    const std::uint32_t* from = strip.main + column / 4 * strip.group_step;
    const auto* const of_rows = static_cast<const std::uint32_t*>(strip.of_rows);
    const auto* const of_columns = static_cast<const std::uint32_t*>(strip.of_columns) + column;
    std::byte* to = strip.to + line * kLineBytes;
    for (std::int64_t row = 0; row < strip.rows; ++row) {
      prefetch<is_native, kLine<T>>(from + ahead, strip.group_step, row);
      prefetch_target<way>(to);
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
[[gnu::noinline]] void scaled(const Strip& given, SeenInStrips& seen) {
  constexpr int units = kLine<T> / kUnit;
  constexpr bool is_double = sizeof(T) == sizeof(double);
  const Strip strip = given;  // of which the compiler knows that no store changes it
  Words any_main = read<Words>(seen.main), any_a_low = read<Words>(seen.a_low),
        any_b_low = read<Words>(seen.b_low), largest = read<Words>(seen.largest);
  bool underflow = false;
  for (std::int64_t line = 0; line < strip.lines; ++line) {
    const std::int64_t column = line * kLine<T>;
    const std::ptrdiff_t ahead = ahead_of(strip, line, kLine<T>);
    std::ptrdiff_t at = column / 4 * strip.group_step;
    const auto* const of_rows = static_cast<const double*>(strip.of_rows);
    const auto* const of_columns = static_cast<const double*>(strip.of_columns) + column;
    Doubles column_scales[units];
    for (int unit = 0; unit < units; ++unit)
      column_scales[unit] = load_doubles(of_columns + unit * kUnit);
    std::byte* to = strip.to + line * kLineBytes;
    for (std::int64_t row = 0; row < strip.rows; ++row) {
      prefetch<is_native, kLine<T>>(strip.main + at + ahead, strip.group_step, row);
      prefetch_target<way>(to);
      if constexpr (sums == SumsOf::floats_in_parts) {
        if (strip.a_low)
          prefetch<is_native, kLine<T>>(strip.a_low + at + ahead, strip.group_step, row);
        if (strip.b_low)
          prefetch<is_native, kLine<T>>(strip.b_low + at + ahead, strip.group_step, row);
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
          Doubles low = broadcast(-0.0);  // which adds nothing, not even a sign
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

// Sums of int32 whose results are all zero or normal numbers: nothing can happen to them.
template <bool is_native, Way way>
void quantized(const Strip& given, SeenInStrips& seen) {
  const Strip strip = given;  // of which the compiler knows that no store changes it
  constexpr int units = kLine<float> / kUnit, wides = kLine<float> / kWide;
  Words any_main = {};
  for (std::int64_t line = 0; line < strip.lines; ++line) {
    const std::int64_t column = line * kLine<float>;
    const std::ptrdiff_t ahead = ahead_of(strip, line, kLine<float>);
    const std::uint32_t* from = strip.main + column / 4 * strip.group_step;
    const auto* const of_rows = static_cast<const double*>(strip.of_rows);
    const auto* const of_columns = static_cast<const double*>(strip.of_columns) + column;
    Doubles column_scales[units];
    for (int unit = 0; unit < units; ++unit)
      column_scales[unit] = load_doubles(of_columns + unit * kUnit);
    std::byte* to = strip.to + line * kLineBytes;
    for (std::int64_t row = 0; row < strip.rows; ++row) {
      prefetch<is_native, kLine<float>>(from + ahead, strip.group_step, row);
      const Doubles row_scale = broadcast(of_rows[row]);
      for (int wide = 0; wide < wides; ++wide) {
        Words results[kWide / kUnit];
        for (int i = 0; i < kWide / kUnit; ++i) {
          const int unit = wide * (kWide / kUnit) + i;
          const Words sum = load_unit<is_native>(from, unit, strip.group_step);
          any_main |= sum;
          results[i] = narrow(row_scale * column_scales[unit] * widen_integer(sum));
        }
        std::byte* const at = to + wide * int(sizeof(Wide));
        if constexpr (way == Way::stream)
          stream_wide(at, join(results));
        else
          write(at, join(results));
      }
      from += strip.row_step;
      to += strip.pitch;
    }
  }
  write(seen.main, read<Words>(seen.main) | any_main);
}

template <bool is_native, Way way>
[[gnu::noinline]] void general_line(const Strip& strip, std::int64_t line, std::int64_t row,
                                    SeenInStrips& seen) {
  const std::int64_t column = line * kLine<float>;
  Strip one = strip;
  one.main += column / 4 * strip.group_step + row * strip.row_step;
  one.of_rows = static_cast<const double*>(strip.of_rows) + row;
  one.of_columns = static_cast<const double*>(strip.of_columns) + column;
  one.rows = one.lines = 1;
  one.to += line * kLineBytes + row * strip.pitch;
  scaled<SumsOf::floats, float, is_native, way>(one, seen);
}

// Sums without low parts, where all scales are powers of two: these are taken off in float32,
//
//   float32(double(sum) · 2^e) = sum · 2^e
//
// to the last bit, and without a flag, if the right side is a normal number, or the sum is zero.
// The same holds with `before` added, as adding two floats in double and rounding that is what
// adding them in float32 is (Figueroa 1995: 53 >= 2·24 + 2). A line with any other element goes the
// general way.
template <bool is_native, Way way>
void scaled_by_powers(const Strip& given, SeenInStrips& seen) {
  constexpr Way general = way == Way::add ? Way::add : Way::store;
  if (!given.row_floats) {
    scaled<SumsOf::floats, float, is_native, general>(given, seen);
    return;
  }
  const Strip strip = given;  // of which the compiler knows that no store changes it
  constexpr int wides = kLine<float> / kWide;
  Wide any_main = {}, largest = {};
  for (std::int64_t line = 0; line < strip.lines; ++line) {
    const std::int64_t column = line * kLine<float>;
    const std::ptrdiff_t ahead = ahead_of(strip, line, kLine<float>);
    const std::uint32_t* from = strip.main + column / 4 * strip.group_step;
    WideFloats column_scales[wides];
    for (int i = 0; i < wides; ++i)
      column_scales[i] = read<WideFloats>(strip.column_floats + column + i * kWide);
    std::byte* to = strip.to + line * kLineBytes;
    for (std::int64_t row = 0; row < strip.rows; ++row) {
      prefetch<is_native, kLine<float>>(from + ahead, strip.group_step, row);
      prefetch_target<way>(to);
      Wide sums[wides], results[wides], irregulars[wides], irregular = {};
      for (int i = 0; i < wides; ++i) {
        sums[i] = load_wide<is_native>(from, i, strip.group_step);
        any_main |= sums[i];
        results[i] = (Wide)((WideFloats)sums[i] * (column_scales[i] * strip.row_floats[row]));
        irregulars[i] =
            (Wide)((results[i] & kMagnitude) - kSmallestNormal >= kInfinity - kSmallestNormal);
        irregular |= irregulars[i];
      }
      bool is_general = false;
      if (any(irregular)) {
        for (int i = 0; i < wides; ++i) {
          is_general |= any(irregulars[i] & (Wide)((sums[i] & kMagnitude) != 0));
          // A zero is +0 where it isn't added to anything.
          if constexpr (way != Way::add) results[i] = (Wide)((WideFloats)results[i] + 0.0f);
        }
      }
      if (is_general) {
        general_line<is_native, general>(given, line, row, seen);
      } else {
        for (int i = 0; i < wides; ++i) {
          std::byte* const at = to + i * int(sizeof(Wide));
          if constexpr (way == Way::stream) {
            stream_wide(at, results[i]);
          } else if constexpr (way == Way::add) {
            results[i] = (Wide)(read<WideFloats>(at) + (WideFloats)results[i]);
            const Wide magnitude = results[i] & kMagnitude;
            largest = magnitude > largest ? magnitude : largest;
            write(at, results[i]);
          } else {
            write(at, results[i]);
          }
        }
      }
      from += strip.row_step;
      to += strip.pitch;
    }
  }
  write(seen.main, read<Words>(seen.main) | folded(any_main));
  const Wide beyond = (Wide)(largest >= kInfinity) & kInfinity;
  write(seen.largest, read<Words>(seen.largest) | folded(beyond));
}

template <typename T, bool is_native, Way way>
UnpackStrip scaled_of(SumsOf sums) {
  if (sums == SumsOf::floats) return scaled<SumsOf::floats, T, is_native, way>;
  if (sums == SumsOf::quantized) return scaled<SumsOf::quantized, T, is_native, way>;
  return scaled<SumsOf::floats_in_parts, T, is_native, way>;
}

template <bool is_native, Way way>
UnpackStrip unpack_strip(SumsOf sums, DType target) {
  if (sums == SumsOf::integers) {
    if (target == DType::int32) return integers<std::uint32_t, is_native, way>;
    if (target == DType::int16) return integers<std::uint16_t, is_native, way>;
    if (target == DType::int8 || target == DType::uint8)
      return integers<std::uint8_t, is_native, way>;
    return nullptr;
  }
  if (target == DType::float32 && sums == SumsOf::floats) return scaled_by_powers<is_native, way>;
  if constexpr (way != Way::add)
    if (target == DType::float32 && sums == SumsOf::ordinary) return quantized<is_native, way>;
  if (sums == SumsOf::ordinary) sums = SumsOf::quantized;
  if constexpr (way == Way::stream) {
    return nullptr;
  } else {
    if (target == DType::float32) return scaled_of<float, is_native, way>(sums);
    if (target == DType::float64) return scaled_of<double, is_native, way>(sums);
    return nullptr;
  }
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
