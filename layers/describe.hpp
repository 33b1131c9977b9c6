// What a model is and needs, before its first step: sizes, parameters a part, bytes, and the plan of every mixer.
#pragma once
#include <ttr/layers/language_model.hpp>

namespace ttr {

struct DescribeOptions {
  int64_t batch = 1, tokens = 512;
  bool training = true;
  bool segments = false;   // packed documents
  int64_t moments = 2;     // numbers kept beside each parameter: the rule's memories (AdamW: 2), an average
};

// Bytes of one step. Activations are predicted by recording a few tokens of one sequence through each kind of block and scaling: kernels
// keep their inputs and answers; fold keeps a state every sqrt(T) tokens and, while it sweeps, the tape of one such piece.
struct Footprint {
  double parameters = 0, gradients = 0, moments = 0;
  double activations = 0;                              // kept from the forward to the backward pass
  double workspace = 0;                                // the largest single piece on top
  double total() const { return parameters + gradients + moments + activations + workspace; }
};
Footprint footprint(const LanguageModel&, const DescribeOptions&);

std::string describe(const LanguageModel&, const DescribeOptions& = {});

}  // namespace ttr
