// # The vendor's C interface
// The matrix-product part of librknnrt.so (1.5.2 to 2.3.2), declared from its documented sizes and
// offsets; no line of the vendor's header is used. The core calls it through pointers found at run
// time, and the simulator implements it: this file is all that the two share.
//
// One zeroed 64-byte `MatmulInfo` serves every version: runtimes before 2.0 read the first 24 bytes
// as six int32, and a little-endian int16 followed by a zero int16 is the same int32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace npublas::abi {

using Context = std::uint64_t;  // rknn_context and rknn_matmul_ctx on LP64; 0 is never a context

inline constexpr int kMaxDims = 16;
inline constexpr int kMaxNameLength = 256;
inline constexpr int kMaxDynamicShapes = 512;

enum Status : int {
  kSuccess = 0,
  kFail = -1,
  kTimeout = -2,
  kDeviceUnavailable = -3,
  kMallocFail = -4,
  kParamInvalid = -5,
  kModelInvalid = -6,
  kContextInvalid = -7,
  kInputInvalid = -8,
  kOutputInvalid = -9,
  kDeviceUnmatch = -10,
  kPreCompiledUnmatch = -11,
  kOptimizationUnmatch = -12,
  kPlatformUnmatch = -13,
};

enum TensorType : std::int32_t {
  kTensorFloat32 = 0,
  kTensorFloat16 = 1,
  kTensorInt8 = 2,
  kTensorUint8 = 3,
  kTensorInt16 = 4,
  kTensorUint16 = 5,
  kTensorInt32 = 6,
  kTensorUint32 = 7,
  kTensorInt64 = 8,
  kTensorBool = 9,
  kTensorInt4 = 10,      // since 1.6.0
  kTensorBfloat16 = 11,  // since 2.3.0
};

enum MatmulType : std::int32_t {  // A_B_to_C
  kFloat16Float16ToFloat32 = 1,
  kInt8Int8ToInt32 = 2,
  kInt8Int8ToInt8 = 3,
  kFloat16Float16ToFloat16 = 4,
  kFloat16Int8ToFloat32 = 5,
  kFloat16Int8ToFloat16 = 6,
  kFloat16Int4ToFloat32 = 7,
  kFloat16Int4ToFloat16 = 8,
  kInt8Int8ToFloat32 = 9,
  kInt4Int4ToInt16 = 10,
  kInt8Int4ToInt32 = 11,
  kFloat16Int4ToBfloat16 = 12,
  kInt8Int4ToFloat16 = 15,
};

enum Layout : std::int16_t { kNormal = 0, kNative = 1, kTransposedNormal = 2 };

enum QuantType : std::int16_t {  // numbering of 2.1.0 and later
  kPerLayerSymmetric = 0,
  kPerLayerAsymmetric = 1,
  kPerChannelSymmetric = 2,
  kPerChannelAsymmetric = 3,
  kPerGroupSymmetric = 4,
  kPerGroupAsymmetric = 5,
};

enum CoreMask : int {
  kCoreAuto = 0,
  kCore0 = 1,
  kCore1 = 2,
  kCore2 = 4,
  kCore01 = 3,
  kCore012 = 7,
  kCoreAll = 0xffff,
};

enum MemSync : int { kToDevice = 1, kFromDevice = 2, kBidirectional = 3 };

enum MemAlloc : std::uint64_t {
  kAllocDefault = 0,  // cacheable
  kAllocCacheable = 1,
  kAllocNonCacheable = 2,
  kAllocTrySram = 4,
  kAllocNoContext = 0x00020000,
};

enum MemFlags : std::uint32_t { kAllocInside = 1, kFromFd = 2, kFromPhys = 3 };

enum QueryCommand : int { kQueryInOutNum = 0, kQuerySdkVersion = 5, kQueryMemSize = 6 };

struct MatmulInfo {  // rknn_matmul_info
  std::int32_t m, k, n;
  std::int32_t type;  // MatmulType
  std::int16_t b_layout;
  std::int16_t b_quant_type;
  std::int16_t ac_layout;
  std::int16_t ac_quant_type;
  std::int32_t iommu_domain_id;
  std::int16_t group_size;
  std::int8_t reserved[34];
};
static_assert(sizeof(MatmulInfo) == 64 && alignof(MatmulInfo) == 4);
static_assert(offsetof(MatmulInfo, type) == 12 && offsetof(MatmulInfo, b_layout) == 16);
static_assert(offsetof(MatmulInfo, b_quant_type) == 18 && offsetof(MatmulInfo, ac_layout) == 20);
static_assert(offsetof(MatmulInfo, iommu_domain_id) == 24 &&
              offsetof(MatmulInfo, group_size) == 28);
static_assert(offsetof(MatmulInfo, reserved) == 30);

struct TensorAttr {  // rknn_matmul_tensor_attr
  char name[kMaxNameLength];
  std::uint32_t n_dims;
  std::uint32_t dims[kMaxDims];
  std::uint32_t size;  // bytes
  std::int32_t type;   // TensorType
};
static_assert(sizeof(TensorAttr) == 332 && alignof(TensorAttr) == 4);
static_assert(offsetof(TensorAttr, n_dims) == 256 && offsetof(TensorAttr, dims) == 260);
static_assert(offsetof(TensorAttr, size) == 324 && offsetof(TensorAttr, type) == 328);

struct IoAttr {  // rknn_matmul_io_attr
  TensorAttr a, b, c;
};
static_assert(sizeof(IoAttr) == 996);
static_assert(offsetof(IoAttr, b) == 332 && offsetof(IoAttr, c) == 664);

struct QuantParams {  // rknn_quant_params, since 2.0.0b0
  char name[kMaxNameLength];
  float* scale;
  std::int32_t scale_len;
  std::int32_t* zp;
  std::int32_t zp_len;
};
static_assert(sizeof(QuantParams) == 288 && alignof(QuantParams) == 8);
static_assert(offsetof(QuantParams, scale) == 256 && offsetof(QuantParams, scale_len) == 264);
static_assert(offsetof(QuantParams, zp) == 272 && offsetof(QuantParams, zp_len) == 280);

struct MatmulShape {  // rknn_matmul_shape, since 2.0.0b0
  std::int32_t m, k, n;
};
static_assert(sizeof(MatmulShape) == 12);

struct TensorMem {  // rknn_tensor_mem; data starts at virt_addr + offset
  void* virt_addr;
  std::uint64_t phys_addr;
  std::int32_t fd;
  std::int32_t offset;
  std::uint32_t size;
  std::uint32_t flags;  // MemFlags
  void* priv_data;
};
static_assert(sizeof(TensorMem) == 40 && alignof(TensorMem) == 8);
static_assert(offsetof(TensorMem, phys_addr) == 8 && offsetof(TensorMem, fd) == 16);
static_assert(offsetof(TensorMem, offset) == 20 && offsetof(TensorMem, size) == 24);
static_assert(offsetof(TensorMem, flags) == 28 && offsetof(TensorMem, priv_data) == 32);

struct SdkVersion {  // rknn_sdk_version
  char api_version[256];
  char drv_version[256];
};
static_assert(sizeof(SdkVersion) == 512);

struct MemSize {  // rknn_mem_size
  std::uint32_t weight;
  std::uint32_t internal;
  std::uint64_t dma_total;
  std::uint32_t sram_total;
  std::uint32_t sram_free;
  std::uint32_t reserved[10];
};
static_assert(sizeof(MemSize) == 64 && offsetof(MemSize, dma_total) == 8);

// The functions, by their vendor names. "since" is the first version that exports them.
extern "C" {
using rknn_matmul_create_fn = int(Context*, MatmulInfo*, IoAttr*);
using rknn_matmul_create_dynamic_shape_fn = int(Context*, MatmulInfo*, int, MatmulShape*,
                                                IoAttr*);  // since 2.1.0
using rknn_matmul_set_io_mem_fn = int(Context, TensorMem*, TensorAttr*);
using rknn_matmul_set_core_mask_fn = int(Context, int);
using rknn_matmul_set_quant_params_fn = int(Context, QuantParams*);          // since 2.0.0b0
using rknn_matmul_get_quant_params_fn = int(Context, QuantParams*, float*);  // since 2.0.0b0
using rknn_matmul_set_dynamic_shape_fn = int(Context, MatmulShape*);         // since 2.0.0b0
using rknn_matmul_run_fn = int(Context);
using rknn_matmul_destroy_fn = int(Context);
// Two signatures under one name (7 arguments in 2.0.0b0, these 5 since 2.1.0): the core never calls
// it.
using rknn_B_normal_layout_to_native_layout_fn = int(void*, void*, int, int, MatmulInfo*);
using rknn_create_mem_fn = TensorMem*(Context, std::uint32_t);
using rknn_create_mem2_fn = TensorMem*(Context, std::uint64_t, std::uint64_t);  // since 2.0.0b0
using rknn_create_mem_from_fd_fn = TensorMem*(Context, std::int32_t, void*, std::uint32_t,
                                              std::int32_t);
using rknn_create_mem_from_phys_fn = TensorMem*(Context, std::uint64_t, void*, std::uint32_t);
using rknn_destroy_mem_fn = int(Context, TensorMem*);
using rknn_mem_sync_fn = int(Context, TensorMem*, int);  // since 1.6.0
using rknn_query_fn = int(Context, int, void*, std::uint32_t);
}

}  // namespace npublas::abi
