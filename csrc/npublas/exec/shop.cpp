#include "npublas/exec/shop.hpp"

#include <utility>

namespace npublas::exec {

Syncs::Syncs(std::shared_ptr<device::Runtime> runtime, Window& window)
    : runtime_(std::move(runtime)), window_(window) {}

template <typename Sync>
void Syncs::with_context(device::Type type, Sync sync) {
  if (runtime_->call().mem_sync == nullptr) return;  // binding syncs
  free_.acquire();
  const std::shared_ptr<void> release(nullptr, [this](void*) { free_.release(); });
  const auto context = window_.context(type, {1, 32, 64}, 0);
  sync(&*context);
}

void Syncs::to_device(device::Type type, device::Memory& memory) {
  with_context(type, [&](device::Context* through) { memory.to_device(through); });
}

void Syncs::from_device(device::Type type, device::Memory& memory) {
  with_context(type, [&](device::Context* through) { memory.from_device(through); });
}

}  // namespace npublas::exec
