#include "npublas/exec/results.hpp"

#include <cstring>
#include <optional>
#include <string>

#include "npublas/base/error.hpp"
#include "npublas/exec/operands.hpp"
#include "npublas/math/check.hpp"
#include "npublas/math/int4.hpp"
#include "npublas/math/repair.hpp"
#include "npublas/math/unpack.hpp"

namespace npublas::exec {
namespace {

class Unpacking {
 public:
  Unpacking(Job& job, int stream, const Step& step, const Shop& shop)
      : job_(job),
        plan_(job.plan),
        product_(job.request.product),
        step_(step),
        shop_(shop),
        core_(job.bench->cores[std::size_t(stream)]),
        sums_(core_.sums[std::size_t(step.sums)]),
        a_(job.bench->a[std::size_t(step.a_slot)]),
        b_(job.bench->b[std::size_t(step.b_slot)]),
        waits_(has_to_wait()) {}

  void fetch() {
    shop_.syncs.from_device(job_, *sums_.main);
    if (has_a_low() && sums_.a_low) shop_.syncs.from_device(job_, **sums_.a_low);
    if (has_b_low()) shop_.syncs.from_device(job_, **sums_.b_low);
  }

  void run() {
    if (plan_.method == Method::float32) note_losses();
    at_once_ = waits_ && step_.k == 0 && step_.last_k && is_certain();
    if (waits_ && !at_once_)
      core_.waiting.resize(std::size_t(plan_.tile_rows * plan_.tile_columns) * wide());
    if (!unpack_tile() || !step_.last_k || at_once_) return;
    if (!is_certain() && !make_accurate()) return;
    if (waits_) finish();
  }

 private:
  // The sums wait for their last K tile outside of C where more is to be done to them. Quantised
  // sums of several tiles are added in double, so that it doesn't matter who adds them.
  bool has_to_wait() const {
    const bool in_place = product_.out == DType::float64 ||
                          (product_.out == DType::float32 &&
                           (!is_quantized(plan_.method) || plan_.depth_tiles() == 1));
    return is_float(product_.out) && (!job_.request.epilogue.is_plain() || !in_place);
  }
  std::size_t wide() const {
    return product_.out == DType::float64 || is_quantized(plan_.method) ? 8 : 4;
  }

  bool has_a_low() const { return plan_.method == Method::float32 && !a_.low_zero; }
  bool has_b_low() const { return plan_.method == Method::float32 && !b_.low_zero; }

  std::size_t sum_bytes() const {
    std::size_t bytes = sums_.main->size();
    if (has_a_low() && sums_.a_low) bytes += (*sums_.a_low)->size();
    if (has_b_low()) bytes += (*sums_.b_low)->size();
    return bytes;
  }
  std::size_t target_bytes() const { return waits_ && !at_once_ ? wide() : bytes_of(product_.out); }

  /// C, or where the sums wait.
  Target target() {
    if (waits_)
      return {.data = core_.waiting.data(),
              .row_stride = step_.columns * std::ptrdiff_t(wide()),
              .column_stride = std::ptrdiff_t(wide()),
              .dtype = sums_type(),
              .rows = step_.rows,
              .columns = step_.columns};
    return in_c();
  }
  Target in_c() const {
    return {.data = product_.c.at(step_.batch, step_.row, step_.column),
            .row_stride = product_.c.row_stride,
            .column_stride = product_.c.column_stride,
            .dtype = product_.out,
            .rows = step_.rows,
            .columns = step_.columns,
            .whole_bytes = plan_.depth_tiles() == 1 ? whole_bytes() : 0};
  }
  std::size_t whole_bytes() const {
    const Shape& shape = plan_.shape;
    return std::size_t(shape.batch * shape.m * shape.n) * bytes_of(product_.out);
  }

  Surface surface() const {
    return {plan_.tile_rows, plan_.tile_columns,
            plan_.element == Element::int4 ? Layout::native : plan_.layout};
  }

  bool unpack_tile() {
    Unpacked unpacked;
    {
      const Timed timed(shop_.work.unpack_nanoseconds, trace::Act::unpack, job_,
                        sum_bytes() + std::size_t(step_.rows * step_.columns) * target_bytes());
      const Access access(job_);
      if (!access) return false;
      unpacked = plan_.element == Element::int4 ? unpack_parts() : unpack_sums(sums_.main->data());
    }
    shop_.work.unpacked_bytes += sum_bytes();
    if (unpacked.main_zero && !a_.zero && !b_.zero) believe_zeros(a_.memory->data(), *b_.memory);
    if (has_a_low() && unpacked.a_low_zero && !b_.zero) believe_zeros(a_low(), *b_.memory);
    if (has_b_low() && unpacked.b_low_zero && !a_.zero) believe_zeros(a_.memory->data(), *b_.low);
    if (!unpacked.finite) {
      job_.end(Ended::overflow);
      return false;
    }
    if (unpacked.underflow) job_.underflowed = true;
    return true;
  }

  const std::byte* a_low() const {
    if (a_.low) return (*a_.low)->data();
    return a_.memory->data() + bytes_of(plan_.element, std::size_t(plan_.tile_rows) *
                                                           std::size_t(plan_.surface_depth()));
  }

  Unpacked unpack_parts() {
    const bool zero = !sums_of_parts(reinterpret_cast<const std::int16_t*>(sums_.main->data()),
                                     plan_.surface_rows(), plan_.parts, plan_.tile_rows,
                                     plan_.tile_columns, core_.whole.data());
    Unpacked unpacked = unpack_sums(reinterpret_cast<const std::byte*>(core_.whole.data()));
    // Sums of two parts may cancel, and only those of the device tell whether it has failed.
    unpacked.main_zero = zero;
    return unpacked;
  }

  Unpacked unpack_sums(const std::byte* main) {
    const bool accumulate = step_.k > 0;
    const auto* const whole = reinterpret_cast<const std::int32_t*>(main);
    if (!is_float(product_.out))
      return unpack_integers(whole, surface(), row_offsets(), column_offsets(), accumulate,
                             target());
    const double* const row_scales = a_.notes.scales.data();
    if (is_quantized(plan_.method)) {
      if (at_once_)
        return seen(finish_quantized(whole, surface(), row_scales, b_.scales, sums_type(),
                                     epilogue(), in_c()));
      return unpack_quantized(whole, surface(), row_scales, b_.scales, accumulate, target());
    }
    const auto floats = [](const std::byte* data) { return reinterpret_cast<const float*>(data); };
    FloatSums sums{floats(main), nullptr, nullptr};
    if (has_a_low())
      sums.a_low = sums_.a_low ? floats((*sums_.a_low)->data())
                               : sums.main + plan_.tile_rows * plan_.tile_columns;
    if (has_b_low()) sums.b_low = floats((*sums_.b_low)->data());
    if (at_once_)
      return seen(
          finish_floats(sums, surface(), row_scales, b_.scales, sums_type(), epilogue(), in_c()));
    return unpack_floats(sums, surface(), row_scales, b_.scales, accumulate, target());
  }

  /// What was seen while unpacking and finishing in one pass.
  Unpacked seen(const Finished& finished) {
    note(finished.rounded);
    return finished.unpacked;
  }
  void note(const Rounded& rounded) {
    if (rounded.overflow) job_.overflowed = true;
    if (rounded.underflow) job_.underflowed = true;
  }

  // With u = s + 128 and v = t + 128 where the operand is shifted:
  //   Σ u·v = Σ s·t + 128·Σ s (if v is) + 128·Σ t (if u is) + 128²·K (if both are)
  const std::int32_t* row_offsets() {
    if (!b_.shifted) return nullptr;
    const std::uint32_t both =
        is_shifted(product_, product_.a_type) ? std::uint32_t(step_.depth) << 14 : 0;
    for (std::size_t i = 0; i < core_.row_offsets.size(); ++i)
      core_.row_offsets[i] = std::int32_t(std::uint32_t(a_.notes.sums[i]) * 128u + both);
    return core_.row_offsets.data();
  }
  const std::int32_t* column_offsets() {
    if (!is_shifted(product_, product_.a_type)) return nullptr;
    for (std::size_t j = 0; j < std::size_t(step_.columns); ++j)
      core_.column_offsets[j] = std::int32_t(std::uint32_t(b_.sums[j]) * 128u);
    return core_.column_offsets.data();
  }

  /// A surface of zeros from operands that aren't: checked, because broken runtimes return them.
  void believe_zeros(const std::byte* a, const MemoryLoan& b) const {
    const bool parts = plan_.element == Element::int4;
    const std::int64_t rows = parts ? plan_.surface_rows() : plan_.tile_rows;
    if (product_is_zero(a, b->data(), plan_.element, surface().layout, rows, plan_.surface_depth(),
                        plan_.tile_columns, job_.flushes_subnormals))
      return;
    throw Error(ErrorKind::result, "rknn_matmul_run said success and returned zeros for a " +
                                       std::to_string(rows) + "x" +
                                       std::to_string(plan_.surface_depth()) + "x" +
                                       std::to_string(plan_.tile_columns) + " " +
                                       name_of(plan_.element) + " product that is not zero.");
  }

  void note_losses() {
    if (step_.k == 0) core_.accuracy = Accuracy(step_.rows, step_.columns);
    core_.accuracy.note(0, step_.rows, step_.depth, a_.notes.losses.data(), a_.notes.scales.data(),
                        b_.losses, b_.scales);
  }

  bool is_certain() const { return plan_.method != Method::float32 || core_.accuracy.certain(); }

  /// Recomputes the few elements of which the accuracy isn't certain.
  bool make_accurate() {
    auto repair = begin_repair();
    if (!repair) return false;
    for (bool more = true; more && !job_.stop; job_.progress += 1) {
      const Timed timed(shop_.work.unpack_nanoseconds, trace::Act::repair, job_);
      const Access access(job_);
      if (!access) return false;
      more = repair->step(target());
      if (!repair->finite()) job_.end(Ended::overflow);
    }
    return !job_.stop;
  }

  /// Nothing if there is too much to repair.
  std::optional<Repair> begin_repair() {
    const Timed timed(shop_.work.unpack_nanoseconds, trace::Act::repair, job_);
    const Access access(job_);
    if (!access) return std::nullopt;
    // Of the whole product, so that it doesn't matter how it is cut.
    const Shape& shape = plan_.shape;
    const std::int64_t most = most_doubtful(shape.batch * shape.m * shape.n);
    const auto doubtful = core_.accuracy.doubtful(target(), most);
    if (!doubtful || (job_.doubtful += std::int64_t(doubtful->size())) > most) {
      job_.end(Ended::precision);
      return std::nullopt;
    }
    if (!product_.b.data && !doubtful->empty()) {
      job_.end(Ended::needs_source);
      return std::nullopt;
    }
    shop_.work.recomputed += doubtful->size();
    return Repair({.data = product_.a.at(step_.batch, step_.row, 0),
                   .lane_stride = product_.a.row_stride,
                   .depth_stride = product_.a.column_stride,
                   .dtype = product_.a_type,
                   .lanes = step_.rows,
                   .depth = shape.k},
                  {.data = product_.b.at(step_.batch, 0, step_.column),
                   .lane_stride = product_.b.column_stride,
                   .depth_stride = product_.b.row_stride,
                   .dtype = product_.b_type,
                   .lanes = step_.columns,
                   .depth = shape.k},
                  *doubtful);
  }

  void finish() {
    const Timed timed(shop_.work.unpack_nanoseconds, trace::Act::finish, job_,
                      std::size_t(step_.rows * step_.columns) * (wide() + bytes_of(product_.out)));
    const Access access(job_);
    if (!access) return;
    Target c = in_c();
    c.whole_bytes = whole_bytes();  // all of K is in it
    note(npublas::finish(core_.waiting.data(), sums_type(), epilogue(), c));
  }
  DType sums_type() const { return wide() == 8 ? DType::float64 : DType::float32; }
  Epilogue epilogue() const {
    Epilogue epilogue = job_.request.epilogue;
    if (epilogue.bias) epilogue.bias += step_.column;
    return epilogue;
  }

  Job& job_;
  const Plan& plan_;
  const Product& product_;
  const Step& step_;
  const Shop& shop_;
  CoreBench& core_;
  const Sums& sums_;
  const TileOfA& a_;
  const TileOfB& b_;
  const bool waits_;      // the sums, outside of C
  bool at_once_ = false;  // they don't: all of K is in this tile
};

}  // namespace

void fetch(Job& job, int stream, const Step& step, const Shop& shop) {
  Unpacking(job, stream, step, shop).fetch();
}

void unpack(Job& job, int stream, const Step& step, const Shop& shop) {
  Unpacking(job, stream, step, shop).run();
}

}  // namespace npublas::exec
