// # Finishing strips
// Included after finishers_body.hpp. Sums come from the surface, lose their scales, get a bias and
// leave rounded, without a stop in memory. Where a sum is one float, p, and the bias another, b,
//
//   round(double(p) + double(b)) = round(p + b)
//
// to the last bit, if p + b, which is rounded to float32, doesn't lie halfway between two results:
// for rounding keeps order, and halfway is a float. (Into float32 it holds always: Figueroa 1995,
// 53 >= 2·24 + 2.) If it does lie there, all depends on whether p + b was exact.

template <bool is_native>
inline Words load_step(const std::uint32_t* surface, int step, std::ptrdiff_t group_step) {
  if constexpr (is_native)
    return load_groups(surface + step * (kStep / 4) * group_step, group_step);
  return read<Words>(surface + step * kStep);
}

constexpr std::uint32_t kSmallestNormal = 0x00800000u, kInfinity = 0x7f800000u;

/// A sum of p and b that may not be what it should: beyond what the target's numbers surely are,
/// halfway between two of them, or as large as b alone. If p is below float32's normal numbers, and
/// may have lost bits, and the sum is surely large enough, then it is b: 2^-126 is less than half
/// of the last place of 2^-100.
template <typename Target>
inline Mask doubtful(Floats sum, Floats b) {
  constexpr std::uint32_t kSurely = 0x0d800000u;  // 2^-100
  constexpr std::uint32_t kLeast = Target::kLeast > kSurely ? Target::kLeast : kSurely;
  const Words size = (Words)sum & kMagnitude;
  const Mask beyond = where_at_least(size - kLeast, Target::kMost - kLeast);
  const Mask alone = where_same(sum, b);
  if constexpr (Target::kBelow == 0)
    return Mask(beyond | alone);
  else
    return Mask(beyond | alone | where_equal((Words)sum & Target::kBelow, Target::kTie));
}

/// True if the products of sums with powers of two are exact.
inline bool are_zero_or_normal(Words sums, Floats products) {
  const Words size = ((Words)products & kMagnitude) - kSmallestNormal;
  return !any(at_least(size, kInfinity - kSmallestNormal) & (Words)((sums & kMagnitude) != 0));
}

/// Of a doubtful step: true if `results`, of p + b, is right after all. `p` isn't -0.
template <typename Target, typename Results>
inline bool settle(Floats p, Floats b, Results results, bool is_relu, bool& underflow) {
  const Floats sum = p + b, b_again = sum - p;
  const Floats error = (p - (sum - b_again)) + (b - b_again);  // Knuth's, exact
  const Words size = (Words)sum & kMagnitude;
  Words bad = at_least(size, Target::kMost);
  const Words small = ~at_least(size, Target::kLeast);
  if constexpr (Target::kBelow != 0) {
    const Words tie = (Words)(((Words)sum & Target::kBelow) == Target::kTie);
    bad |= (tie | small) & (Words)(error != 0.0f);
  }
  if constexpr (Target::kSmallest == ToFloat16::kSmallest)
    underflow |= any(small & ~bad & (Words)(unhalve(results) != sum) &
                     ((Words)(sum > 0.0f) | (is_relu ? 0u : ~0u)));
  else
    bad |= small & (Words)(size != 0);
  return !any(bad);
}

template <typename Target>
inline auto finished(Floats sum, bool is_relu) {
  const auto results = Target::round(sum);
  return is_relu ? relu_of_bits(results) : results;
}

/// Two neighbouring steps of a line, of which there are two or more.
template <bool streams, typename Results>
inline void put(std::byte* to, const Results& lower, const Results& upper) {
  if constexpr (streams) {
    stream_steps(to, lower, upper);
  } else {
    write(to, lower);
    write(to + sizeof lower, upper);
  }
}

template <typename Target>
constexpr int kColumns = 64 / int(sizeof(typename Target::Bits));
template <typename Target>
constexpr int kSteps = kColumns<Target> / kStep;

template <typename Target, bool streams>
inline void put_line(std::byte* to, const Floats (&sums)[kSteps<Target>], bool is_relu) {
  constexpr int each = int(sizeof(finished<Target>(sums[0], is_relu)));
  if constexpr (kSteps<Target> == 1) {
    if constexpr (streams)
      stream_step(to, finished<Target>(sums[0], is_relu));
    else
      write(to, finished<Target>(sums[0], is_relu));
  } else {
    for (int step = 0; step < kSteps<Target>; step += 2)
      put<streams>(to + step * each, finished<Target>(sums[step], is_relu),
                   finished<Target>(sums[step + 1], is_relu));
  }
}

/// A line of a row of which a step is doubtful. False if it has to go the general way. (Not
/// inlined: its constants would take the registers of the loop.)
template <typename Target, bool is_native, bool streams>
[[gnu::noinline, gnu::cold]] bool finish_doubtful(const FinishStrip& strip, std::int64_t line,
                                                  std::int64_t row, bool& underflow) {
  const std::int64_t column = line * kColumns<Target>;
  const std::uint32_t* const from =
      strip.main + column / 4 * strip.group_step + row * strip.row_step;
  std::byte* const to = strip.to + line * 64 + row * strip.pitch;
  Floats sums[kSteps<Target>];
  for (int step = 0; step < kSteps<Target>; ++step) {
    const std::int64_t at = column + step * kStep;
    const Words main = load_step<is_native>(from, step, strip.group_step);
    const Floats p =
        (Floats)main * (read<Floats>(strip.column_floats + at) * strip.row_floats[row]);
    const Floats b = read<Floats>(strip.bias + at), unpacked = p + 0.0f;  // a zero is +0
    sums[step] = unpacked + b;
    if (any(doubtful<Target>(sums[step], b)) &&
        !(are_zero_or_normal(main, p) &&
          settle<Target>(unpacked, b, Target::round(sums[step]), strip.relu, underflow)))
      return false;
  }
  put_line<Target, streams>(to, sums, strip.relu);
  return true;
}

template <typename Target, bool is_native, bool streams>
std::int64_t finish_lines(const FinishStrip& given, std::int64_t first, SeenInStrips& seen,
                          bool& underflow) {
  constexpr int steps = kSteps<Target>;
  const FinishStrip strip = given;  // of which the compiler knows that no store changes it
  Words any_main = {};
  std::int64_t line = first / strip.rows, row = first % strip.rows;
  for (; line < strip.lines; ++line, row = 0) {
    const std::int64_t column = line * kColumns<Target>;
    const std::ptrdiff_t ahead = ahead_of(strip, line, kColumns<Target>);
    const std::uint32_t* from = strip.main + column / 4 * strip.group_step + row * strip.row_step;
    std::byte* to = strip.to + line * 64 + row * strip.pitch;
    Floats scales[steps], bias[steps];
    for (int step = 0; step < steps; ++step) {
      scales[step] = read<Floats>(strip.column_floats + column + step * kStep);
      bias[step] = read<Floats>(strip.bias + column + step * kStep);
    }
    for (; row < strip.rows; ++row) {
      prefetch<is_native, kColumns<Target>>(from + ahead, strip.group_step, row);
      Floats sums[steps];
      Mask doubts = {};
      for (int step = 0; step < steps; ++step) {
        const Words main = load_step<is_native>(from, step, strip.group_step);
        any_main |= main;
        const Floats p = (Floats)main * (scales[step] * strip.row_floats[row]);
        sums[step] = p + bias[step];
        doubts = Mask(doubts | doubtful<Target>(sums[step], bias[step]));
      }
      if (any(doubts)) [[unlikely]] {
        if (!finish_doubtful<Target, is_native, streams>(given, line, row, underflow)) goto end;
      } else {
        put_line<Target, streams>(to, sums, strip.relu);
      }
      from += strip.row_step;
      to += strip.pitch;
    }
  }
  row = 0;
end:
  std::uint32_t lanes[kStep];
  write(lanes, any_main);
  for (int lane = 0; lane < kStep; ++lane) seen.main[lane % SeenInStrips::kLanes] |= lanes[lane];
  return line * strip.rows + row;
}

template <typename Target>
std::int64_t finish_strip(const FinishStrip& strip, std::int64_t first, SeenInStrips& seen,
                          bool& underflow) {
  const auto finish = strip.is_native ? strip.streams ? finish_lines<Target, true, true>
                                                      : finish_lines<Target, true, false>
                      : strip.streams ? finish_lines<Target, false, true>
                                      : finish_lines<Target, false, false>;
  return finish(strip, first, seen, underflow);
}

FinishLines strip_finisher_of(SumsOf sums, DType target) {
  if (sums != SumsOf::floats) return nullptr;
  if (target == DType::float16) return finish_strip<ToFloat16>;
  if (target == DType::bfloat16) return finish_strip<ToBFloat16>;
  if (target == DType::float32) return finish_strip<ToFloat32>;
  return nullptr;
}
