// Matrix products on CUDA through cuBLAS: C_i = op(A_i) op(B_i), row-major. bf16 operands are summed in f32; f32 is true f32 (no TF32).
// cuBLAS counts columns first, and a row-major C is its transpose: C^T = op(B)^T op(A)^T, so the operands change places.
// It is half a gigabyte, a tenth of a second of every start of a program that links it: it is opened when a device is first asked for a product.
#include <mutex>
#include <string>
#include <type_traits>
#include <cublas_v2.h>
#include <dlfcn.h>
#include <ttr/core/device_kernel.hpp>
#include <ttr/core/ops/linalg_kernel.hpp>
#include <ttr/cuda/launch.hpp>
#include <ttr/cuda/products.hpp>

namespace ttr::cuda {
namespace {

constexpr size_t kScratchBytes = size_t(32) << 20;   // what cuBLAS recommends on Hopper

#define TTR_NAME(name) TTR_NAME_OF(name)   // what the header's macros make of it: cublasCreate is cublasCreate_v2
#define TTR_NAME_OF(name) #name
struct Cublas {
  decltype(&cublasCreate) create = nullptr;
  decltype(&cublasGetStatusString) status_string = nullptr;
  decltype(&cublasSetMathMode) set_math_mode = nullptr;
  decltype(&cublasSetStream) set_stream = nullptr;
  decltype(&cublasSetWorkspace) set_workspace = nullptr;
  decltype(&cublasGemmEx_64) gemm = nullptr;
  decltype(&cublasGemmStridedBatchedEx_64) gemm_batched = nullptr;
  std::string problem;   // why there is none; "" when there is one

  Cublas() {
    const std::string file = "libcublas.so." TTR_NAME(CUBLAS_VER_MAJOR);
    void* library = dlopen(file.c_str(), RTLD_NOW);
    if (!library) library = dlopen(TTR_CUBLAS, RTLD_NOW);   // where it was when this was built
    if (!library) {
      problem = file + " cannot be opened";
      return;
    }
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      if (!function) problem = file + " has no " + name;
    };
    find(create, TTR_NAME(cublasCreate));
    find(status_string, TTR_NAME(cublasGetStatusString));
    find(set_math_mode, TTR_NAME(cublasSetMathMode));
    find(set_stream, TTR_NAME(cublasSetStream));
    find(set_workspace, TTR_NAME(cublasSetWorkspace));
    find(gemm, TTR_NAME(cublasGemmEx_64));
    find(gemm_batched, TTR_NAME(cublasGemmStridedBatchedEx_64));
  }
};
#undef TTR_NAME
#undef TTR_NAME_OF
const Cublas& cublas() {
  static const Cublas opened;   // never closed: what it registered with the driver lives as long as the process
  return opened;
}

struct Products {
  std::mutex mutex;
  cublasHandle_t handle = nullptr;
  void* scratch = nullptr;
  cudaStream_t stream = nullptr;
};
Products& products() {
  static Products p;
  return p;
}

Status status_of(cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) return Status::ok;
  last_failure = cublas().status_string(status);
  return Status::launch_failed;
}

Status use_stream(Products& p, cudaStream_t stream) {
  if (const Status s = status_of(cublas().set_stream(p.handle, stream)); s != Status::ok) return s;
  p.stream = stream;
  return status_of(cublas().set_workspace(p.handle, p.scratch, kScratchBytes));   // cublasSetStream forgets it
}

template <class T> constexpr cudaDataType_t kData = CUDA_R_32F;
template <> constexpr cudaDataType_t kData<double> = CUDA_R_64F;
template <> constexpr cudaDataType_t kData<bf16> = CUDA_R_16BF;
template <class T> constexpr cublasComputeType_t kCompute = std::is_same_v<T, double> ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;

}  // namespace

Status prepare_products(Stream stream) {
  Products& p = products();
  const std::lock_guard lock(p.mutex);
  if (!p.scratch)
    if (const Status s = ttr::cuda::status_of(cudaMalloc(&p.scratch, kScratchBytes)); s != Status::ok) return s;
  if (p.handle) return Status::ok;
  if (!cublas().problem.empty()) {
    last_failure = cublas().problem.c_str();
    return Status::launch_failed;
  }
  cublasHandle_t handle = nullptr;
  if (const Status s = status_of(cublas().create(&handle)); s != Status::ok) return s;
  p.handle = handle;
  // Partial sums of a split inner size stay in f32 when the output is bf16.
  const auto math = cublasMath_t(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
  if (const Status s = status_of(cublas().set_math_mode(handle, math)); s != Status::ok) return s;
  return use_stream(p, native(stream));
}

template <class T> Status matmul(const Product& given, const T* a, const T* b, T* c, Stream stream) {
  Product s = given;
  if (s.batch < 0 || s.m < 0 || s.n < 0 || s.k < 0) return Status::bad_size;
  if (s.batch == 0 || s.m == 0 || s.n == 0) return Status::ok;
  if (s.k == 0 && s.accumulate) return Status::ok;
  if (s.k == 0) return set_bytes(c, 0, size_t(s.batch * s.m * s.n) * sizeof(T), stream);
  if (s.batch > 1 && s.stride_b == 0 && !s.transpose_a && s.stride_a == s.m * s.k) s.m *= s.batch, s.batch = 1;   // one tall product
  if (const Status ready = prepare(); ready != Status::ok) return ready;

  Products& p = products();
  const std::lock_guard lock(p.mutex);
  if (p.stream != native(stream))
    if (const Status set = use_stream(p, native(stream)); set != Status::ok) return set;
  const auto op_a = s.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = s.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const int64_t lda = s.transpose_a ? s.m : s.k, ldb = s.transpose_b ? s.k : s.n;
  const Wide<T> one = 1, keep = s.accumulate ? 1 : 0;   // of what stands in c
  return status_of(s.batch == 1 ? cublas().gemm(p.handle, op_b, op_a, s.n, s.m, s.k, &one, b, kData<T>, ldb, a, kData<T>, lda, &keep, c, kData<T>, s.n,
                                                kCompute<T>, CUBLAS_GEMM_DEFAULT)
                                : cublas().gemm_batched(p.handle, op_b, op_a, s.n, s.m, s.k, &one, b, kData<T>, ldb, s.stride_b, a, kData<T>, lda,
                                                        s.stride_a, &keep, c, kData<T>, s.n, s.m * s.n, s.batch, kCompute<T>, CUBLAS_GEMM_DEFAULT));
}

template Status matmul<float>(const Product&, const float*, const float*, float*, Stream);
template Status matmul<double>(const Product&, const double*, const double*, double*, Stream);
template Status matmul<bf16>(const Product&, const bf16*, const bf16*, bf16*, Stream);

}  // namespace ttr::cuda
