// Byte n-grams with Witten-Bell smoothing: the baseline printed beside every model, because a network
// that loses to counting has learned nothing.
//   P_n(b | h) = (count(h b) + distinct(h) P_{n-1}(b | h')) / (count(h) + distinct(h)),   P_{-1} = 1/256
// with |h| = n and h' = h without its oldest byte.
// count(h) is how often h was followed by anything in the training bytes, distinct(h) by how many different bytes; an h never followed
// gives P_{n-1}.
// The order is the length of the context: order 0 is the unigram, and order 4 is what is often called the 5-gram (1.669 nats on the last
// tenth of tiny Shakespeare). The alphabet is all 256 bytes.
// Source: Witten and Bell 1991, method C, in the interpolated form.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace ttr {

// How often each string of one fixed length (at most six bytes, packed in a word) occurs, and what follows it.
struct GramTable {
  struct Gram {
    std::uint64_t key = 0;
    std::uint32_t count = 0;      // 0: the slot is free
    std::uint32_t followed = 0;   // occurrences with a next byte
    std::uint32_t distinct = 0;   // different next bytes
  };
  std::vector<Gram> slots = std::vector<Gram>(1024);
  std::size_t used = 0;

  Gram& at(std::uint64_t key);   // made on first sight, with a count of 0 that the caller must raise; valid until the next call
  const Gram* find(std::uint64_t key) const;   // null if never seen
};

class Ngram {
 public:
  static constexpr int kLongestContext = 5;

  explicit Ngram(std::string_view train, int order = kLongestContext);

  int order() const { return order_; }

  // P_n(next | the last bytes of context) for n = 0..order; a context shorter than n gives P_n = P_{n-1}.
  std::vector<double> probabilities(std::string_view context, unsigned char next) const;

  // Mean nats per byte for n = 0..order over the targets of validation_windows: every byte of `text` but the first. Contexts run on across
  // windows and never reach before text[0]. `reset` > 0 cuts them at every reset bytes, which is what a model with that context is given.
  std::vector<double> score(std::string_view text, std::int64_t reset = 0) const;

 private:
  void lookup(std::string_view text, std::size_t at, std::size_t begin,
              double* p) const;   // p [order+1]: of text[at] after text[begin, at)

  int order_ = 0;
  std::vector<GramTable> tables_;   // tables_[n]: strings of n bytes
};

}  // namespace ttr
