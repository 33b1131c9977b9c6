// Every operation on tensors. Shapes broadcast as in numpy (aligned at the last axis); there is no implicit change of dtype: use cast.
// Unless marked [kernel op], an operation is a primitive: it has derivatives of any order. All kernel ops here carry their definition.
#pragma once
#include <optional>
#include <ttr/core/grad.hpp>

namespace ttr {

// -- elementwise ---------------------------------------------------------------------------------------------------------------------
Tensor operator+(const Tensor&, const Tensor&);
Tensor operator-(const Tensor&, const Tensor&);
Tensor operator*(const Tensor&, const Tensor&);
Tensor operator/(const Tensor&, const Tensor&);
Tensor operator-(const Tensor&);
Tensor operator+(const Tensor&, double);
Tensor operator-(const Tensor&, double);
Tensor operator*(const Tensor&, double);
Tensor operator/(const Tensor&, double);
Tensor operator+(double, const Tensor&);
Tensor operator-(double, const Tensor&);
Tensor operator*(double, const Tensor&);
Tensor operator/(double, const Tensor&);
Tensor maximum(const Tensor&, const Tensor&);     // derivative to the larger; to the first on ties
Tensor minimum(const Tensor&, const Tensor&);
Tensor maximum(const Tensor&, double);
Tensor minimum(const Tensor&, double);
Tensor pow(const Tensor&, double exponent);
Tensor exp(const Tensor&);
Tensor log(const Tensor&);
Tensor log1p(const Tensor&);
Tensor expm1(const Tensor&);
Tensor sqrt(const Tensor&);
Tensor rsqrt(const Tensor&);
Tensor square(const Tensor&);
Tensor abs(const Tensor&);
Tensor sin(const Tensor&);
Tensor cos(const Tensor&);
Tensor tanh(const Tensor&);
Tensor sigmoid(const Tensor&);
Tensor softplus(const Tensor&);                   // log(1 + e^x), stable
Tensor logsigmoid(const Tensor&);                 // -softplus(-x)
Tensor relu(const Tensor&);
Tensor silu(const Tensor&);                       // [kernel op] x sigmoid(x)
Tensor elu1(const Tensor&);                       // [kernel op] 1 + ELU (arXiv 1511.07289): x + 1, or e^x where x <= 0
Tensor gelu(const Tensor&);                       // [kernel op] 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
Tensor sign(const Tensor&);                       // derivative zero
Tensor less(const Tensor&, const Tensor&);        // 1 or 0 in the operands' dtype; no derivative
Tensor less_equal(const Tensor&, const Tensor&);
Tensor equal(const Tensor&, const Tensor&);
Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b);   // mask != 0 ? a : b; nothing of the branch not taken flows, NaN included

// -- reductions ----------------------------------------------------------------------------------------------------------------------
Tensor sum(const Tensor&);                                            // to a scalar, shape []
Tensor sum(const Tensor&, int axis, bool keep = false);
Tensor mean(const Tensor&);
Tensor mean(const Tensor&, int axis, bool keep = false);
Tensor max(const Tensor&, int axis, bool keep = false);               // derivative shared equally by ties
Tensor logsumexp(const Tensor&, int axis, bool keep = false);
Tensor sum_to(const Tensor&, const Shape&);                           // undo a broadcast
Tensor cumsum(const Tensor&, int axis, bool reverse = false);

// -- products ------------------------------------------------------------------------------------------------------------------------
// [..., m, k] x [..., k, n] -> [..., m, n]; leading axes equal, or absent on one side. transpose_* swaps the last two axes of that operand.
Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a = false, bool transpose_b = false);
// x [..., k] by the rows of weights [n_j, k], one under another, cut by sizes; no cut spans two weights: y_i [..., sizes_i], each in memory of its own.
// What reaches x is summed inside its products, and narrow weights share one. [kernel op]
Tensors project(const Tensor& x, const Tensors& weights, const std::vector<int64_t>& sizes);

// -- shape ---------------------------------------------------------------------------------------------------------------------------
Tensor reshape(const Tensor&, const Shape&);                          // shares memory; one size may be -1
Tensor transpose(const Tensor&, int axis_a, int axis_b);              // copies
Tensor broadcast_to(const Tensor&, const Shape&);
Tensor concat(const Tensors&, int axis);
Tensor stack(const Tensors&, int axis);
Tensor slice(const Tensor&, int axis, int64_t begin, int64_t end);
Tensors split(const Tensor&, int axis, const std::vector<int64_t>& sizes);
Tensors unstack(const Tensor&, int axis);                             // one node, so the backward of a loop over it is linear
Tensor pad(const Tensor&, int axis, int64_t before, int64_t after);   // with zeros
Tensor roll(const Tensor&, int axis, int64_t shift);
Tensor reverse(const Tensor&, int axis);
Tensor cast(const Tensor&, Dtype);
Tensor alias(const Tensor&);                                          // the same values as a tensor of its own: always tracked
Tensor stop_gradient(const Tensor&);                                  // the same values, untracked
Tensor tril(const Tensor&, int64_t diagonal = 0);                     // of the last two axes
Tensor diagonal(const Tensor&);                                       // [..., n, n] -> [..., n]
Tensor diagonal_matrix(const Tensor&);                                // [..., n] -> [..., n, n]
Tensor identity(int64_t n, Options = {});

// -- indexing ------------------------------------------------------------------------------------------------------------------------
Tensor embedding(const Tensor& table, const Tensor& ids);             // [N, D], i32 [...] -> [..., D]
Tensor gather(const Tensor& x, int axis, const Tensor& ids);          // x along axis at ids (i32 [M]): [..., M, ...]
Tensor scatter_add(const Tensor& x, int axis, const Tensor& ids, int64_t size);   // the adjoint of gather
Tensor pick(const Tensor& x, const Tensor& ids);                      // [..., N], i32 [...] -> [...]: x[..., ids[...]]

// -- softmax, norms, losses [kernel ops] ------------------------------------------------------------------------------------------------
Tensor softmax(const Tensor&);                                        // over the last axis; a row of -inf gives zeros
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps = 1e-5);           // x / sqrt(mean x^2 + eps) * weight; weight [D] or undefined
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps = 1e-5);
Tensors add_rms_norm(const Tensor& x, const Tensor& y, const Tensor& weight, double eps = 1e-5);   // {x + y, rms_norm(x + y, weight)} in one pass
Tensor l2_norm(const Tensor& x, double eps = 1e-6);                   // x / sqrt(sum x^2 + eps)
Tensor swiglu(const Tensor& gate_up);                                 // [..., 2n] -> [..., n]: silu of the first half times the second (arXiv 2002.05202)
Tensor gated(const Tensor& x, const Tensor& gate);                    // x silu(gate), of one shape
// Mean over labels >= 0 of -log softmax(logits)[label], a scalar; labels < 0 are ignored; no labels at all gives 0. logits [..., N], labels i32 [...].
// reduce = false: the sum instead of the mean.
Tensor cross_entropy(const Tensor& logits, const Tensor& labels, bool mean = true);
Tensor label_count(const Tensor& labels);                             // how many are >= 0, f32 scalar on the labels' device

// -- sequence ---------------------------------------------------------------------------------------------------------------------------
// y_t = sum_j weight[:, j] x_{t - j} (+ bias), j = 0 .. W-1: depthwise and causal; active: silu of that. x [B, T, D], weight [D, W];
// past [B, W-1, D] stands before x (zeros when undefined). Of several parts x is their channels one after another. [kernel op]
Tensor causal_conv(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const Tensor& past = {}, bool active = false);
Tensors causal_conv(const Tensors& parts, const Tensor& weight, const Tensor& bias = {}, const Tensor& past = {}, bool active = false);
// Rotates pairs (i, i + D/2) of x [B, T, H, D] by (first + t) base^(-2i/D).
Tensor rotary(const Tensor& x, int64_t first = 0, double base = 10000);
// Kept values scaled by 1 / (1 - rate). first: x's elements are first, first + 1, ... of the mask, so that pieces can be dropped from as their whole is.
Tensor dropout(const Tensor& x, double rate, uint64_t seed, uint64_t stream, int64_t first = 0);
Tensor dropout(const Tensor& x, double rate, const Tensor& key, uint64_t stream, int64_t first = 0);   // seed: the bits of key f64 [1], read by the kernel

// -- linear algebra, batched over leading axes -------------------------------------------------------------------------------------------
Tensor cholesky(const Tensor& a);   // lower L, a = L L^T; reads the lower triangle; not positive definite: NaN from that row on
Tensor solve_triangular(const Tensor& l, const Tensor& b, bool upper = false, bool transpose = false);   // l [..., n, n], b [..., n, m]
Tensor solve(const Tensor& a, const Tensor& b);                       // a symmetric positive definite

// -- random (Philox; the same on CPU and CUDA) -------------------------------------------------------------------------------------------
Tensor uniform(const Shape&, uint64_t seed, uint64_t stream, double low = 0, double high = 1, Options = {});
Tensor normal(const Shape&, uint64_t seed, uint64_t stream, double mean = 0, double deviation = 1, Options = {});

}  // namespace ttr
