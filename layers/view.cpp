// View: lookups on the timeline, and named tensors.
#include <ttr/core/ops.hpp>
#include <ttr/layers/view.hpp>

namespace ttr {

const Tensor& Pack::operator[](std::string_view name) const {
  for (const auto& [n, t] : parts) if (n == name) return t;
  throw refuse("pack", "'{}' is asked for, needs a part that exists", name);
}
void Pack::set(std::string_view name, Tensor value) {
  for (auto& [n, t] : parts) if (n == name) { t = std::move(value); return; }
  parts.emplace_back(name, std::move(value));
}
bool Pack::has(std::string_view name) const {
  for (const auto& [n, t] : parts) if (n == name) return true;
  return false;
}
Tensors Pack::values() const {
  Tensors v;
  for (const auto& [n, t] : parts) v.push_back(t);
  return v;
}
Pack Pack::with(const Tensors& values) const {
  Pack p = *this;
  for (size_t i = 0; i < p.parts.size(); ++i) p.parts[i].second = values[i];
  return p;
}

const Timeline::Track& View::track(std::string_view slot) const {
  const auto found = line_->tracks.find(slot);
  if (found == line_->tracks.end()) throw refuse("view", "slot '{}' is read, needs to be listed by the ingredient's slots()", slot);
  return found->second;
}
bool View::has(std::string_view slot) const { return line_->tracks.contains(slot); }
Tensor View::now(std::string_view slot) const {
  const auto& t = track(slot);
  if (t.head.defined()) return t.head;
  return t.per == Per::write ? t.at[size_t((time_ + 1) * writes() - 1)] : t.at[size_t(time_)];
}
Tensor View::pair(std::string_view slot, int64_t i) const {
  const auto& t = track(slot);
  if (t.head.defined()) return t.head;
  return t.at[size_t(t.per == Per::write ? i : token_of(i))];
}
Tensor View::place(int64_t token) const { return line_->places.defined() ? line_->places : full({1, 1}, double(position(token)), options()); }
Tensor View::all(std::string_view slot) const {
  Tensors values;
  for (int64_t i = first_; i < pairs_; ++i) values.push_back(pair(slot, i));
  return stack(values, 1);
}
Tensor View::head(std::string_view slot) const {
  const auto& t = track(slot);
  if (!t.head.defined()) throw refuse("view", "slot '{}' has a value a token, needs now() or pair()", slot);
  return t.head;
}

}  // namespace ttr
