// ttr eval: what a trained model pays for a text, beside n-grams that were counted on what the model was trained on.
// Without --data the text is the run's own, of which only the part that it was validated on counts; so it is when --data names the same bytes.
// By position: the loss of the targets that are predicted from p tokens of context, p = 1 .. context, as by_position.csv and by_position.svg.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace ttr {

struct EvalOptions {
  std::string from, out, device = "cpu", dtype = "f32";   // out: a folder; empty: the run's
  std::vector<std::string> data;
  std::int64_t context = 0;                               // 0: as trained
  bool by_position = false;
};
int eval_model(const EvalOptions&);

}  // namespace ttr
