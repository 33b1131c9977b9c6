// fold, whole: the loop in walk(). Everything else in this file brings tensors into the shape of that loop and back.
// Next: optimizers.hpp (what advance does), functions.hpp (what read does), delta.cpp (a faster way to say the same thing).
#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/fold.hpp>

namespace ttr {
namespace {

// The definition. Tokens [begin, end) of the line; y_t [N, V] each.
Tensors walk(const Recipe& recipe, const Timeline& line, State& s, int64_t begin, int64_t end) {
  const auto& function = recipe.function();
  const bool strict = recipe.reading().read == Read::strict, everything = recipe.reading().visible == Visible::everything;
  const bool by_chunk = recipe.reading().read == Read::chunk;
  if (by_chunk && s.anchor.parts.empty())
    throw refuse("fold", "read is chunk and {} keeps no chunk's memory, needs an optimizer with at=chunk", recipe.optimizer().text());
  Tensors ys;
  for (int64_t t = line.past + begin; t < line.past + end; ++t) {
    const View now(line, t, (everything ? line.past + line.tokens : t + 1) * line.writes);
    // An optimizer that fits anew at every token must not see this token's pairs when it reads strictly.
    const View seen = strict && recipe.refits() ? now.strictly_before() : now;
    const State next = recipe.optimizer()->advance(s, Regression(recipe, seen));
    const State& asked = strict && !recipe.refits() ? s : next;
    ys.push_back(function->read(by_chunk ? next.anchor : asked.theta, seen, asked.log_scale));
    s = next;
    ++s.position;
  }
  return ys;
}

// -- into the loop's shape -----------------------------------------------------------------------------------------------------------------
// [B, T, h, ...] -> [T, B * H, ...]
Tensor by_token(const Tensor& x, int64_t heads) {
  Shape rows{x.size(1), x.size(0) * heads};
  for (int i = 3; i < x.rank(); ++i) rows.push_back(x.size(i));
  return reshape(transpose(over_heads(x, heads), 0, 1), rows);
}
// [H, ...] -> [B * H, ...]
Tensor by_row(const Tensor& x, int64_t batch) {
  Shape flat{batch * x.size(0)};
  for (int i = 1; i < x.rank(); ++i) flat.push_back(x.size(i));
  return reshape(broadcast_to(reshape(x, x.shape().insert(0, 1)), x.shape().insert(0, batch)), flat);
}
Tensor to_rows(const Tensor& x) {   // [B, H, ...] -> [N, ...]
  Shape s{x.size(0) * x.size(1)};
  for (int i = 2; i < x.rank(); ++i) s.push_back(x.size(i));
  return reshape(x, s);
}
Tensor from_rows(const Tensor& x, int64_t batch) {   // [N, ...] -> [B, H, ...]
  Shape s{batch, x.size(0) / batch};
  for (int i = 1; i < x.rank(); ++i) s.push_back(x.size(i));
  return reshape(x, s);
}

// Every tensor the walk reads, in a flat list (so that a checkpoint can hand it on), with what the list means.
struct Layout {
  struct Part { std::string name; Per per; bool head; };
  std::vector<Part> tracks;
  Timeline line;        // sizes only
  Tensors tensors;      // one a track: [tokens or writes, N, ...] or [N, ...]

  Layout without_tensors() const { return {tracks, line, {}}; }
  Timeline restore(const Tensors& from) const {
    Timeline l = line;
    for (size_t i = 0; i < tracks.size(); ++i) {
      Timeline::Track track{tracks[i].per, {}, {}};
      if (tracks[i].head) track.head = from[i];
      else track.at = unstack(from[i], 0);
      l.tracks.emplace(tracks[i].name, std::move(track));
    }
    return l;
  }
};

std::string past_name(const std::string& slot) { return slot == "k" ? "keys" : slot == "v" ? "values" : "past." + slot; }

Layout lay_out(const Recipe& recipe, const Arguments& a, const Problem& p, Answer& answer) {
  Layout layout;
  const Dtype dtype = wide(p.dtype);
  Timeline& line = layout.line;
  line.rows = p.batch * p.heads, line.tokens = p.tokens, line.writes = p.writes, line.heads = p.heads;
  line.key_dim = p.key_dim, line.value_dim = p.value_dim;
  line.options = {dtype, p.device};
  for (const Slot& s : recipe.slots()) {
    const auto found = a.slots.find(s.name);
    if (found == a.slots.end() || !found->second.defined()) continue;
    Tensor x = cast(found->second, dtype);
    if (s.per == Per::head || s.per == Per::frozen) {
      layout.tracks.push_back({s.name, s.per, true});
      layout.tensors.push_back(by_row(x, p.batch));
      continue;
    }
    if (s.name == "q" || s.name == "k") x = normed_keys(x, recipe.reading());
    if (s.name == "q") {
      if (const double scale = recipe.reading().scale.at(p.key_dim); scale != 1) x = x * scale;
    }
    if (recipe.looks_back()) {   // old pairs are read again, so they are the state
      const std::string name = past_name(s.name);
      if (const auto past = a.state.find(name); past != a.state.end()) {
        const Tensor old = cast(past->second, dtype);
        if (old.rank() != x.rank() || old.shape().with(1, x.size(1)) != x.shape())
          throw refuse("memory", "state {} has shape {}, needs {} with any number of tokens", name, to_string(old.shape()), to_string(x.shape()));
        if (s.per == Per::token) line.past = old.size(1);
        else if (s.per == Per::write) line.past = old.size(1) / p.writes;
        if (s.name != "q") x = concat({old, x}, 1);
      }
      if (s.name != "q" && a.want_state) {   // as much of the past as can still weigh anything
        const int64_t reach = recipe.weights()->reach(), most = x.size(1) / (s.per == Per::write ? p.writes : 1);
        const int64_t kept = (reach > most ? most : reach - 1) * (s.per == Per::write ? p.writes : 1);
        answer.state[name] = slice(x, 1, x.size(1) - kept, x.size(1));
      }
    }
    layout.tracks.push_back({s.name, s.per, false});
    layout.tensors.push_back(by_token(x, p.heads));
  }
  for (size_t i = 0; i < layout.tracks.size(); ++i)   // the query of a carried token is never asked again; its place is kept
    if (layout.tracks[i].name == "q" && line.past) layout.tensors[i] = pad(layout.tensors[i], 0, line.past, 0);
  return layout;
}

// -- the state, as tensors with names --------------------------------------------------------------------------------------------------------
void each_state(State& s, auto&& f) {
  for (auto& [name, x] : s.theta.parts) f(name, x);
  for (auto& [name, x] : s.anchor.parts) f("anchor." + name, x);
  for (auto& [name, x] : s.memory.parts) f("optimizer." + name, x);
  if (s.log_scale.defined()) f("log_scale", s.log_scale);
}

State begin(const Recipe& recipe, const Timeline& line, const Arguments& a, const Problem& p) {
  State s;
  const View view(line, 0, 0);
  s.theta = s.initial = recipe.function()->init(view);
  s = recipe.optimizer()->start(s);
  if (a.state.empty()) return s;
  s.position = position_of(a.state);
  if (a.state.count("log_scale")) s.log_scale = zeros({line.rows}, line.options);
  each_state(s, [&](const std::string& name, Tensor& x) {
    if (recipe.refits() && !name.starts_with("optimizer.")) return;
    const auto found = a.state.find(name);
    if (found == a.state.end()) throw refuse("memory", "state {} is missing, needs it with shape {}", name, to_string(from_rows(x, p.batch).shape()));
    const Tensor given = to_rows(cast(found->second, line.options.dtype));
    if (given.rank() != x.rank() || (given.shape() != x.shape() && !recipe.refits()))
      throw refuse("memory", "state {} has shape {}, needs {}", name, to_string(found->second.shape()), to_string(from_rows(x, p.batch).shape()));
    x = given;
  });
  return s;
}

// -- packed documents: each on its own -------------------------------------------------------------------------------------------------------
Arguments part_of(const Recipe& recipe, const Arguments& a, int64_t row, int64_t begin, int64_t end) {
  Arguments part;
  part.want_state = a.want_state;
  for (const Slot& s : recipe.slots()) {
    const auto found = a.slots.find(s.name);
    if (found == a.slots.end()) continue;
    const int64_t n = s.per == Per::write ? recipe.reading().writes : 1;
    part.slots[s.name] = s.per == Per::head || s.per == Per::frozen ? found->second : slice(slice(found->second, 0, row, row + 1), 1, begin * n, end * n);
  }
  return part;
}

Answer fold_documents(const Recipe& recipe, const Arguments& a, const Problem& p, FoldOptions options) {
  const std::vector<int32_t> ids = a.segments.to_vector<int32_t>();
  Tensors rows;
  std::vector<Slots> states;
  for (int64_t b = 0; b < p.batch; ++b) {
    Tensors ys;
    Answer last;
    for (int64_t begin = 0, end; begin < p.tokens; begin = end) {
      end = begin + 1;
      while (end < p.tokens && ids[size_t(b * p.tokens + end)] == ids[size_t(b * p.tokens + begin)]) ++end;
      Arguments part = part_of(recipe, a, b, begin, end);
      if (begin == 0)
        for (const auto& [name, x] : a.state) part.state[name] = x.rank() ? slice(x, 0, b, b + 1) : x;
      last = fold(recipe, part, options);
      ys.push_back(last.y);
    }
    rows.push_back(concat(ys, 1));
    states.push_back(last.state);
  }
  Answer answer{concat(rows, 0), {}};
  if (a.want_state)
    for (const auto& [name, x] : states[0]) {
      Tensors parts;
      for (const Slots& s : states) parts.push_back(s.at(name));
      if (name == "position" || x.rank() == 0) {
        answer.state[name] = x;
        continue;
      }
      for (const Tensor& t : parts)
        if (t.shape() != x.shape())
          throw refuse("memory",
                       "the last documents have {} and {} tokens, needs one length for a state that keeps old pairs; ask for no state",
                       x.size(1), t.size(1));
      answer.state[name] = concat(parts, 0);
    }
  return answer;
}

}  // namespace

Answer fold(const Recipe& recipe, const Arguments& a, FoldOptions options) {
  const Problem p = examine(recipe, a);
  if (p.segments) return fold_documents(recipe, a, p, options);
  Answer answer;
  Layout layout = lay_out(recipe, a, p, answer);
  State s;
  {
    const Timeline line = layout.restore(layout.tensors);
    s = begin(recipe, line, a, p);
  }
  layout.line.position = s.position;

  int64_t every = options.checkpoint_every ? options.checkpoint_every : std::max<int64_t>(8, int64_t(std::sqrt(double(p.tokens))));
  if (every < 0 || !p.training) every = p.tokens;
  Tensors ys;
  for (int64_t from = 0; from < p.tokens; from += every) {
    const int64_t to = std::min(from + every, p.tokens);
    const auto after = std::make_shared<State>();   // the structure that comes out; its tensors come through the checkpoint
    const auto piece = [recipe, shape = layout.without_tensors(), before = s, from, to, after](const Tensors& inputs) {
      const Timeline line = shape.restore(inputs);
      State state = before;
      size_t next = shape.tracks.size();
      for (auto& [name, x] : state.initial.parts) x = inputs[next++];
      each_state(state, [&](const std::string&, Tensor& x) { x = inputs[next++]; });
      Tensors out{stack(walk(recipe, line, state, from, to), 0)};
      each_state(state, [&](const std::string&, Tensor& x) { out.push_back(x); });
      *after = state;
      return out;
    };
    Tensors inputs = layout.tensors;
    for (auto& [name, x] : s.initial.parts) inputs.push_back(x);
    each_state(s, [&](const std::string&, Tensor& x) { inputs.push_back(x); });
    const Tensors out = every < p.tokens ? checkpoint(piece, inputs) : piece(inputs);
    const Pack initial = s.initial;
    s = *after;
    s.initial = initial;
    ys.push_back(out[0]);
    size_t next = 1;
    each_state(s, [&](const std::string&, Tensor& x) { x = out[next++]; });
    after->theta = after->initial = after->anchor = after->memory = {};   // the node keeps the function, which must not keep these
    after->log_scale = {};
  }
  // [T, N, V] -> [B, T, H, V]
  Tensor y = ys.size() == 1 ? ys[0] : concat(ys, 0);
  y = transpose(reshape(y, {p.tokens, p.batch, p.heads, y.size(2)}), 0, 1);
  answer.y = cast(y, p.dtype);
  if (a.want_state) {
    each_state(s, [&](const std::string& name, Tensor& x) {
      if (!recipe.refits() || name.starts_with("optimizer.")) answer.state[name] = from_rows(x, p.batch);
    });
    answer.state["position"] = position_state(s.position);
  }
  return answer;
}

}  // namespace ttr
