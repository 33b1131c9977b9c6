// Surroundings: what stands around a recipe in a layer. The recipe says how the memory learns; how its keys, queries, values and gates are
// made from the token, and what happens to its answer, is a convention of each published layer.
#pragma once
#include <ttr/layers/recipe.hpp>

namespace ttr {

struct Surroundings {
  bool rotary = false;                  // rotate q and k by their positions
  double rotary_base = 10000;
  int64_t conv = 0;                     // width of a short convolution with SiLU on q, k and v; 0: none
  bool conv_value = true;               // false: on q and k only
  KeyNorm key_norm = KeyNorm::none;     // of q and k in a head, beside the recipe's own; rms has learned weights
  bool timed_decay = false;             // log_decay = -exp(rate) softplus(W x + b) instead of logsigmoid(W x + b) / decay_temper
  double decay_temper = 1;
  int64_t gate_rank = 0;                // of the projections of gates with several values a head; 0: full; -n: the model's size / n, rounded up
  double ridge_floor = 0.25;            // a learned ridge stays above it
  bool output_norm = false;             // RMSNorm of a head's answer
  double norm_eps = 1e-5;               // of output_norm
  bool output_gate = false;             // times silu of a projection of the token
  // The blocks of elementwise memories (Mamba, Longhorn, HGRN, LRU).
  bool joint_norm = false;              // output_norm is of all heads together
  bool conv_bias = false;
  bool from_value = false;              // q, k and the gates are projections of the convolved value, not of the token
  bool one_query = false;               // all heads share one q and one k
  bool skip = false;                    // the answer plus D v, D one a channel, from 1
  bool active_value = false;            // v goes through SiLU (without a convolution, which has its own)
  bool unit_step = false;               // step_size = sigmoid(W x + b), from 1/2, instead of softplus
  bool ring = false;                    // v times sqrt(1 - |a|^2), learned as its logarithm; projections drawn as LRU's; D x in the end, D normal
  int64_t key_dim = 0;                  // K where nothing is said; 0: dim / heads
  int64_t expand = 1;                   // V where nothing is said: expand dim / heads
  // The blocks of gated linear memories (RetNet, GLA, HGRN-2, Mamba-2, mLSTM, RWKV-6).
  int64_t key_share = 1;                // K where nothing is said: dim / (key_share heads), rounded up (GLA: 2, arXiv 2312.06635)
  bool frozen_decay = false;            // a decay that is one number a head is never learned (RetNet, arXiv 2307.08621)
  bool even_decay = false;              // z of the decay starts at 0: a = 2^(-1 / decay_temper) (GLA, FoX, MesaNet)
  bool decay_floor = false;             // in a model, the decays of later blocks stay above a learned bound that grows from block to block:
                                        // a = low + (1 - low) sigmoid(z) (HGRN and HGRN-2, arXiv 2311.04823)
  bool silu_query = false;              // q goes through SiLU (HGRN-2, arXiv 2404.07904)
  bool scaled_value = false;            // v times the softplus(W x + b) of the timed decay: Delta u (Mamba-2, arXiv 2405.21060)
  bool head_skip = false;               // skip has one D a head; with scaled_value it adds the value as it was before
  bool gate_before_norm = false;        // norm(y silu(gate)) instead of norm(y) silu(gate) (Mamba-2)
  bool constant_gates = false;          // gates start as constants: no weight yet, the forget gates' biases from 3 to 6 over the heads, the write
                                        // gates' normal with deviation 0.1 (mLSTM, arXiv 2405.04517)
  double constant_write = 0;            // where the write gates' biases start instead; 0: not (mLSTM with a sigmoid, arXiv 2503.14376)
  double gate_cap = 0;                  // z of a gate becomes cap tanh(z / cap); 0: none (xLSTM 7B, arXiv 2503.13427)
  bool gate_bias = true;                // false: z = W x (HGRN and HGRN-2)
  bool sigmoid_gate = false;            // output_gate is a sigmoid instead of a SiLU (xLSTM 7B)
  bool group_norm = false;              // output_norm takes the mean out too, with gains of each head (mLSTM, RWKV-6)
  bool norm_bias = false;               // and a bias (RWKV-6)
  int64_t inner = 0;                    // the token is projected to an inner branch of H V channels; q and k are block-diagonal projections, in pieces
                                        // of this size, of the convolved branch, v of the branch itself; gates read q, k and v; skip adds D times the
                                        // convolved branch after the norm; K is expand dim / heads too. 0: no branch (mLSTM, arXiv 2405.04517)
  bool shift = false;                   // q, k, v and all gates read a mixture of the token and the one before (RWKV-6, arXiv 2404.05892)
  int64_t shift_rank = 0;               // of what in the mixtures depends on the token; 0: nothing
  bool exponential_decay = false;       // log_decay = -exp(b + W tanh(down x)), b from -6 to -1 over the channels (RWKV-6)

  void each(auto&& f) {
    f("rotary", rotary), f("rotary_base", rotary_base), f("conv", conv), f("conv_value", conv_value), f("key_norm", key_norm);
    f("timed_decay", timed_decay), f("decay_temper", decay_temper), f("gate_rank", gate_rank), f("ridge_floor", ridge_floor);
    f("output_norm", output_norm), f("norm_eps", norm_eps), f("output_gate", output_gate), f("joint_norm", joint_norm), f("conv_bias", conv_bias);
    f("from_value", from_value), f("one_query", one_query), f("skip", skip), f("active_value", active_value), f("unit_step", unit_step);
    f("ring", ring), f("key_dim", key_dim), f("expand", expand), f("key_share", key_share), f("frozen_decay", frozen_decay);
    f("even_decay", even_decay), f("decay_floor", decay_floor), f("silu_query", silu_query), f("scaled_value", scaled_value), f("head_skip", head_skip);
    f("gate_before_norm", gate_before_norm), f("constant_gates", constant_gates), f("constant_write", constant_write);
    f("gate_cap", gate_cap), f("gate_bias", gate_bias), f("sigmoid_gate", sigmoid_gate), f("group_norm", group_norm), f("norm_bias", norm_bias);
    f("inner", inner), f("shift", shift), f("shift_rank", shift_rank), f("exponential_decay", exponential_decay);
  }
};

// What is usual around this recipe: a published layer's own, also with another reading; for other attention rotation; else keys and queries
// of length 1 and a normed answer.
Surroundings usual_surroundings(const Recipe&);

// The same without convolution, token shift, inner branch, norm of the answer and output gate: the bare memory. Rotation and the length of the keys
// stay, because they are part of what is asked and stored: a delta rule with keys longer than its step allows diverges. So do the forms of the
// recipe's own gates.
Surroundings core_of(Surroundings);

}  // namespace ttr
