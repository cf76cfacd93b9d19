#include "npublas/exec/block.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string>

#include "npublas/math/accuracy.hpp"
#include "npublas/math/check.hpp"
#include "npublas/math/int4.hpp"
#include "npublas/math/pack.hpp"
#include "npublas/math/repair.hpp"
#include "npublas/math/unpack.hpp"

namespace npublas::exec {
namespace {

using Clock = std::chrono::steady_clock;
using Part = WeightKey::Part;

/// Adds the time of its scope to a counter.
class Timed {
 public:
  explicit Timed(std::atomic<std::uint64_t>& nanoseconds)
      : nanoseconds_(nanoseconds), since_(Clock::now()) {}
  ~Timed() {
    const auto spent = std::chrono::nanoseconds(Clock::now() - since_).count();
    nanoseconds_.fetch_add(std::uint64_t(spent), std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint64_t>& nanoseconds_;
  Clock::time_point since_;
};

/// The notes of the lanes of one tile.
struct Notes {
  std::vector<double> scales;
  std::vector<std::int32_t> sums;
  std::vector<LaneLoss> losses;

  void resize(std::int64_t lanes) {
    scales.assign(std::size_t(lanes), 1.0);
    sums.assign(std::size_t(lanes), 0);
    losses.assign(std::size_t(lanes), {});
  }
  LaneNotes to_fill() { return {scales.data(), sums.data(), losses.data()}; }
};

// The float32 method multiplies two parts, high and low·2^-12, of each operand:
//
//   main    high_A · high_B                                  over K
//   cross   [high_A | low_A] · [low_B above high_B]          over 2K
//
// low·low is below what float32 keeps. Where one of the low parts is zero, its half of `cross` is
// left out, and where both are, all of it. That doesn't change a bit of the result, because groups
// of products that are all zero add nothing.
class Computation {
 public:
  Computation(Job& job, const Block& block, const Bench& bench, Window& window, Work& work)
      : job_(job),
        plan_(job.plan),
        request_(job.request),
        product_(job.request.product),
        block_(block),
        bench_(bench),
        window_(window),
        work_(work),
        method_(plan_.method),
        accuracy_(block.rows, block.columns) {
    a_notes_.resize(plan_.tile_rows);
    b_notes_.resize(plan_.tile_columns);
    offsets_.resize(std::size_t(plan_.tile_rows));
    column_offsets_.resize(std::size_t(plan_.tile_columns));
    if (plan_.element == Element::int4) {
      bytes_.resize(std::size_t(plan_.tile_rows * plan_.surface_depth()));
      whole_sums_.resize(std::size_t(plan_.tile_rows * plan_.tile_columns));
    }
    // Quantised sums of several tiles are added in double, so that it doesn't matter who adds them.
    const bool in_place =
        product_.out == DType::float64 ||
        (product_.out == DType::float32 && (!is_quantized(method_) || plan_.depth_tiles() == 1));
    if (is_float(product_.out) && (!request_.epilogue.is_plain() || !in_place))
      sums_.resize(std::size_t(block.rows * block.columns) * sum_bytes());
  }

  void run() {
    for (std::int64_t k = 0; k < plan_.shape.k; k += plan_.tile_depth) {
      depth_ = std::min(plan_.tile_depth, plan_.shape.k - k);
      if (request_.weights ? !find_b(k) : !pack_b_tile(k)) return;
      for (std::int64_t row = 0; row < block_.rows; row += plan_.tile_rows) {
        rows_ = std::min(plan_.tile_rows, block_.rows - row);
        if (!pack_a_tile(k, row)) return;
        multiply();
        if (!unpack(k, row) || job_.stop) return;
      }
    }
    if (method_ == Method::float32 && !make_accurate()) return;
    finish();
  }

 private:
  std::size_t sum_bytes() const {
    return product_.out == DType::float64 || is_quantized(method_) ? 8 : 4;
  }

  /// Unsigned operands are packed less 128 where all bits of the sums count, and undone afterwards.
  bool shifts(DType dtype) const {
    return dtype == DType::uint8 && product_.out != DType::uint8 && product_.out != DType::int8;
  }

  Packing packing_of(DType dtype, bool is_a, std::int64_t k) const {
    const float fixed = request_.a_scales ? request_.a_scales[k / plan_.tile_depth] : 0;
    switch (method_) {
      case Method::integers:
        return {.coding = shifts(dtype) ? Coding::shifted : Coding::bytes};
      case Method::float16:
        return {.coding = Coding::half};
      case Method::float32:
        return {.coding = Coding::split};
      case Method::int8:
        if (is_a) return {.coding = Coding::quantized, .limit = request_.a_limit, .scale = fixed};
        return {.coding = Coding::quantized};
      case Method::int4:  // of A, as B is packed already: the same however it is multiplied
        if (!is_float(dtype)) return {.coding = Coding::bytes};
        return {.coding = Coding::quantized,
                .limit = request_.a_limit <= kInt4WeightMax
                             ? request_.a_limit
                             : std::min(request_.a_limit, kTwoPartsMax),
                .scale = fixed};
    }
    return {.coding = Coding::bytes};
  }

  bool acceptable(const Packed& packed) {
    if (!packed.finite)
      job_.end(Ended::not_finite);
    else if (packed.subnormal && job_.flushes_subnormals)
      job_.end(Ended::subnormal);
    return !job_.stop;
  }

  bool pack_b_tile(std::int64_t k) {
    if (method_ == Method::float32) b_low_.resize(bench_.context->b_bytes());
    Packed packed;
    {
      const Timed timed(work_.pack_nanoseconds);
      const Access access(job_);
      if (!access) return false;
      packed =
          pack_b({.data = product_.b.at(block_.batch, k, block_.column),
                  .lane_stride = product_.b.column_stride,
                  .depth_stride = product_.b.row_stride,
                  .dtype = product_.b_type,
                  .lanes = block_.columns,
                  .depth = depth_},
                 packing_of(product_.b_type, false, k), plan_.tile_columns, plan_.surface_depth(),
                 (*bench_.b)->data(), b_low_.data(), b_notes_.to_fill());
    }
    if (!acceptable(packed)) return false;
    b_ = &**bench_.b;
    b_->to_device(&*bench_.context);
    b_zero_ = packed.zero;
    b_low_zero_ = packed.low_zero;
    cross_holds_ = Part::high;
    work_.packed_bytes += bench_.context->b_bytes();
    b_scales_ = b_notes_.scales.data();
    b_sums_ = b_notes_.sums.data();
    b_losses_ = b_notes_.losses.data();
    b_shifted_ = shifts(product_.b_type);
    return true;
  }

  /// The tile of the weights, in the window.
  bool find_b(std::int64_t k) {
    const WeightsGrid& grid = request_.weights->grid();
    const std::int64_t batch = grid.batch == 1 ? 0 : block_.batch;
    tile_ = grid.index(batch, k / plan_.tile_depth, block_.column / plan_.tile_columns);
    const WeightTile tile = request_.weights->tile(tile_);
    if (tile.subnormal && job_.flushes_subnormals) {
      job_.end(Ended::subnormal);
      return false;
    }
    const bool unpacks = grid.method == Method::int4 && plan_.element == Element::int8;
    weight_.reset();  // the plan has room for one tile of each kind
    weight_cross_.reset();
    weight_.emplace(weight(
        unpacks ? Part::unpacked : Part::high, bench_.context->b_bytes(), [&](std::byte* to) {
          if (unpacks)
            bytes_of_b(reinterpret_cast<const std::uint8_t*>(tile.high), plan_.surface_depth(),
                       plan_.tile_columns, reinterpret_cast<std::int8_t*>(to));
          else
            std::memcpy(to, tile.high, grid.surface_bytes());
          if (!unpacks) certify(tile);
        }));
    b_ = &**weight_;
    b_zero_ = tile.zero;
    b_low_zero_ = tile.low == nullptr;
    cross_holds_ = Part::high;
    b_scales_ = tile.scales;
    b_sums_ = tile.sums;
    b_losses_ = tile.losses;
    b_shifted_ = grid.dtype == DType::uint8;
    weight_low_ = tile.low;
    weight_high_ = tile.high;
    return true;
  }

  /// Sums of int4 must fit int16, whatever wrote the file.
  void certify(const WeightTile& tile) const {
    if (plan_.element != Element::int4 ||
        plan_.surface_depth() <= certified_depth(kInt4Max, kInt4Max))
      return;
    const int largest = largest_nibble(reinterpret_cast<const std::uint8_t*>(tile.high),
                                       plan_.surface_depth(), plan_.tile_columns);
    if (largest > kInt4WeightMax)
      throw Error(ErrorKind::file,
                  "a tile of int4 weights has -8, which tiles of this depth can't");
  }

  template <typename Fill>
  Window::Loan<device::Memory> weight(Part part, std::size_t bytes, Fill fill) {
    const bool pin = request_.pin && !request_.weights->is_closed();
    return window_.weight({request_.weights->id(), tile_, part}, bytes, pin,
                          [&](device::Memory& memory) {
                            const Timed timed(work_.pack_nanoseconds);
                            fill(memory.data());
                            memory.to_device(&*bench_.context);
                            work_.packed_bytes += bytes;
                          });
  }

  /// B's part of the cross terms: its low parts alone, or above its high ones.
  device::Memory* cross_b(Part part) {
    const std::size_t bytes = bench_.context->b_bytes();
    const std::int64_t depth = plan_.surface_depth();
    if (request_.weights) {
      if (cross_holds_ != part) {
        weight_cross_.reset();
        weight_cross_.emplace(
            weight(part, part == Part::low ? bytes : 2 * bytes, [&](std::byte* to) {
              if (part == Part::low)
                std::memcpy(to, weight_low_, bytes);
              else
                join_b(weight_low_, weight_high_, depth, plan_.tile_columns, to);
            }));
        cross_holds_ = part;
      }
      return &**weight_cross_;
    }
    device::Memory* const memory = &**bench_.b_cross;
    if (cross_holds_ != part) {
      const Timed timed(work_.pack_nanoseconds);
      if (part == Part::low)
        std::memcpy(memory->data(), b_low_.data(), bytes);
      else
        join_b(b_low_.data(), b_->data(), depth, plan_.tile_columns, memory->data());
      memory->to_device(&*bench_.context);
      work_.packed_bytes += part == Part::low ? bytes : 2 * bytes;
      cross_holds_ = part;
    }
    return memory;
  }

  bool pack_a_tile(std::int64_t k, std::int64_t row) {
    const std::size_t bytes = bench_.context->a_bytes();
    device::Memory& a = *bench_.a;
    const bool nibbles = plan_.element == Element::int4;
    Packed packed;
    {
      const Timed timed(work_.pack_nanoseconds);
      const Access access(job_);
      if (!access) return false;
      packed = pack_a({.data = product_.a.at(block_.batch, block_.row + row, k),
                       .lane_stride = product_.a.row_stride,
                       .depth_stride = product_.a.column_stride,
                       .dtype = product_.a_type,
                       .lanes = rows_,
                       .depth = depth_},
                      packing_of(product_.a_type, true, k), Layout::native, plan_.tile_rows,
                      plan_.surface_depth(), nibbles ? static_cast<void*>(bytes_.data()) : a.data(),
                      method_ == Method::float32 ? a.data() + bytes : nullptr, a_notes_.to_fill());
    }
    if (!acceptable(packed)) return false;
    if (nibbles) {
      const Timed timed(work_.pack_nanoseconds);
      if (!nibbles_of_a(bytes_.data(), plan_.tile_rows, plan_.surface_depth(), plan_.parts,
                        plan_.surface_rows(), reinterpret_cast<std::uint8_t*>(a.data()))) {
        job_.end(Ended::beyond);
        return false;
      }
    }
    a_zero_ = packed.zero;
    a_low_zero_ = packed.low_zero;
    if (!a_low_zero_ && b_low_zero_ && method_ == Method::float32) {
      device::Memory& low = **bench_.a_low;
      std::memcpy(low.data(), a.data() + bytes, bytes);
      low.to_device(&*bench_.context);
    }
    a.to_device(&*bench_.context);
    work_.packed_bytes += method_ == Method::float32 ? 2 * bytes : bytes;
    if (method_ == Method::float32)
      accuracy_.note(row, rows_, depth_, a_notes_.losses.data(), a_notes_.scales.data(), b_losses_,
                     b_scales_);
    return true;
  }

  void run_one(device::Context& context, device::Memory& a, device::Memory& b, device::Memory& c) {
    const Timed timed(work_.run_nanoseconds);
    context.bind(a, b, c);
    context.run();
    c.from_device(&context);
    work_.runs += 1;
    job_.progress += 1;
    work_.unpacked_bytes += context.c_bytes();
  }

  /// What the cross terms are made of: the context, A and B.
  struct Cross {
    device::Context* context;
    device::Memory *a, *b;
  };
  Cross cross_operands() {
    if (b_low_zero_) return {&*bench_.context, &**bench_.a_low, b_};
    if (a_low_zero_) return {&*bench_.context, &*bench_.a, cross_b(Part::low)};
    return {&**bench_.joined, &*bench_.a, cross_b(Part::joined)};
  }

  void multiply() {
    run_one(*bench_.context, *bench_.a, *b_, *bench_.c);
    has_cross_ = method_ == Method::float32 && !(a_low_zero_ && b_low_zero_);
    if (!has_cross_) return;
    const Cross cross = cross_operands();
    run_one(*cross.context, *cross.a, *cross.b, **bench_.c_cross);
  }

  /// Where the sums of these rows are kept: in C, or aside if there is more to do to them.
  Target target_at(std::int64_t row, std::int64_t rows) {
    if (!sums_.empty())
      return {.data = sums_.data() + std::size_t(row * block_.columns) * sum_bytes(),
              .row_stride = block_.columns * std::ptrdiff_t(sum_bytes()),
              .column_stride = std::ptrdiff_t(sum_bytes()),
              .dtype = sum_bytes() == 8 ? DType::float64 : DType::float32,
              .rows = rows,
              .columns = block_.columns};
    return {.data = product_.c.at(block_.batch, block_.row + row, block_.column),
            .row_stride = product_.c.row_stride,
            .column_stride = product_.c.column_stride,
            .dtype = product_.out,
            .rows = rows,
            .columns = block_.columns};
  }

  Unpacked unpack_tile(bool accumulate, const Target& target) {
    const void* c = bench_.c->data();
    bool zero = false;
    if (plan_.element == Element::int4) {
      zero = !sums_of_parts(static_cast<const std::int16_t*>(c), plan_.surface_rows(), plan_.parts,
                            plan_.tile_rows, plan_.tile_columns, whole_sums_.data());
      c = whole_sums_.data();
    }
    Unpacked unpacked = unpack_sums(c, accumulate, target);
    // Sums of two parts may cancel, and only those of the device tell whether it has failed.
    if (plan_.element == Element::int4) unpacked.main_zero = zero;
    return unpacked;
  }

  Unpacked unpack_sums(const void* c, bool accumulate, const Target& target) {
    const bool whole = !is_float(product_.out);
    switch (whole ? Method::integers : method_) {
      case Method::integers:
        return unpack_integers(static_cast<const std::int32_t*>(c), plan_.tile_rows, row_offsets(),
                               column_offsets(), accumulate, target);
      case Method::int8:
      case Method::int4:
        return unpack_quantized(static_cast<const std::int32_t*>(c), plan_.tile_rows,
                                a_notes_.scales.data(), b_scales_, accumulate, target);
      default:
        const auto* const cross =
            has_cross_ ? reinterpret_cast<const float*>((*bench_.c_cross)->data()) : nullptr;
        return unpack_floats(static_cast<const float*>(c), cross, plan_.tile_rows,
                             a_notes_.scales.data(), b_scales_, accumulate, target);
    }
  }

  // With u = s + 128 and v = t + 128 where the operand is shifted:
  //   Σ u·v = Σ s·t + 128·Σ s (if v is) + 128·Σ t (if u is) + 128²·K (if both are)
  const std::int32_t* row_offsets() {
    if (!b_shifted_) return nullptr;
    const std::uint32_t both = shifts(product_.a_type) ? std::uint32_t(depth_) << 14 : 0;
    for (std::size_t i = 0; i < offsets_.size(); ++i)
      offsets_[i] = std::int32_t(std::uint32_t(a_notes_.sums[i]) * 128u + both);
    return offsets_.data();
  }
  const std::int32_t* column_offsets() {
    if (!shifts(product_.a_type)) return nullptr;
    for (std::size_t j = 0; j < column_offsets_.size(); ++j)
      column_offsets_[j] = std::int32_t(std::uint32_t(b_sums_[j]) * 128u);
    return column_offsets_.data();
  }

  bool unpack(std::int64_t k, std::int64_t row) {
    Unpacked unpacked;
    {
      const Timed timed(work_.unpack_nanoseconds);
      const Access access(job_);
      if (!access) return false;
      unpacked = unpack_tile(k > 0, target_at(row, rows_));
    }
    if (!a_zero_ && !b_zero_) {
      if (unpacked.main_zero) believe_zeros(*bench_.context, *bench_.a, *b_);
      if (has_cross_ && unpacked.cross_zero) {
        const Cross cross = cross_operands();
        believe_zeros(*cross.context, *cross.a, *cross.b);
      }
    }
    if (!unpacked.finite) {
      job_.end(Ended::overflow);
      return false;
    }
    if (unpacked.underflow) job_.underflowed = true;
    return true;
  }

  /// A surface of zeros from operands that aren't: checked, because broken runtimes return them.
  void believe_zeros(const device::Context& context, const device::Memory& a,
                     const device::Memory& b) const {
    const auto& [m, k, n] = context.shape();
    if (product_is_zero(a.data(), b.data(), plan_.element, m, k, n, job_.flushes_subnormals))
      return;
    throw Error(ErrorKind::result, "rknn_matmul_run said success and returned zeros for a " +
                                       to_string(context.shape()) + " " + name_of(plan_.element) +
                                       " product that is not zero.");
  }

  /// Recomputes the few elements of which the accuracy isn't certain.
  bool make_accurate() {
    if (accuracy_.certain()) return true;
    const Target sums = target_at(0, block_.rows);
    auto repair = begin_repair(sums);
    if (!repair) return false;
    for (bool more = true; more && !job_.stop; job_.progress += 1) {
      const Timed timed(work_.unpack_nanoseconds);
      const Access access(job_);
      if (!access) return false;
      more = repair->step(sums);
      if (!repair->finite()) job_.end(Ended::overflow);
    }
    return !job_.stop;
  }

  /// Nothing if there is too much to repair.
  std::optional<Repair> begin_repair(const Target& sums) {
    const Timed timed(work_.unpack_nanoseconds);
    const Access access(job_);
    if (!access) return std::nullopt;
    // Of the whole product, so that it doesn't matter how it is cut.
    const Shape& shape = plan_.shape;
    const std::int64_t most = most_doubtful(shape.batch * shape.m * shape.n);
    const auto doubtful = accuracy_.doubtful(sums, most);
    if (!doubtful || (job_.doubtful += std::int64_t(doubtful->size())) > most) {
      job_.end(Ended::precision);
      return std::nullopt;
    }
    if (!product_.b.data && !doubtful->empty()) {
      job_.end(Ended::needs_source);
      return std::nullopt;
    }
    work_.recomputed += doubtful->size();
    return Repair({.data = product_.a.at(block_.batch, block_.row, 0),
                   .lane_stride = product_.a.row_stride,
                   .depth_stride = product_.a.column_stride,
                   .dtype = product_.a_type,
                   .lanes = block_.rows,
                   .depth = shape.k},
                  {.data = product_.b.at(block_.batch, 0, block_.column),
                   .lane_stride = product_.b.column_stride,
                   .depth_stride = product_.b.row_stride,
                   .dtype = product_.b_type,
                   .lanes = block_.columns,
                   .depth = shape.k},
                  *doubtful);
  }

  void finish() {
    if (sums_.empty()) return;
    const Timed timed(work_.unpack_nanoseconds);
    const Access access(job_);
    if (!access) return;
    Epilogue epilogue = request_.epilogue;
    if (epilogue.bias) epilogue.bias += block_.column;
    const Rounded rounded =
        npublas::finish(sums_.data(), sum_bytes() == 8 ? DType::float64 : DType::float32, epilogue,
                        {.data = product_.c.at(block_.batch, block_.row, block_.column),
                         .row_stride = product_.c.row_stride,
                         .column_stride = product_.c.column_stride,
                         .dtype = product_.out,
                         .rows = block_.rows,
                         .columns = block_.columns});
    if (rounded.overflow) job_.overflowed = true;
    if (rounded.underflow) job_.underflowed = true;
  }

  Job& job_;
  const Plan& plan_;
  const Request& request_;
  const Product& product_;
  const Block& block_;
  const Bench& bench_;
  Window& window_;
  Work& work_;
  const Method method_;

  std::int64_t depth_ = 0, rows_ = 0;  // of the tile, without padding
  Notes a_notes_, b_notes_;
  bool a_zero_ = false, a_low_zero_ = true;
  bool b_zero_ = false, b_low_zero_ = true, b_shifted_ = false;
  bool has_cross_ = false;
  device::Memory* b_ = nullptr;
  std::vector<std::byte> b_low_;
  Part cross_holds_ = Part::high;  // what `cross_b` has ready; `high` for nothing
  const double* b_scales_ = nullptr;
  const std::int32_t* b_sums_ = nullptr;
  const LaneLoss* b_losses_ = nullptr;
  std::vector<std::int32_t> offsets_, column_offsets_;

  std::int64_t tile_ = 0;  // of the weights
  std::optional<Window::Loan<device::Memory>> weight_, weight_cross_;
  const std::byte *weight_low_ = nullptr, *weight_high_ = nullptr;

  std::vector<std::int8_t> bytes_;        // of A, before they become nibbles
  std::vector<std::int32_t> whole_sums_;  // of its parts

  std::vector<std::byte> sums_;  // where they aren't kept in C
  Accuracy accuracy_;
};

}  // namespace

void compute(Job& job, const Block& block, const Bench& bench, Window& window, Work& work) {
  Computation(job, block, bench, window, work).run();
}

}  // namespace npublas::exec
