// Tokens and batches of a run.
#include <ttr/apps/corpus.hpp>
#include <ttr/core/error.hpp>
#include <ttr/core/random_kernel.hpp>

namespace ttr {
namespace {

constexpr uint64_t kDataStream = 0x64617461;   // of the seed's random numbers, apart from those of the initial values

}  // namespace

Corpus::Corpus(Text text, const RunConfig& c, std::optional<Tokenizer> tokenizer)
    : context_(c.context), documents_(split_documents(std::move(text.bytes), c.documents)), text_(std::move(text)) {
  text_.bytes = documents_.bytes;
  split_ = split_text(text_, context_);
  const auto bytes = int64_t(text_.bytes.size()), trained = int64_t(split_.train.size());
  tokenizer_ = tokenizer ? std::move(*tokenizer) : Tokenizer::named(c.tokenizer, c.vocab, text_.bytes, split_.train);
  train_ = tokens_of(tokenizer_, documents_, 0, trained);
  validation_ = tokens_of(tokenizer_, documents_, trained, bytes);
  if (train_.count() <= context_)
    throw refuse("data", "training part is {} tokens, needs {} for context {}; bring more text or lower the context", train_.count(), context_ + 1,
                 context_);
  if (validation_.count() < 2) throw refuse("data", "validation part is {} tokens, needs at least 2; bring more text", validation_.count());
}

std::vector<Batch> Corpus::draw(uint64_t seed, int64_t cursor, int64_t rows, int64_t pieces) const {
  const std::vector<int64_t> starts = sample_windows(train_.count(), context_, rows, 0, [&](uint64_t i) {
    return uniform<double>({seed, kDataStream}, uint64_t(cursor) + i);
  });
  std::vector<Batch> batches;
  for (int64_t p = 0; p < pieces; ++p)
    batches.push_back(batch_of(train_, {starts.begin() + rows * p / pieces, starts.begin() + rows * (p + 1) / pieces}, context_));
  return batches;
}

std::string about(const Corpus& corpus) {
  std::string text = fmt::format("text: {}; trained on the first {}, validated on the last {}", corpus.text().source, corpus.split().train.size(),
                                 corpus.split().validation.size());
  if (corpus.documents() > 1) text += fmt::format("; {} documents without their separators, packed", corpus.documents());
  const Tokenizer& t = corpus.tokenizer();
  if (!t.is_byte())
    text += fmt::format("\ntokenizer: {}, {} tokens; {} and {} of them in the text, {:.3f} bytes each", t.kind(), t.vocab(), corpus.train().count(),
                        corpus.validation().count(), corpus.bytes_per_token());
  return text;
}

}  // namespace ttr
