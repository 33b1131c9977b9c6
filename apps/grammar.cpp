// The grammar: an invented lexicon, the chain of arcs over it, its stationary distribution and its entropy.
#include <ttr/apps/grammar.hpp>
#include <cmath>
#include <set>
#include <ttr/core/error.hpp>

namespace ttr {
namespace {

// Counter-based numbers (SplitMix64): the n-th one does not depend on how many were drawn before it.
double uniform(std::uint64_t seed, std::uint64_t counter) {
  std::uint64_t z = seed * 0xd1342543de82ef95ull + (counter + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

struct Lexicon {
  std::vector<std::string> adjectives, nouns, verbs, adverbs;   // stems
};

Lexicon invent(std::uint64_t seed) {
  static const std::vector<std::string> onsets = {"b", "br", "d", "dr", "f", "g",  "gl", "h",  "k", "l",
                                                  "m", "n",  "p", "pl", "r", "st", "t",  "tr", "v", "w"};
  static const std::vector<std::string> vowels = {"a", "e", "i", "o", "u", "ai", "ea", "oo"};
  static const std::vector<std::string> codas = {"ck", "d", "g", "l", "ll", "m", "n", "nd", "nt", "r", "rn", "st", "t", "th"};
  std::uint64_t counter = 0;
  const auto pick = [&](const std::vector<std::string>& from) {
    return from[static_cast<std::size_t>(uniform(seed, counter++) * static_cast<double>(from.size()))];
  };
  std::set<std::string> taken = {"a", "the", "in", "near", "under", "with"};
  const auto invent_words = [&](int n, const std::string& ending) {
    std::vector<std::string> words;
    while (static_cast<int>(words.size()) < n) {
      std::string word = pick(onsets) + pick(vowels) + pick(codas);
      if (uniform(seed, counter++) < 0.4) word += pick(vowels) + pick(codas);
      word += ending;
      if (taken.insert(word).second) words.push_back(word);
    }
    return words;
  };
  Lexicon lexicon;
  lexicon.nouns = invent_words(120, "");
  lexicon.verbs = invent_words(60, "");
  lexicon.adjectives = invent_words(40, "y");
  lexicon.adverbs = invent_words(20, "ly");
  return lexicon;
}

// Where a sentence stands. Two copies of each phase of the subject remember its number until the verb has agreed with it.
enum Phase {
  kSubject,        // before the subject's article
  kSubjectNoun,    // after it: adjectives, then the noun           x article a | the
  kAfterSubject,   // after the noun: preposition or verb           x number
  kInner,          // after a preposition: an article               x number of the subject
  kInnerNoun,      // the noun inside, whose number is a decoy      x number of the subject x article a | the
  kAfterInner,     //                                               x number of the subject
  kObject,         // after the verb: article or adverb
  kObjectNoun,     //                                               x article a | the
  kPhases
};

int state_of(Phase phase, int number = 0, int definite = 0) { return (phase * 2 + number) * 2 + definite; }

}  // namespace

Grammar make_grammar(std::uint64_t seed) {
  const Lexicon lexicon = invent(seed);
  std::vector<std::vector<Grammar::Arc>> arcs(static_cast<std::size_t>(state_of(kPhases)));
  const auto add = [&](int from, double p, const std::string& word, int to) {
    arcs[static_cast<std::size_t>(from)].push_back({p, to, word});
  };
  // Words of one class come with Zipf's frequencies.
  const auto add_class = [&](int from, double p, const std::vector<std::string>& words, const std::string& ending, int to) {
    double total = 0;
    for (std::size_t r = 0; r < words.size(); ++r) total += 1.0 / static_cast<double>(r + 1);
    for (std::size_t r = 0; r < words.size(); ++r) add(from, p / static_cast<double>(r + 1) / total, words[r] + ending, to);
  };
  const auto add_articles = [&](int from, double p, int a, int the) {
    add(from, 0.4 * p, "a ", a);
    add(from, 0.6 * p, "the ", the);
  };
  const auto add_prepositions = [&](int from, double p, int to) {
    add(from, 0.4 * p, "in ", to);
    add(from, 0.3 * p, "with ", to);
    add(from, 0.2 * p, "near ", to);
    add(from, 0.1 * p, "under ", to);
  };
  // "a" takes the singular only; "the" takes either number.
  const auto add_nouns = [&](int from, int definite, const std::string& end, int singular, int plural) {
    add_class(from, 0.25, lexicon.adjectives, " ", from);
    add_class(from, definite ? 0.375 : 0.75, lexicon.nouns, end, singular);
    if (definite) add_class(from, 0.375, lexicon.nouns, "s" + end, plural);
  };

  add_articles(state_of(kSubject), 1.0, state_of(kSubjectNoun, 0, 0), state_of(kSubjectNoun, 0, 1));
  for (int definite = 0; definite < 2; ++definite) {
    add_nouns(state_of(kSubjectNoun, 0, definite), definite, " ", state_of(kAfterSubject, 0), state_of(kAfterSubject, 1));
    add_nouns(state_of(kObjectNoun, 0, definite), definite, ".\n", state_of(kSubject), state_of(kSubject));
  }
  for (int number = 0; number < 2; ++number) {
    for (const Phase after : {kAfterSubject, kAfterInner}) {
      const double preposition = after == kAfterSubject ? 0.4 : 0.2;
      add_prepositions(state_of(after, number), preposition, state_of(kInner, number));
      add_class(state_of(after, number), 1 - preposition, lexicon.verbs, number == 0 ? "s " : " ", state_of(kObject));
    }
    add_articles(state_of(kInner, number), 1.0, state_of(kInnerNoun, number, 0), state_of(kInnerNoun, number, 1));
    for (int definite = 0; definite < 2; ++definite) {
      add_nouns(state_of(kInnerNoun, number, definite), definite, " ", state_of(kAfterInner, number), state_of(kAfterInner, number));
    }
  }
  add_articles(state_of(kObject), 0.75, state_of(kObjectNoun, 0, 0), state_of(kObjectNoun, 0, 1));
  add_class(state_of(kObject), 0.25, lexicon.adverbs, ".\n", state_of(kSubject));

  // Numbers that no phase uses leave empty states: keep the ones that have arcs.
  Grammar grammar;
  std::vector<int> kept(arcs.size(), -1);
  for (std::size_t s = 0; s < arcs.size(); ++s) {
    if (arcs[s].empty()) continue;
    kept[s] = static_cast<int>(grammar.states.size());
    grammar.states.push_back(arcs[s]);
  }
  for (auto& state : grammar.states) {
    for (Grammar::Arc& arc : state) arc.to = kept[static_cast<std::size_t>(arc.to)];
  }
  return grammar;
}

std::vector<double> Grammar::stationary() const {
  // Power iteration on the lazy chain (P + I) / 2, which has the same pi and no period.
  std::vector<double> pi(states.size(), 1.0 / static_cast<double>(states.size()));
  for (int sweep = 0; sweep < 100000; ++sweep) {
    std::vector<double> next(states.size(), 0.0);
    for (std::size_t s = 0; s < states.size(); ++s) {
      next[s] += 0.5 * pi[s];
      for (const Arc& arc : states[s]) next[static_cast<std::size_t>(arc.to)] += 0.5 * pi[s] * arc.probability;
    }
    double moved = 0;
    for (std::size_t s = 0; s < states.size(); ++s) moved += std::abs(next[s] - pi[s]);
    pi = next;
    if (moved < 1e-15) break;
  }
  return pi;
}

double Grammar::entropy_nats_per_byte() const {
  const std::vector<double> pi = stationary();
  double nats = 0, bytes = 0;
  for (std::size_t s = 0; s < states.size(); ++s) {
    for (const Arc& arc : states[s]) {
      nats -= pi[s] * arc.probability * std::log(arc.probability);
      bytes += pi[s] * arc.probability * static_cast<double>(arc.word.size());
    }
  }
  return nats / bytes;
}

std::string Grammar::sample(std::uint64_t seed, std::size_t bytes) const {
  std::string text;
  text.reserve(bytes + 32);
  int state = 0;
  // A stream of its own: the lexicon was drawn from the seed itself.
  for (std::uint64_t word = 0; text.size() < bytes; ++word) {
    double left = uniform(seed ^ 0x5851f42d4c957f2dull, word);
    const std::vector<Arc>& arcs = states[static_cast<std::size_t>(state)];
    std::size_t a = 0;
    while (a + 1 < arcs.size() && left >= arcs[a].probability) left -= arcs[a++].probability;
    text += arcs[a].word;
    state = arcs[a].to;
  }
  text.resize(bytes);
  return text;
}

double Grammar::nats_per_byte(const std::string& text) const {
  double nats = 0;
  std::size_t at = 0;
  for (int state = 0;;) {
    const Arc* taken = nullptr;
    for (const Arc& arc : states[static_cast<std::size_t>(state)]) {
      if (text.compare(at, arc.word.size(), arc.word) == 0) taken = &arc;
    }
    if (taken == nullptr) break;
    nats -= std::log(taken->probability);
    at += taken->word.size();
    state = taken->to;
  }
  if (at == 0 || text.size() - at > 32)
    throw refuse("grammar", "text leaves the grammar at byte {} of {}, needs whole sentences from its start", at, text.size());
  return nats / static_cast<double>(at);
}

}  // namespace ttr
