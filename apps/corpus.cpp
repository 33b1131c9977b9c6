// Batches from a text.
#include <algorithm>
#include <ttr/apps/corpus.hpp>
#include <ttr/apps/interrupt.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/random_kernel.hpp>

namespace ttr {
namespace {

constexpr uint64_t kDataStream = 0x64617461;   // of the seed's random numbers, apart from those of the initial values

}  // namespace

Corpus::Corpus(Text text, const std::string& separator, int64_t context)
    : context_(context), documents_(split_documents(std::move(text.bytes), separator)), text_(std::move(text)) {
  text_.bytes = documents_.bytes;
  split_ = split_text(text_, context);
}

int64_t Corpus::targets() const {
  const int64_t first = int64_t(train().size()), size = int64_t(text_.bytes.size());
  const auto& ends = documents_.ends;
  const auto borders = std::lower_bound(ends.begin(), ends.end(), size) - std::upper_bound(ends.begin(), ends.end(), first);
  return size - first - 1 - borders;
}

Batch Corpus::batch_of(const std::vector<int64_t>& starts, int64_t length) const {
  std::vector<int32_t> input, target, segments;
  for (const int64_t start : starts) {
    int64_t document = documents_.document_of(start);
    for (int64_t i = start; i < start + length; ++i) {
      const auto byte = [&](int64_t at) { return int32_t(static_cast<unsigned char>(text_.bytes[size_t(at)])); };
      const bool ends = i + 1 == documents_.ends[size_t(document)];
      input.push_back(byte(i));
      target.push_back(ends ? -1 : byte(i + 1));
      segments.push_back(int32_t(document));
      if (ends) ++document;
    }
  }
  const Shape shape{int64_t(starts.size()), length};
  return {from_vector(input, shape), from_vector(target, shape), documents() > 1 ? from_vector(segments, shape) : Tensor()};
}

std::vector<Batch> Corpus::draw(uint64_t seed, int64_t cursor, int64_t rows, int64_t pieces) const {
  const std::vector<int64_t> starts = sample_windows(int64_t(train().size()), context_, rows, 0, [&](uint64_t i) {
    return uniform<double>({seed, kDataStream}, uint64_t(cursor) + i);
  });
  std::vector<Batch> batches;
  for (int64_t p = 0; p < pieces; ++p)
    batches.push_back(batch_of({starts.begin() + rows * p / pieces, starts.begin() + rows * (p + 1) / pieces}, context_));
  return batches;
}

std::optional<Corpus::Score> Corpus::evaluate(const LanguageModel& model) const {
  constexpr int64_t kTokens = 8192;   // of one forward pass
  const Recording off(false);
  const Device device = model.embed.weight->device();
  const std::vector<Window> windows = validation_windows(int64_t(validation().size()), context_);
  const size_t most = size_t(std::max<int64_t>(1, kTokens / context_));
  Score score;
  for (size_t at = 0; at < windows.size();) {
    std::vector<int64_t> starts;
    const int64_t length = windows[at].length;
    while (at < windows.size() && windows[at].length == length && starts.size() < most)
      starts.push_back(int64_t(train().size()) + windows[at++].start);
    const Batch b = batch_of(starts, length);
    Pass pass;
    if (b.segments.defined()) pass.segments = to_device(b.segments, device);
    score.nats += cross_entropy(model(to_device(b.input, device), pass), to_device(b.target, device), false).item();
    for (const int32_t t : b.target.to_vector<int32_t>()) score.targets += t >= 0;
    if (interrupted()) return {};
  }
  if (score.targets == 0)
    throw refuse("data", "the validation part has 0 targets in its {} bytes, needs some; bring longer documents", validation().size());
  score.nats /= double(score.targets);
  return score;
}

}  // namespace ttr
