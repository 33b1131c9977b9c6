// View: what the ingredients see at one moment. The clock reads t: pairs [0, pairs) are visible, the newest `writes` of them are this token's.
// Every tensor is batched over N = B * H sequences-and-heads: now("q") is [N, K], all("v") is [N, pairs, V].
#pragma once
#include <map>
#include <string_view>
#include <ttr/layers/slot.hpp>

namespace ttr {

// Named tensors in a fixed order: the parameters of a memory, an optimizer's own memory, a state.
struct Pack {
  std::vector<std::pair<std::string, Tensor>> parts;
  const Tensor& operator[](std::string_view name) const;
  void set(std::string_view name, Tensor value);          // replaces or appends
  bool has(std::string_view name) const;
  Tensors values() const;
  Pack with(const Tensors& values) const;                 // the same names
};

// The slots of a call, cut into tokens and batched: fold's side of the View.
struct Timeline {
  struct Track { Per per; Tensors at; Tensor head; };     // one tensor a token or write, carried ones first; or one for all time
  std::map<std::string, Track, std::less<>> tracks;
  int64_t rows = 0, tokens = 0, past = 0, writes = 1;     // rows N; tokens of this call; tokens carried in
  int64_t key_dim = 0, value_dim = 0, heads = 1;
  int64_t position = 0;                                   // tokens before the first one here, carried in or forgotten
  Options options;                                        // dtype and device of everything
  Tensor places;                                          // [N, 1]: positions, where rows are the tokens of a call; else undefined
};

class View {
 public:
  View(const Timeline& line, int64_t time, int64_t pairs) : line_(&line), time_(time), pairs_(pairs) {}

  int64_t rows() const { return line_->rows; }             // N
  int64_t key_dim() const { return line_->key_dim; }       // K
  int64_t value_dim() const { return line_->value_dim; }   // V
  int64_t writes() const { return line_->writes; }
  int64_t pairs() const { return pairs_; }                 // pairs [first, pairs) are visible
  int64_t first() const { return first_; }
  int64_t count() const { return pairs_ - first_; }
  int64_t time() const { return time_; }                   // index of this token among the visible ones
  int64_t position(int64_t token) const { return line_->position - line_->past + token; }   // of a visible token, in the whole sequence
  Tensor place(int64_t token) const;                       // position(token) as [N, 1] or [1, 1]
  int64_t carried() const { return line_->past; }          // visible tokens of an earlier call; their q is not kept
  int64_t token_of(int64_t i) const { return i / line_->writes; }
  Options options() const { return line_->options; }

  bool has(std::string_view slot) const;
  Tensor now(std::string_view slot) const;                 // this token's value [N, ...]
  Tensor pair(std::string_view slot, int64_t i) const;     // of pair i: its own, or its token's [N, ...]
  Tensor all(std::string_view slot) const;                 // of the visible pairs [N, count, ...]
  Tensor head(std::string_view slot) const;                // learned or frozen, one a head [N, ...]
  View strictly_before() const { return View(*line_, time_, pairs_ - line_->writes); }   // the same clock without this token's pairs
  View since(int64_t token) const { View v = *this; v.first_ = token * line_->writes; return v; }   // the same clock; older pairs are gone
  View only(int64_t i) const { View v(*line_, time_, i + 1); v.first_ = i; return v; }   // the same clock with pair i alone

 private:
  const Timeline::Track& track(std::string_view slot) const;
  const Timeline* line_;
  int64_t time_, pairs_, first_ = 0;
};

}  // namespace ttr
