// Witten-Bell byte n-grams: one hash table for each length of string; all orders are trained in one pass and scored in one pass.
#include <ttr/apps/ngram.hpp>
#include <algorithm>
#include <cmath>
#include <string>
#include <ttr/core/error.hpp>

namespace ttr {
namespace {

std::size_t scatter(std::uint64_t key) {
  key *= 0x9e3779b97f4a7c15ull;
  return static_cast<std::size_t>(key ^ (key >> 32));
}

// The n bytes before `end`, the newest in the lowest byte.
std::uint64_t pack(std::string_view text, std::size_t end, int n) {
  std::uint64_t key = 0;
  for (std::size_t i = end - static_cast<std::size_t>(n); i < end; ++i) key = key << 8 | static_cast<unsigned char>(text[i]);
  return key;
}

}  // namespace

GramTable::Gram& GramTable::at(std::uint64_t key) {
  if (2 * used >= slots.size()) {
    std::vector<Gram> old(2 * slots.size());
    old.swap(slots);
    for (const Gram& gram : old) {
      if (gram.count == 0) continue;
      std::size_t i = scatter(gram.key) & (slots.size() - 1);
      while (slots[i].count != 0) i = (i + 1) & (slots.size() - 1);
      slots[i] = gram;
    }
  }
  std::size_t i = scatter(key) & (slots.size() - 1);
  while (slots[i].count != 0 && slots[i].key != key) i = (i + 1) & (slots.size() - 1);
  if (slots[i].count == 0) {
    slots[i].key = key;
    ++used;
  }
  return slots[i];
}

const GramTable::Gram* GramTable::find(std::uint64_t key) const {
  std::size_t i = scatter(key) & (slots.size() - 1);
  while (slots[i].count != 0 && slots[i].key != key) i = (i + 1) & (slots.size() - 1);
  return slots[i].count == 0 ? nullptr : &slots[i];
}

Ngram::Ngram(std::string_view train, int order) : order_(order) {
  if (order < 0 || order > kLongestContext) throw refuse("ngram", "order is {}, needs 0 to {}", order, kLongestContext);
  if (train.empty()) throw refuse("ngram", "training text is 0 bytes, needs at least 1");
  if (train.size() > 0xffffffffull)
    throw refuse("ngram", "training text is {} bytes, needs fewer than 2^32; train on a part of it", train.size());
  tables_.resize(static_cast<std::size_t>(order) + 2);
  // From the shortest string up: a string's prefix, one byte shorter and one byte earlier, is already in its table when it is first
  // extended.
  tables_[0].at(0).count = 1;
  for (std::size_t i = 0; i < train.size(); ++i) {
    for (int n = 0; n <= order && static_cast<std::size_t>(n) <= i; ++n) {
      GramTable::Gram& context = tables_[static_cast<std::size_t>(n)].at(pack(train, i, n));
      GramTable::Gram& longer = tables_[static_cast<std::size_t>(n) + 1].at(pack(train, i + 1, n + 1));
      ++context.followed;
      context.distinct += longer.count == 0;
      ++longer.count;
    }
  }
}

void Ngram::lookup(std::string_view text, std::size_t at, std::size_t begin, double* p) const {
  double shorter = 1.0 / 256;
  for (int n = 0; n <= order_; ++n) {
    const GramTable::Gram* context = nullptr;
    if (static_cast<std::size_t>(n) <= at - begin) context = tables_[static_cast<std::size_t>(n)].find(pack(text, at, n));
    if (context == nullptr || context->followed == 0) {   // a longer context has not been seen either
      std::fill(p + n, p + order_ + 1, shorter);
      return;
    }
    const GramTable::Gram* longer = tables_[static_cast<std::size_t>(n) + 1].find(pack(text, at + 1, n + 1));
    const double count = longer == nullptr ? 0.0 : longer->count;
    shorter = (count + context->distinct * shorter) / (double(context->followed) + context->distinct);
    p[n] = shorter;
  }
}

std::vector<double> Ngram::probabilities(std::string_view context, unsigned char next) const {
  std::string text(context);
  text.push_back(static_cast<char>(next));
  std::vector<double> p(static_cast<std::size_t>(order_) + 1);
  lookup(text, text.size() - 1, 0, p.data());
  return p;
}

std::vector<double> Ngram::score(std::string_view text, std::int64_t reset) const {
  if (text.size() < 2)
    throw refuse("ngram", "scored text is {} bytes, needs at least 2; the first byte is only ever a context", text.size());
  if (reset < 0) throw refuse("ngram", "reset is {}, needs 0 (never) or a positive number of bytes", reset);
  std::vector<double> nats(static_cast<std::size_t>(order_) + 1, 0.0), p(nats.size());
  for (std::size_t i = 1; i < text.size(); ++i) {
    const std::size_t window = reset == 0 ? 0 : (i - 1) / static_cast<std::size_t>(reset) * static_cast<std::size_t>(reset);
    lookup(text, i, window, p.data());
    for (std::size_t n = 0; n < p.size(); ++n) nats[n] -= std::log(p[n]);
  }
  for (double& sum : nats) sum /= static_cast<double>(text.size() - 1);
  return nats;
}

}  // namespace ttr
