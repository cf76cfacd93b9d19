// # A program for librknnrt.so
// What somebody writes who has the vendor's manual: C, its own copy of the declarations (made from
// the documented sizes and offsets), every layout, no rknn_mem_sync where set_io_mem and run are
// said to be enough. It is linked against librknnrt.so, and it neither knows nor includes anything
// else. Prints one line for each thing that came out right; the first that doesn't ends it.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t rknn_context;

enum { FLOAT16 = 1, INT8 = 2, INT4 = 10 };        // matmul types
enum { NORMAL = 0, NATIVE = 1, TRANSPOSED = 2 };  // layouts
enum { TO_DEVICE = 1, FROM_DEVICE = 2, SDK_VERSION = 5 };

typedef struct {
  int32_t M, K, N, type;
  int16_t B_layout, B_quant_type, AC_layout, AC_quant_type;
  int32_t iommu_domain_id;
  int16_t group_size;
  int8_t reserved[34];
} matmul_info;

typedef struct {
  char name[256];
  uint32_t n_dims;
  uint32_t dims[16];
  uint32_t size;
  int32_t type;
} tensor_attr;

typedef struct {
  tensor_attr A, B, C;
} io_attr;

typedef struct {
  void* virt_addr;
  uint64_t phys_addr;
  int32_t fd, offset;
  uint32_t size, flags;
  void* priv_data;
} tensor_mem;

typedef struct {
  int32_t M, K, N;
} matmul_shape;

typedef struct {
  char api_version[256];
  char drv_version[256];
} sdk_version;

_Static_assert(sizeof(matmul_info) == 64 && sizeof(io_attr) == 996, "");
_Static_assert(sizeof(tensor_mem) == 40 && sizeof(sdk_version) == 512, "");

int rknn_matmul_create(rknn_context*, matmul_info*, io_attr*);
int rknn_matmul_create_dynamic_shape(rknn_context*, matmul_info*, int, matmul_shape*, io_attr*);
int rknn_matmul_set_dynamic_shape(rknn_context, matmul_shape*);
int rknn_matmul_set_io_mem(rknn_context, tensor_mem*, tensor_attr*);
int rknn_matmul_set_core_mask(rknn_context, int);
int rknn_matmul_run(rknn_context);
int rknn_matmul_destroy(rknn_context);
tensor_mem* rknn_create_mem(rknn_context, uint32_t);
tensor_mem* rknn_create_mem_from_fd(rknn_context, int32_t, void*, uint32_t, int32_t);
int rknn_destroy_mem(rknn_context, tensor_mem*);
int rknn_mem_sync(rknn_context, tensor_mem*, int);
int rknn_query(rknn_context, int, void*, uint32_t);

static void require(int condition, const char* what) {
  if (condition) return;
  fprintf(stderr, "failed: %s\n", what);
  exit(1);
}

// Whole numbers from -5 to 5: exact in every type.
static int value_of_a(int m, int k) { return (m * 7 + k * 3) % 11 - 5; }
static int value_of_b(int k, int n) { return (k * 5 + n * 2 + k * n) % 11 - 5; }

static int value_of_c(int m, int n, int depth) {
  int sum = 0;
  for (int k = 0; k < depth; ++k) sum += value_of_a(m, k) * value_of_b(k, n);
  return sum;
}

static uint16_t half_of(int value) {  // of a whole number from -2048 to 2048
  const uint16_t sign = value < 0 ? 0x8000 : 0;
  int magnitude = abs(value), exponent = 25;
  if (magnitude == 0) return sign;
  while (magnitude < 1024) magnitude *= 2, --exponent;
  return (uint16_t)(sign | (exponent << 10) | (magnitude & 1023));
}

static void put(void* data, size_t index, int value, int type) {
  if (type == INT8) ((int8_t*)data)[index] = (int8_t)value;
  if (type == FLOAT16) ((uint16_t*)data)[index] = half_of(value);
  if (type == INT4) {  // the first of two in the low nibble
    uint8_t* const byte = (uint8_t*)data + index / 2;
    *byte = (uint8_t)(index % 2 ? (*byte & 15) | (value & 15) << 4 : (*byte & 0xf0) | (value & 15));
  }
}

static int get(const void* data, size_t index, int type) {
  if (type == INT8) return ((const int32_t*)data)[index];
  if (type == INT4) return ((const int16_t*)data)[index];
  return (int)((const float*)data)[index];
}

static char* data_of(const tensor_mem* mem) { return (char*)mem->virt_addr + mem->offset; }

// The vendor's manual: [M, K] or [K/x, M, x]; [K, N], [N, K] or [N/y, K/z, y, z]; C as A.
static size_t at(const tensor_attr* t, int layout, int row, int column) {
  const uint32_t* const d = t->dims;
  if (layout == NORMAL) return (size_t)row * d[1] + column;
  if (layout == TRANSPOSED) return (size_t)column * d[1] + row;
  if (t->n_dims == 3) return ((size_t)(column / d[2]) * d[1] + row) * d[2] + column % d[2];
  return (((size_t)(column / d[2]) * d[1] + row / d[3]) * d[2] + column % d[2]) * d[3] + row % d[3];
}

static void fill(const matmul_info* info, const io_attr* io, char* a, char* b) {
  for (int k = 0; k < info->K; ++k) {
    for (int m = 0; m < info->M; ++m) {
      put(a, at(&io->A, info->AC_layout, m, k), value_of_a(m, k), info->type);
    }
    for (int n = 0; n < info->N; ++n) {
      put(b, at(&io->B, info->B_layout, k, n), value_of_b(k, n), info->type);
    }
  }
}

static void compare(const matmul_info* info, const tensor_attr* attr, const char* c,
                    const char* what) {
  for (int m = 0; m < info->M; ++m) {
    for (int n = 0; n < info->N; ++n) {
      require(get(c, at(attr, info->AC_layout, m, n), info->type) == value_of_c(m, n, info->K),
              what);
    }
  }
}

static void product(int m, int k, int n, int type, int b_layout, int ac_layout, const char* what) {
  matmul_info info = {.M = m, .K = k, .N = n, .type = type};
  info.B_layout = (int16_t)b_layout;
  info.AC_layout = (int16_t)ac_layout;
  rknn_context ctx = 0;
  io_attr io;
  memset(&io, 0, sizeof io);
  require(rknn_matmul_create(&ctx, &info, &io) == 0, what);
  require(rknn_matmul_set_core_mask(ctx, 1) == 0, what);
  tensor_mem* const a = rknn_create_mem(ctx, io.A.size);
  tensor_mem* const b = rknn_create_mem(ctx, io.B.size);
  tensor_mem* const c = rknn_create_mem(ctx, io.C.size);
  require(a && b && c, what);
  fill(&info, &io, data_of(a), data_of(b));
  require(rknn_matmul_set_io_mem(ctx, a, &io.A) == 0, what);
  require(rknn_matmul_set_io_mem(ctx, b, &io.B) == 0, what);
  require(rknn_matmul_set_io_mem(ctx, c, &io.C) == 0, what);
  require(rknn_matmul_run(ctx) == 0, what);
  compare(&info, &io.C, data_of(c), what);
  rknn_destroy_mem(ctx, a);
  rknn_destroy_mem(ctx, b);
  rknn_destroy_mem(ctx, c);
  require(rknn_matmul_destroy(ctx) == 0, what);
  printf("%s: right\n", what);
}

// A, B and C in one allocation, with every cache sync that the manual asks for.
static void views(const char* what) {
  matmul_info info = {
      .M = 4, .K = 96, .N = 64, .type = INT8, .B_layout = NATIVE, .AC_layout = NATIVE};
  rknn_context ctx = 0;
  io_attr io;
  require(rknn_matmul_create(&ctx, &info, &io) == 0, what);
  const tensor_attr* const attrs[3] = {&io.A, &io.B, &io.C};
  tensor_mem* const base = rknn_create_mem(ctx, io.A.size + io.B.size + io.C.size);
  tensor_mem* mems[3];
  int32_t offset = 0;
  for (int i = 0; i < 3; ++i) {
    mems[i] = rknn_create_mem_from_fd(ctx, base->fd, base->virt_addr, attrs[i]->size, offset);
    require(mems[i] != NULL, what);
    offset += (int32_t)attrs[i]->size;
  }
  fill(&info, &io, data_of(mems[0]), data_of(mems[1]));
  for (int i = 0; i < 3; ++i) {
    tensor_attr attr = *attrs[i];
    require(rknn_matmul_set_io_mem(ctx, mems[i], &attr) == 0, what);
    require(rknn_mem_sync(ctx, mems[i], TO_DEVICE) == 0, what);
  }
  require(rknn_matmul_run(ctx) == 0, what);
  require(rknn_mem_sync(0, mems[2], FROM_DEVICE) == 0, what);
  compare(&info, &io.C, data_of(mems[2]), what);
  for (int i = 0; i < 3; ++i) rknn_destroy_mem(ctx, mems[i]);
  rknn_destroy_mem(ctx, base);
  rknn_matmul_destroy(ctx);
  printf("%s: right\n", what);
}

static void dynamic(const char* what) {
  matmul_shape shapes[2] = {{8, 64, 32}, {1, 64, 32}};
  matmul_info info = {.type = FLOAT16};
  io_attr io[2];
  rknn_context ctx = 0;
  require(rknn_matmul_create_dynamic_shape(&ctx, &info, 2, shapes, io) == 0, what);
  tensor_mem* const a = rknn_create_mem(ctx, io[0].A.size);
  tensor_mem* const b = rknn_create_mem(ctx, io[0].B.size);
  tensor_mem* const c = rknn_create_mem(ctx, io[0].C.size);
  for (int i = 0; i < 2; ++i) {
    info.M = shapes[i].M, info.K = shapes[i].K, info.N = shapes[i].N;
    require(rknn_matmul_set_dynamic_shape(ctx, &shapes[i]) == 0, what);
    fill(&info, &io[i], data_of(a), data_of(b));
    if (i == 0) require(rknn_matmul_set_io_mem(ctx, b, &io[i].B) == 0, what);
    require(rknn_matmul_set_io_mem(ctx, a, &io[i].A) == 0, what);
    require(rknn_matmul_set_io_mem(ctx, c, &io[i].C) == 0, what);
    require(rknn_matmul_run(ctx) == 0, what);
    compare(&info, &io[i].C, data_of(c), what);
  }
  rknn_destroy_mem(ctx, a);
  rknn_destroy_mem(ctx, b);
  rknn_destroy_mem(ctx, c);
  rknn_matmul_destroy(ctx);
  printf("%s: right\n", what);
}

int main(void) {
  matmul_info info = {.M = 1, .K = 32, .N = 32, .type = INT8};
  io_attr io;
  rknn_context ctx = 0;
  sdk_version version;
  require(rknn_matmul_create(&ctx, &info, &io) == 0, "a first context");
  require(rknn_query(ctx, SDK_VERSION, &version, sizeof version) == 0, "the version");
  printf("runtime %s, driver %s\n", version.api_version, version.drv_version);
  rknn_matmul_destroy(ctx);

  product(5, 64, 96, INT8, NORMAL, NORMAL, "int8, normal layouts");
  product(8, 96, 64, INT8, NATIVE, NATIVE, "int8, native layouts");
  product(3, 64, 32, INT8, TRANSPOSED, NORMAL, "int8, transposed B");
  product(4, 128, 48, FLOAT16, NATIVE, NATIVE, "float16, native layouts");
  product(4, 64, 128, INT4, NATIVE, NATIVE, "int4, native layouts");
  views("views of one allocation");
  dynamic("dynamic shapes");
  return 0;
}
