// The table. One entry a published layer; the order is that of the reference: attention, least squares, linear, gated, online, nonlinear.
#include <ttr/layers/fenwick_weights.hpp>
#include <ttr/layers/layer_norm_memory.hpp>
#include <ttr/layers/muon_schedule.hpp>
#include <ttr/layers/preconditioned.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/layers/swiglu_memory.hpp>
#include <ttr/layers/trapezoid.hpp>
#include <ttr/layers/window_weights.hpp>

namespace ttr {
namespace recipes {

const Recipe softmax_attention{KernelWeights{}, Constant{}, Exact{}, {.scale = Scale::rsqrt_key()}};
// With the scale 1 / sqrt(K) of the talk's slide unit keys give nearly flat weights, e^{2 / sqrt K} at most; so a
// learned temperature (docs/3-three-ingredients.md).
const Recipe qknorm_attention{KernelWeights{.temperature = true}, Constant{}, Exact{}, {.key_norm = KeyNorm::l2}};
const Recipe rms_qknorm_attention{KernelWeights{.norm_weights = true}, Constant{}, Exact{}, {.scale = Scale::rsqrt_key(), .key_norm = KeyNorm::rms}};
// One step from zero in place of the weighted mean: sum exp(k.q) v, without the division.
const Recipe unnormalised_softmax_attention{KernelWeights{}, Constant{}, Descend<Sgd>{.at = initial}, {.scale = Scale::rsqrt_key()}};
const Recipe nadaraya_watson{KernelWeights{.kernel = Kernel::gaussian}, Constant{}, Exact{}};
// The features are of k - q, so q keeps its length and the kernel scales its logits itself.
const Recipe local_linear_attention{KernelWeights{.scale = Scale::rsqrt_key()}, Polynomial{.degree = 1}, Exact{.ridge = Ridge::relative}};
const Recipe local_quadratic_attention{KernelWeights{.scale = Scale::rsqrt_key()}, Polynomial{.degree = 2},
                                       Exact{.ridge = Ridge::relative, .per = RidgePer::degree}};
const Recipe parallax{KernelWeights{.scale = Scale::rsqrt_key()}, Polynomial{.degree = 1}, Amortized{}};
const Recipe forgetting_attention{KernelWeights{.forget = true}, Constant{}, Exact{}, {.scale = Scale::rsqrt_key()}};
const Recipe path_attention{PathWeights{}, Constant{}, Exact{}, {.scale = Scale::rsqrt_key()}};
const Recipe deltaformer{KernelWeights{}, Constant{}, Boost{}, {.scale = Scale::rsqrt_key()}};
const Recipe kernel_regression{EvenWeights{}, KernelExpansion{}, Exact{.ridge = Ridge::constant}};
const Recipe geometric_kernel_regression{GeometricWeights{}, KernelExpansion{}, Exact{.ridge = Ridge::constant}};
const Recipe intention{EvenWeights{}, LinearMap{}, Exact{.ridge = Ridge::constant}, {.visible = Visible::everything}};
// The talk lists these two under kernel regression. They are smoothers: both approximate kappa(Q, K) V with landmarks, and the matrix they invert is that
// of the landmarks; neither holds kappa(K, K)^{-1} (docs/3-three-ingredients.md). The same landmarks with Exact would be the regression.
const Recipe soft{EvenWeights{}, Landmarks{.shared = true}, Nystrom{}, {.visible = Visible::everything}};
const Recipe soft_newton{EvenWeights{}, Landmarks{.shared = true}, Nystrom{.inverse = Inverse::newton}, {.visible = Visible::everything}};
const Recipe skyformer{EvenWeights{}, TokenLandmarks{}, Nystrom{.jitter = 0.1, .inverse = Inverse::third_order, .steps = 6}, {.visible = Visible::everything}};
const Recipe skyformer_exact{EvenWeights{}, TokenLandmarks{}, Nystrom{.jitter = 0.1}, {.visible = Visible::everything}};

const Recipe mesa{EvenWeights{}, LinearMap{}, Exact{.ridge = Ridge::constant}};
const Recipe mesa_net{GeometricWeights{.write = WriteGate::gate}, LinearMap{}, Exact{.ridge = Ridge::constant, .per = RidgePer::channel}};
const Recipe mesa_net_cg{GeometricWeights{.write = WriteGate::gate}, LinearMap{}, ConjugateGradient{}};
const Recipe weighted_least_squares{GeometricWeights{}, LinearMap{}, Exact{.ridge = Ridge::constant}};
const Recipe decaying_least_squares{GeometricWeights{}, LinearMap{}, Exact{.ridge = Ridge::decaying}};
const Recipe refreshed_least_squares{GeometricWeights{}, LinearMap{}, Exact{.ridge = Ridge::refreshed}};
const Recipe mesa_sgd_steps{EvenWeights{}, LinearMap{}, GradientSteps{.steps = 3}};

// One full-batch step from zero. The talk's slide of feature maps drops the inverse (Phi' Phi)^{-1} without a word: what it prints is this step, not the
// solution, which is mesa on the same features (docs/3-three-ingredients.md). Performer, RFA and cosFormer approximate the softmax smoother, not a regression.
const Recipe linear_attention{EvenWeights{}, LinearMap{}, Descend<Sgd>{.at = initial}};
const Recipe normalised_linear_attention{EvenWeights{}, LinearMap{.feature = Elu1{}, .normaliser = Normaliser::sum}, Descend<Sgd>{.at = initial}};
const Recipe relu_linear_attention{EvenWeights{}, LinearMap{.feature = LearnedRelu{}, .normaliser = Normaliser::clamp}, Descend<Sgd>{.at = initial}};
const Recipe cosformer{EvenWeights{}, LinearMap{.feature = Cosformer{}, .normaliser = Normaliser::clamp}, Descend<Sgd>{.at = initial}};
const Recipe dpfp{EvenWeights{}, LinearMap{.feature = Dpfp{}}, Descend<Sgd>{.at = initial}};
const Recipe silu_linear_attention{EvenWeights{}, LinearMap{.feature = Silu{}}, Descend<Sgd>{.at = initial}};
const Recipe polynomial_linear_attention{EvenWeights{}, LinearMap{.feature = Monomials{}}, Descend<Sgd>{.at = initial}};
const Recipe based{EvenWeights{}, LinearMap{.feature = Taylor2{}, .normaliser = Normaliser::sum}, Descend<Sgd>{.at = initial}};
const Recipe rebased{EvenWeights{}, LinearMap{.feature = Rebased{}, .normaliser = Normaliser::sum}, Descend<Sgd>{.at = initial}};
const Recipe hedgehog{EvenWeights{}, LinearMap{.feature = Hedgehog{}, .normaliser = Normaliser::sum, .eps = 0}, Descend<Sgd>{.at = initial}};
const Recipe hedgehog_joint{EvenWeights{}, LinearMap{.feature = Hedgehog{.joint = true}, .normaliser = Normaliser::sum, .eps = 0}, Descend<Sgd>{.at = initial}};
const Recipe performer{EvenWeights{}, LinearMap{.feature = Performer{}, .normaliser = Normaliser::sum, .eps = 0}, Descend<Sgd>{.at = initial}};
const Recipe rfa{EvenWeights{}, LinearMap{.feature = RandomWaves{}, .normaliser = Normaliser::clamp, .eps = 1}, Descend<Sgd>{.at = initial}};
const Recipe gated_rfa{MovingAverage{}, LinearMap{.feature = RandomWaves{}, .normaliser = Normaliser::clamp, .eps = 1}, Descend<Sgd>{.at = initial}};
const Recipe dijiang{GeometricWeights{}, LinearMap{.feature = SoftmaxFeatures{}}, Descend<Sgd>{.at = initial}};
const Recipe hadamard_linear_attention{EvenWeights{}, LinearMap{.feature = Hadamard{}}, Descend<Sgd>{.at = initial}};


// -- gated: one decayed batch step ---------------------------------------------------------------------------------------------------------
// q times 1 / sqrt K where the official code does so. Per-channel decays are no weights of a regression but its weight decay.
const Recipe retnet{GeometricWeights{.fixed = true}, LinearMap{}, Descend<Sgd>{.at = initial}, {.scale = Scale::rsqrt_key()}};   // 1 - 2^(-5-h) a head
const Recipe simple_gla{GeometricWeights{}, LinearMap{}, Descend<Sgd>{.at = initial}, {.scale = Scale::rsqrt_key()}};
const Recipe gla{GeometricWeights{.per = Decay::channel}, LinearMap{}, Descend<Sgd>{.at = initial}, {.scale = Scale::rsqrt_key()}};
const Recipe hgrn2{GeometricWeights{.per = Decay::channel}, LinearMap{.tied = true}, Descend<Sgd>{.at = initial}, {.scale = Scale::rsqrt_key()}};
const Recipe hgrn{GeometricWeights{.per = Decay::value, .write = WriteGate::tied}, Constant{}, Descend<Sgd>{.at = initial}};   // a running average
const Recipe gateloop{GeometricWeights{.per = Decay::channel, .phase = true}, LinearMap{}, Descend<Sgd>{.at = initial}};
const Recipe lru{GeometricWeights{.per = Decay::value, .phase = true, .fixed = true}, Constant{}, Descend<Sgd>{.at = initial}};
// k = B, q = C, v = u, rate = -A; delta is also what the value is written with.
const Recipe mamba{GeometricWeights{.per = Decay::product, .write = WriteGate::delta}, LinearMap{}, Descend<Sgd>{.at = initial}};
const Recipe mamba2{GeometricWeights{}, LinearMap{}, Descend<Sgd>{.at = initial}};   // one A a head: v = Delta u, log_decay = Delta A
const Recipe mamba3{GeometricWeights{}, LinearMap{}, Descend<Trapezoid>{.at = initial}};                // v = u; without its rotation of q and k
const Recipe rwkv6{GeometricWeights{.per = Decay::channel}, LinearMap{.bonus = true}, Descend<Sgd>{.at = initial}, {.read = Read::strict}};
const Recipe mlstm{GeometricWeights{.write = WriteGate::log},
                   LinearMap{.normaliser = Normaliser::max1},
                   Descend<Sgd>{.at = initial},
                   {.scale = Scale::rsqrt_key()}};
const Recipe mlstm_sigmoid{GeometricWeights{.write = WriteGate::gate}, LinearMap{}, Descend<Sgd>{.at = initial}, {.scale = Scale::rsqrt_key()}};
const Recipe log_linear_attention{FenwickWeights{}, LinearMap{}, Descend<Sgd>{.at = initial}};

// -- online: gradient descent, one pair at a time -------------------------------------------------------------------------------------------
const Recipe delta_net{EvenWeights{}, LinearMap{}, Descend<Sgd>{.at = previous}};
const Recipe delta_net_negative{EvenWeights{}, LinearMap{}, Descend<Sgd>{.at = previous, .limit = 2}};   // eigenvalues down to -1 for unit keys
const Recipe gated_delta_net{GeometricWeights{}, LinearMap{}, Descend<Sgd>{.at = decayed}};
const Recipe kda{GeometricWeights{.per = Decay::channel}, LinearMap{}, Descend<Sgd>{.at = decayed}};
const Recipe gdn2{GeometricWeights{.per = Decay::channel}, LinearMap{.erase = Erase::gated}, Descend<Sgd>{.at = decayed, .rate = Rate::unit}};
const Recipe comba{GeometricWeights{}, LinearMap{.erase = Erase::separate}, Descend<Sgd>{.at = previous}};   // erases before the decay
const Recipe rwkv7{GeometricWeights{.per = Decay::channel}, LinearMap{.erase = Erase::two}, Descend<Sgd>{.at = previous, .rate = Rate::unit}};
const Recipe delta_product{EvenWeights{}, LinearMap{}, Descend<Sgd>{.at = previous, .limit = 2}, {.writes = 2}};
const Recipe gated_delta_product{GeometricWeights{}, LinearMap{}, Descend<Sgd>{.at = decayed, .limit = 2}, {.writes = 2}};   // one decay a token
// The step is delta / (1 + delta |k|^2); the talk's slide prints 1 / (1 + delta |k|^2), which minimises the objective only at delta = 1.
const Recipe longhorn{EvenWeights{}, LinearMap{}, Proximal{}};
const Recipe longhorn_diagonal{EvenWeights{}, LinearMap{}, Proximal{.diagonal = true}};   // as the official code runs it
// The talk calls this Gated DeltaNet after a reparameterisation: with alpha = 1 - beta lambda, beta' = beta / alpha, and (unsaid there) the
// value rescaled, v' = alpha v. Singular at beta lambda = 1.
const Recipe l2_sgd{WeightDecay{}, LinearMap{}, Descend<Sgd>{.at = previous}};
const Recipe preconditioned_delta{GeometricWeights{}, LinearMap{}, Preconditioned{}};
const Recipe preconditioned_kda{GeometricWeights{.per = Decay::channel}, LinearMap{}, Preconditioned{}};
const Recipe oja{GeometricWeights{.per = Decay::value}, LinearMap{.erase = Erase::transposed}, Descend<Sgd>{.at = decayed}};   // keys regressed on values
const Recipe momentum_delta{GeometricWeights{}, LinearMap{}, Descend<Momentum>{.at = previous}};

// -- nonlinear memories, minibatches, windows -----------------------------------------------------------------------------------------------
const Recipe ttt_linear{EvenWeights{}, NormedLinear{}, Descend<Sgd>{.at = chunk, .chunk = 16, .row_scale = true}};
const Recipe ttt_mlp{EvenWeights{}, NormedMlp{}, Descend<Sgd>{.at = chunk, .chunk = 16, .row_scale = true}};
const Recipe titans{GeometricWeights{}, Mlp{}, Descend<Momentum>{.at = chunk, .chunk = 64}};
const Recipe titans_strict{GeometricWeights{}, Mlp{}, Descend<Momentum>{.at = chunk, .chunk = 64}, {.read = Read::chunk}};
const Recipe titans_lucidrains{GeometricWeights{}, Mlp{.loss_of = PairLoss::mean},
                               Descend<Momentum>{.at = initial, .chunk = 64, .rate = Rate::slot, .apply = Apply::chunk}};   // as the community runs one call
const Recipe lact{EvenWeights{}, SwiGlu{.loss_of = PairLoss::dot, .paces = true},
                  Descend<Momentum>{.at = previous, .chunk = 2048, .rate = Rate::unit, .apply = Apply::chunk, .keep_norm = true}, {.read = Read::strict}};
const Recipe lact_muon{EvenWeights{}, SwiGlu{.loss_of = PairLoss::dot, .paces = true},
                       Descend<Muon>{.at = previous, .chunk = 2048, .rate = Rate::unit, .apply = Apply::chunk, .keep_norm = true,
                                     .rule = {Muon{.schedule = MuonSchedule::lact}}}, {.read = Read::strict}};
const Recipe omega_net{WindowWeights{}, LinearMap{}, Descend<Momentum>{.at = previous, .over = Over::visible}};
const Recipe atlas{WindowWeights{}, LinearMap{}, Descend<Muon>{.at = previous, .over = Over::visible}};

}  // namespace recipes

const std::vector<Published>& published_recipes() {
  using namespace recipes;
  static const auto* table = new std::vector<Published>{
      {"softmax_attention", softmax_attention, "arXiv 1706.03762", "softmax_attention"},
      {"unnormalised_softmax_attention", unnormalised_softmax_attention, "arXiv 2501.12352", ""},
      {"qknorm_attention", qknorm_attention, "arXiv 2010.04245", "softmax_attention"},
      {"rms_qknorm_attention", rms_qknorm_attention, "arXiv 2302.05442", "softmax_attention"},
      {"nadaraya_watson", nadaraya_watson, "Nadaraya 1964, Watson 1964", "softmax_attention"},
      {"local_linear_attention", local_linear_attention, "arXiv 2510.01450", "softmax_attention"},
      {"local_quadratic_attention", local_quadratic_attention, "arXiv 2501.12352", "softmax_attention"},
      {"parallax", parallax, "arXiv 2605.29157", "softmax_attention"},
      {"forgetting_attention", forgetting_attention, "arXiv 2503.02130", "softmax_attention"},
      {"path_attention", path_attention, "arXiv 2505.16381", ""},
      {"deltaformer", deltaformer, "arXiv 2505.19488", ""},
      {"kernel_regression", kernel_regression, "arXiv 2501.12352", "kernel_regression"},
      {"geometric_kernel_regression", geometric_kernel_regression, "arXiv 2501.12352", ""},
      {"intention", intention, "arXiv 2305.10203", "normal_equations"},
      {"soft", soft, "arXiv 2110.11945", ""},
      {"soft_newton", soft_newton, "arXiv 2110.11945", ""},
      {"skyformer", skyformer, "arXiv 2111.00035", ""},
      {"skyformer_exact", skyformer_exact, "arXiv 2111.00035", ""},

      {"mesa", mesa, "arXiv 2309.05858", "normal_equations"},
      {"mesa_net", mesa_net, "arXiv 2506.05233", "normal_equations"},
      {"mesa_net_cg", mesa_net_cg, "arXiv 2506.05233", "normal_equations"},
      {"weighted_least_squares", weighted_least_squares, "arXiv 2501.12352", "normal_equations"},
      {"decaying_least_squares", decaying_least_squares, "arXiv 2501.12352", "normal_equations"},
      {"refreshed_least_squares", refreshed_least_squares, "arXiv 2501.12352", "normal_equations"},
      {"mesa_sgd_steps", mesa_sgd_steps, "arXiv 2501.12352", ""},

      {"linear_attention", linear_attention, "arXiv 2006.16236", "diagonal_decay"},
      {"normalised_linear_attention", normalised_linear_attention, "arXiv 2006.16236", "diagonal_decay"},
      {"relu_linear_attention", relu_linear_attention, "arXiv 2103.13076", "diagonal_decay"},
      {"cosformer", cosformer, "arXiv 2202.08791", "diagonal_decay"},
      {"dpfp", dpfp, "arXiv 2102.11174", "diagonal_decay"},
      {"silu_linear_attention", silu_linear_attention, "arXiv 2312.00752", "diagonal_decay"},
      {"polynomial_linear_attention", polynomial_linear_attention, "arXiv 2501.12352", "diagonal_decay"},
      {"based", based, "arXiv 2402.18668", "diagonal_decay"},
      {"rebased", rebased, "arXiv 2402.10644", "diagonal_decay"},
      {"hedgehog", hedgehog, "arXiv 2402.04347", "diagonal_decay"},
      {"hedgehog_joint", hedgehog_joint, "arXiv 2402.04347", "diagonal_decay"},
      {"performer", performer, "arXiv 2009.14794", "diagonal_decay"},
      {"rfa", rfa, "arXiv 2103.02143", "diagonal_decay"},
      {"gated_rfa", gated_rfa, "arXiv 2103.02143", "diagonal_decay"},
      {"dijiang", dijiang, "arXiv 2403.19928", "diagonal_decay"},
      {"hadamard_linear_attention", hadamard_linear_attention, "flash-linear-attention", "diagonal_decay"},

      {"retnet", retnet, "arXiv 2307.08621", "diagonal_decay"},
      {"simple_gla", simple_gla, "arXiv 2312.06635", "diagonal_decay"},
      {"gla", gla, "arXiv 2312.06635", "diagonal_decay"},
      {"hgrn2", hgrn2, "arXiv 2404.07904", "diagonal_decay"},
      {"hgrn", hgrn, "arXiv 2311.04823", "scan"},
      {"gateloop", gateloop, "arXiv 2311.01927", "diagonal_decay"},
      {"lru", lru, "arXiv 2303.06349", "scan"},
      {"mamba", mamba, "arXiv 2312.00752", "scan"},
      {"mamba2", mamba2, "arXiv 2405.21060", "diagonal_decay"},
      {"mamba3", mamba3, "Mamba-3, state-spaces/mamba (2026)", "diagonal_decay"},
      {"rwkv6", rwkv6, "arXiv 2404.05892", "diagonal_decay"},
      {"mlstm", mlstm, "arXiv 2405.04517", "diagonal_decay"},
      {"mlstm_sigmoid", mlstm_sigmoid, "arXiv 2503.14376", "diagonal_decay"},
      {"log_linear_attention", log_linear_attention, "arXiv 2506.04761", ""},
      {"delta_net", delta_net, "arXiv 2102.11174, 2406.06484", "delta"},
      {"delta_net_negative", delta_net_negative, "arXiv 2411.12537", "delta"},
      {"gated_delta_net", gated_delta_net, "arXiv 2412.06464", "delta"},
      {"kda", kda, "arXiv 2510.26692", "delta"},
      {"gdn2", gdn2, "Gated DeltaNet-2, flash-linear-attention", "delta"},
      {"comba", comba, "arXiv 2506.02475", "delta"},
      {"rwkv7", rwkv7, "arXiv 2503.14456", "diagonal_plus_low_rank"},
      {"delta_product", delta_product, "arXiv 2502.10297", "delta"},
      {"gated_delta_product", gated_delta_product, "arXiv 2502.10297", "delta"},
      {"longhorn", longhorn, "arXiv 2407.14207", "delta"},
      {"longhorn_diagonal", longhorn_diagonal, "arXiv 2407.14207", "scan"},
      {"l2_sgd", l2_sgd, "arXiv 2501.12352", "delta"},
      {"preconditioned_delta", preconditioned_delta, "arXiv 2604.21100", "delta"},
      {"preconditioned_kda", preconditioned_kda, "arXiv 2604.21100", "delta"},
      {"oja", oja, "Gated Oja, flash-linear-attention", "delta"},
      {"momentum_delta", momentum_delta, "arXiv 2501.00663", "momentum_delta"},
      {"ttt_linear", ttt_linear, "arXiv 2407.04620", "minibatch_memory"},
      {"ttt_mlp", ttt_mlp, "arXiv 2407.04620", "minibatch_memory"},
      {"titans", titans, "arXiv 2501.00663", "minibatch_memory"},
      {"titans_strict", titans_strict, "arXiv 2501.00663", "minibatch_memory"},
      {"titans_lucidrains", titans_lucidrains, "arXiv 2501.00663", "minibatch_memory"},
      {"lact", lact, "arXiv 2505.23884", "minibatch_memory"},
      {"lact_muon", lact_muon, "arXiv 2505.23884", "minibatch_memory"},
      {"omega_net", omega_net, "arXiv 2505.23735", ""},
      {"atlas", atlas, "arXiv 2505.23735", ""},
  };
  return *table;
}

const Published& published(const std::string& name) {
  std::vector<std::string> names;
  for (const Published& p : published_recipes()) {
    if (p.name == name) return p;
    names.push_back(p.name);
  }
  const std::string near = detail::nearest(name, names);
  throw refuse("recipe", "'{}' is no published recipe, needs one of those that `ttr recipes` prints, or weights / function / optimizer{}", name,
               near.empty() ? "" : "; did you mean '" + near + "'?");
}

}  // namespace ttr
