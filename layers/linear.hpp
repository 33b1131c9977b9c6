// Linear and Embedding.
//   Linear     y = x W^T (+ b)      x [..., in], W [out, in], b [out] -> [..., out]
//   Embedding  y = table[ids]       ids i32 [...], table [N, D] -> [..., D]
#pragma once
#include <ttr/layers/init.hpp>

namespace ttr {

struct LinearOptions {
  int64_t in = 0, out = 0;
  bool bias = false;
  double deviation = 0.02;   // of the normal initial weights
};
struct Linear {
  Linear() = default;
  Linear(const LinearOptions&, Init&);
  Tensor operator()(const Tensor& x) const;
  void each(auto&& f) { f("weight", weight), f("bias", bias); }
  Parameter weight, bias;   // [out, in], [out] or undefined
};

struct EmbeddingOptions {
  int64_t count = 0, dim = 0;
  double deviation = 0.02;
};
struct Embedding {
  Embedding() = default;
  Embedding(const EmbeddingOptions&, Init&);
  Tensor operator()(const Tensor& ids) const;
  Tensor scores(const Tensor& x) const;   // x table^T: the head of a model whose embedding is tied. x [..., D] -> [..., N]
  void each(auto&& f) { f("weight", weight); }
  Parameter weight;   // [N, D]
};

extern template void each_part<Parameter, Linear>(Linear&, const PartVisitor<Parameter>&, const std::string&);
extern template void each_part<Frozen, Linear>(Linear&, const PartVisitor<Frozen>&, const std::string&);
extern template void each_part<Parameter, Embedding>(Embedding&, const PartVisitor<Parameter>&, const std::string&);
extern template void each_part<Frozen, Embedding>(Embedding&, const PartVisitor<Frozen>&, const std::string&);

}  // namespace ttr
