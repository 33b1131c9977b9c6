// The device itself: is there one, memory, copies, the one stream, captured graphs, times.
#include <mutex>
#include <ttr/core/device_kernel.hpp>
#include <ttr/cuda/launch.hpp>
#include <ttr/cuda/products.hpp>

namespace ttr::cuda {
namespace {

__global__ void probe() {}   // is there code for this device in this binary

struct Found {
  int count = 0;
  const char* problem = "";
};

Found look() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    cudaGetLastError();
    return {0, "no NVIDIA driver"};
  }
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  cudaGetLastError();   // a failed probe must not be reported by the next launch
  if (counted == cudaErrorInsufficientDriver) return {0, "the NVIDIA driver is older than this CUDA needs"};
  if (counted == cudaErrorNoDevice || (counted == cudaSuccess && count == 0)) return {0, "no NVIDIA GPU"};
  if (counted != cudaSuccess) return {0, cudaGetErrorString(counted)};
  cudaFuncAttributes attributes;
  const cudaError_t probed = cudaFuncGetAttributes(&attributes, probe);
  cudaGetLastError();
  if (probed == cudaErrorNoKernelImageForDevice || probed == cudaErrorInvalidDeviceFunction) return {0, "the GPU's architecture is not among those built"};
  if (probed != cudaSuccess) return {0, cudaGetErrorString(probed)};
  return {count, ""};
}

const Found& found() {
  static const Found f = look();
  return f;
}

struct Process {
  std::mutex mutex;
  bool ready = false;
  cudaStream_t stream = nullptr;
};
Process& process() {
  static Process p;
  return p;
}

}  // namespace

int device_count() { return found().count; }
const char* device_problem() { return found().problem; }
const char* last_error() { return last_failure; }

Status prepare() {
  Process& p = process();
  const std::lock_guard lock(p.mutex);
  if (p.ready) return Status::ok;
  if (device_count() == 0) {
    last_failure = device_problem();
    return Status::launch_failed;
  }
  if (!p.stream)
    if (const Status s = status_of(cudaStreamCreateWithFlags(&p.stream, cudaStreamNonBlocking)); s != Status::ok) return s;
  if (const Status s = prepare_products(Stream{p.stream}); s != Status::ok) return s;
  p.ready = true;
  return Status::ok;
}

Stream stream() {
  prepare();
  return Stream{process().stream};
}

void* allocate(size_t bytes) {
  void* at = nullptr;
  if (bytes == 0 || status_of(cudaMalloc(&at, bytes)) == Status::ok) return at;
  cudaGetLastError();   // out of memory is an answer here, not an error of the next launch
  return nullptr;
}

void release(void* at) {
  if (at) cudaFree(at);
}

Status copy_to_device(void* to, const void* from, size_t bytes) {
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  if (const Status s = status_of(cudaStreamIsCapturing(native(stream()), &capturing)); s != Status::ok) return s;
  if (capturing != cudaStreamCaptureStatusNone) {   // a replay would read the host's memory again, which is somebody else's by then
    last_failure = "an upload inside a captured step";
    return Status::launch_failed;
  }
  return bytes ? status_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, native(stream()))) : Status::ok;
}

Status copy_to_host(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return Status::ok;
  if (const Status s = status_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, native(stream()))); s != Status::ok) return s;
  return synchronise();
}

Status copy_on_device(void* to, const void* from, size_t bytes, Stream s) {
  return bytes ? status_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, native(s))) : Status::ok;
}

Status set_bytes(void* to, int value, size_t bytes, Stream s) {
  return bytes ? status_of(cudaMemsetAsync(to, value, bytes, native(s))) : Status::ok;
}

Status synchronise() { return status_of(cudaStreamSynchronize(native(stream()))); }

Status capture_begin() {
  // Relaxed: a pool may still take memory from the system while the step is recorded.
  return status_of(cudaStreamBeginCapture(native(stream()), cudaStreamCaptureModeRelaxed));
}

void* capture_end() {
  cudaGraph_t graph = nullptr;
  if (status_of(cudaStreamEndCapture(native(stream()), &graph)) != Status::ok) {
    cudaGetLastError();   // a capture that broke leaves its error behind
    return nullptr;
  }
  cudaGraphExec_t executable = nullptr;
  const Status s = status_of(cudaGraphInstantiate(&executable, graph, 0));
  cudaGraphDestroy(graph);
  return s == Status::ok ? executable : nullptr;
}

Status graph_launch(void* graph) { return status_of(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), native(stream()))); }

void graph_release(void* graph) {
  if (graph) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
}

void* event_record() {
  cudaEvent_t event = nullptr;
  if (status_of(cudaEventCreate(&event)) != Status::ok) return nullptr;
  if (status_of(cudaEventRecord(event, native(stream()))) == Status::ok) return event;
  cudaEventDestroy(event);
  return nullptr;
}

double event_milliseconds(void* from, void* to) {
  float milliseconds = 0;
  if (status_of(cudaEventSynchronize(static_cast<cudaEvent_t>(to))) != Status::ok) return -1;
  if (status_of(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(from), static_cast<cudaEvent_t>(to))) != Status::ok) return -1;
  return milliseconds;
}

void event_release(void* event) {
  if (event) cudaEventDestroy(static_cast<cudaEvent_t>(event));
}

}  // namespace ttr::cuda
