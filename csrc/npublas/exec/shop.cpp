#include "npublas/exec/shop.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "npublas/exec/bench.hpp"

namespace npublas::exec {

Syncs::Syncs(std::shared_ptr<device::Runtime> runtime, Window& window)
    : runtime_(std::move(runtime)), window_(window) {}

namespace {

constexpr device::ContextShape kSmallest{1, 32, 64};

}  // namespace

template <typename Sync>
void Syncs::with_context(const Job& job, std::size_t bytes, Sync sync) {
  if (runtime_->call().mem_sync == nullptr) return;  // binding syncs
  free_.acquire();
  const std::shared_ptr<void> release(nullptr, [this](void*) { free_.release(); });
  const auto context = window_.context(type_of(job.plan.element), kSmallest, 0);
  const trace::Span span(trace::Act::sync, trace::here, job.product, bytes);
  sync(&*context);
}

void Syncs::prepare(const Job& job, int threads) {
  std::atomic<int>& prepared = prepared_[std::size_t(job.plan.element)];
  threads = std::min(threads, kAtOnce);
  if (prepared.load(std::memory_order_relaxed) >= threads || runtime_->call().mem_sync == nullptr)
    return;
  const trace::Span span(trace::Act::plan, trace::here, job.product);
  int taken = 0;  // of those that may be alive at a time; others sync meanwhile
  const std::shared_ptr<void> release(nullptr, [&](void*) { free_.release(taken); });
  std::vector<ContextLoan> all;
  for (; taken < threads && free_.try_acquire(); ++taken)
    all.push_back(window_.context(type_of(job.plan.element), kSmallest, 0));
  if (taken == threads) prepared.store(taken, std::memory_order_relaxed);
}

void Syncs::to_device(const Job& job, device::Memory& memory) {
  with_context(job, memory.size(), [&](device::Context* through) { memory.to_device(through); });
}

void Syncs::from_device(const Job& job, device::Memory& memory) {
  with_context(job, memory.size(), [&](device::Context* through) { memory.from_device(through); });
}

}  // namespace npublas::exec
