#include <ttr/apps/place.hpp>
#include <ttr/core/dispatch.hpp>

namespace ttr {

std::string missing_device(Device device) {
  if (!device.is_cuda()) return {};
  if constexpr (with_cuda) return cuda::device_problem();
  else return "built without CUDA";
}

Options place_named(const std::string& device, const std::string& dtype) {
  Options place;
  if (device == "cuda") place.device = cuda_device;
  else if (device != "cpu") throw refuse("ttr", "--device is {}, needs cpu or cuda", device);
  if (dtype == "f64") place.dtype = Dtype::f64;
  else if (dtype == "bf16") place.dtype = Dtype::bf16;
  else if (dtype != "f32") throw refuse("ttr", "--dtype is {}, needs f32, f64 or bf16", dtype);
  if (const std::string why = missing_device(place.device); !why.empty()) throw refuse("ttr", "--device is cuda, needs a GPU that can be used here ({}); take --device cpu", why);
  if (place.dtype == Dtype::bf16 && !place.device.is_cuda()) throw refuse("ttr", "--dtype is bf16 on the cpu, needs f32 or f64 there; bf16 is computed on cuda");
  return place;
}

}  // namespace ttr
