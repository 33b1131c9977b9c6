// The tensors of a batch. A batch is a Tensor, a fixed array, or a struct whose `each` line names its tensors, as modules name their parts:
//   struct Batch { Tensor input, target; void each(auto&& f) { f("input", input); f("target", target); } };
// A std::vector or std::span is not one batch but a list of micro-batches.
#pragma once
#include <array>
#include <string>
#include <ttr/optim/parameter.hpp>

namespace ttr {

template <class B> struct IsArray : std::false_type {};
template <class T, size_t n> struct IsArray<std::array<T, n>> : std::true_type {};

template <class B>
concept BatchOfTensors = std::is_same_v<B, Tensor> || IsArray<B>::value || requires(B& b) { b.each([](const char*, auto&) {}); };

// f(name, Tensor&) for every tensor of the batch.
template <BatchOfTensors B, class F> void each_tensor(B& batch, F&& f, const std::string& prefix = "") {
  if constexpr (std::is_same_v<B, Tensor>) {
    f(prefix.empty() ? std::string("batch") : prefix, batch);
  } else if constexpr (IsArray<B>::value) {
    for (size_t i = 0; i < batch.size(); ++i) each_tensor(batch[i], f, part_name(prefix, std::to_string(i)));
  } else {
    batch.each([&](const char* name, auto& part) { each_tensor(part, f, part_name(prefix, name)); });
  }
}

}  // namespace ttr
