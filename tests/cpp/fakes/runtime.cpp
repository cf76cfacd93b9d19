// # A fake runtime
// Compiled several times, each as another version: FAKE_VERSION is what it says of itself, the
// other definitions say which symbols it lacks or has.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <thread>

#include "fake.hpp"
#include "npublas/device/abi.hpp"

namespace abi = npublas::abi;

namespace {

npublas::fake::Control control;
std::mutex mutex;
std::set<abi::Context> contexts;
std::atomic<int> running{0};
std::thread::id resetter;

#ifdef FAKE_VERSION
// As the vendor's library has it: one string in the file.
[[gnu::used]] const char version_in_file[] = "librknnrt version: " FAKE_VERSION;
const char* const version = version_in_file + sizeof "librknnrt version: " - 1;
#else
const char* const version = "";
#endif

void note_overlap() { control.overlapped = control.overlapped || running > 0; }

void fill(abi::TensorAttr& attr, const char* name, std::initializer_list<std::uint32_t> dims,
          std::uint32_t element, int index) {
  std::strcpy(attr.name, name);
  attr.n_dims = 0;
  attr.size = element;
  for (const std::uint32_t dim : dims) {
    attr.dims[attr.n_dims++] = dim;
    attr.size *= dim;
  }
  if (control.create_shifts_dim == index) attr.dims[0] += 1;
  if (control.create_adds_bytes == index) attr.size += 4;
}

}  // namespace

extern "C" {

npublas::fake::Control* fake_control() { return &control; }
void fake_reset() {
  control = {};
  resetter = std::this_thread::get_id();
}

int rknn_matmul_create(abi::Context* context, abi::MatmulInfo* info, abi::IoAttr* io) {
  const std::lock_guard lock(mutex);
  ++control.creates;
  note_overlap();
  if (std::this_thread::get_id() == resetter) control.created_on_a_thread_of_its_own = false;
  for (const std::int8_t byte : info->reserved) control.nonzero_reserved_bytes += byte != 0;
  control.nonzero_reserved_bytes += info->iommu_domain_id != 0 || info->b_quant_type != 0 ||
                                    info->ac_quant_type != 0 || info->group_size != 0;
  if (control.create_status != 0) return control.create_status;
  const bool int8 = info->type == abi::kInt8Int8ToInt32;
  const std::uint32_t x = int8 ? 16 : 8, y = int8 ? 32 : 16, element = int8 ? 1 : 2;
  const std::uint32_t m = std::uint32_t(info->m), k = std::uint32_t(info->k),
                      n = std::uint32_t(info->n);
  fill(io->a, "A", {k / x, m, x}, element, 0);
  fill(io->b, "B", {n / y, k / 32, y, 32}, element, 1);
  fill(io->c, "C", {n / 4, m, 4}, 4, 2);
  if (control.create_gives_null) return 0;
  *context = reinterpret_cast<abi::Context>(std::malloc(1));
  contexts.insert(*context);
  control.contexts = int(contexts.size());
  return 0;
}

int rknn_matmul_destroy(abi::Context context) {
  const std::lock_guard lock(mutex);
  note_overlap();
  if (contexts.erase(context) == 0) return abi::kContextInvalid;
  std::free(reinterpret_cast<void*>(context));
  control.contexts = int(contexts.size());
  return 0;
}

int rknn_matmul_set_core_mask(abi::Context, int mask) {
  control.last_mask = mask;
  return control.set_core_mask_status;
}

int rknn_matmul_set_io_mem(abi::Context, abi::TensorMem*, abi::TensorAttr*) {
  const std::lock_guard lock(mutex);
  ++control.binds;
  note_overlap();
  return control.set_io_mem_status;
}

#ifndef FAKE_WITHOUT_RUN
int rknn_matmul_run(abi::Context) {
  ++running;
  std::this_thread::yield();
  --running;
  const std::lock_guard lock(mutex);
  ++control.runs;
  return control.run_status;
}
#endif

abi::TensorMem* rknn_create_mem(abi::Context context, std::uint32_t size) {
  const std::lock_guard lock(mutex);
  note_overlap();
  if (control.create_mem_fails || contexts.count(context) == 0) return nullptr;
  auto* memory = static_cast<abi::TensorMem*>(std::calloc(1, sizeof(abi::TensorMem)));
  memory->virt_addr = std::calloc(1, size + std::size_t(control.offset));
  memory->offset = control.offset;
  memory->size = size - std::uint32_t(control.create_mem_lacks);
  ++control.memories;
  return memory;
}

int rknn_destroy_mem(abi::Context context, abi::TensorMem* memory) {
  const std::lock_guard lock(mutex);
  note_overlap();
  if (contexts.count(context) == 0) control.freed_through_dead_context = true;
  std::free(memory->virt_addr);
  std::free(memory);
  --control.memories;
  return 0;
}

#ifndef FAKE_WITHOUT_MEM_SYNC
int rknn_mem_sync(abi::Context, abi::TensorMem*, int mode) {
  const std::lock_guard lock(mutex);
  if (control.failing_syncs > 0) {
    --control.failing_syncs;
    return abi::kFail;
  }
  ++(mode == abi::kToDevice ? control.syncs_to_device : control.syncs_from_device);
  return 0;
}
#endif

int rknn_query(abi::Context, int command, void* answer, std::uint32_t size) {
  if (control.query_status != 0) return control.query_status;
  if (command != abi::kQuerySdkVersion || size != sizeof(abi::SdkVersion)) {
    return abi::kParamInvalid;
  }
  auto* versions = static_cast<abi::SdkVersion*>(answer);
  std::strcpy(versions->api_version, control.api_version ? control.api_version : version);
  std::strcpy(versions->drv_version, control.driver_version);
  return 0;
}

#ifdef FAKE_SINCE_2_0
abi::TensorMem* rknn_create_mem2(abi::Context context, std::uint64_t size, std::uint64_t) {
  return rknn_create_mem(context, std::uint32_t(size));
}
#endif
#ifdef FAKE_SINCE_2_1
int rknn_matmul_create_dynamic_shape(abi::Context*, abi::MatmulInfo*, int, abi::MatmulShape*,
                                     abi::IoAttr*) {
  return abi::kParamInvalid;
}
#endif

}  // extern "C"
