// Linear and Embedding: a product, a table.
#include <ttr/core/ops.hpp>
#include <ttr/layers/linear.hpp>

namespace ttr {

Linear::Linear(const LinearOptions& o, Init& init) {
  if (o.in < 1 || o.out < 1) throw refuse("linear", "in is {} and out is {}, needs both to be at least 1", o.in, o.out);
  weight = init.normal({o.out, o.in}, o.deviation);
  if (o.bias) bias = init.constant({o.out}, 0);
}

Tensor Linear::operator()(const Tensor& x) const {
  if (x.rank() < 2 || x.size(-1) != weight->size(1))
    throw refuse("linear", "x has shape {}, needs [..., {}]", to_string(x.shape()), weight->size(1));
  const Tensor y = matmul(x, *weight, false, true);
  return bias.defined() ? y + *bias : y;
}

Embedding::Embedding(const EmbeddingOptions& o, Init& init) {
  if (o.count < 1 || o.dim < 1) throw refuse("embedding", "count is {} and dim is {}, needs both to be at least 1", o.count, o.dim);
  weight = init.normal({o.count, o.dim}, o.deviation).outer();
}
Tensor Embedding::operator()(const Tensor& ids) const { return embedding(*weight, ids); }
Tensor Embedding::scores(const Tensor& x) const { return matmul(x, *weight, false, true); }

template void each_part<Parameter, Linear>(Linear&, const PartVisitor<Parameter>&, const std::string&);
template void each_part<Frozen, Linear>(Linear&, const PartVisitor<Frozen>&, const std::string&);
template void each_part<Parameter, Embedding>(Embedding&, const PartVisitor<Parameter>&, const std::string&);
template void each_part<Frozen, Embedding>(Embedding&, const PartVisitor<Frozen>&, const std::string&);

}  // namespace ttr
