// A seeded probabilistic grammar whose entropy is known exactly, so that a model's distance to the best possible predictor is known too.
//   sentence = subject verb (object | adverb) "."     subject = object (preposition object)*     object = article adjective* noun
// over an invented lexicon. The verb agrees with the subject's number across whatever stands between them, so counting short strings
// cannot reach the entropy.
// It is a finite Markov chain whose every arc writes one word, and the word names the arc (from a known state, the state after it is
// known). Hence
//   nats per byte = sum_s pi_s H(arc | s) / sum_s pi_s E[bytes of the arc's word | s],    pi P = pi
// is the entropy rate of the text itself: conditional on all that went before, nothing that sees only bytes can do better on average.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace ttr {

struct Grammar {
  struct Arc {
    double probability = 0;   // given the state it leaves
    int to = 0;
    std::string word;   // with the space or full stop that ends it; no word of a state begins another of that state
  };
  std::vector<std::vector<Arc>> states;   // the arcs that leave each; a text starts in state 0

  std::vector<double> stationary() const;   // pi [states]
  double entropy_nats_per_byte() const;
  std::string sample(std::uint64_t seed, std::size_t bytes) const;   // cut at exactly `bytes`
  double nats_per_byte(const std::string& text) const;               // -log p(text) / bytes; a word cut off at the end is left out
};

Grammar make_grammar(std::uint64_t seed);   // the seed draws the lexicon; the structure is fixed

}  // namespace ttr
