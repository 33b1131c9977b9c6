// Border: what the sizes of every stem with heads have in common. Keys and values may have fewer heads than queries; a group of heads shares a row.
#pragma once
#include <ttr/core/border.hpp>

namespace ttr {

template <class Sizes> constexpr bool heads_hold(const Sizes& n) {
  return n.batch >= 0 && n.tokens >= 0 && n.heads > 0 && n.key_heads > 0 && n.value_heads > 0 && n.key_dim > 0 && n.value_dim > 0 &&
         n.heads % n.key_heads == 0 && n.heads % n.value_heads == 0;
}

// Heads that share a row of keys or of values are one task, so that dk and dv are sums in a fixed order: how many such groups there are.
template <class Sizes> constexpr int64_t head_groups(const Sizes& n) {
  int64_t a = n.key_heads, b = n.value_heads;   // their greatest common divisor
  while (b) {
    const int64_t rest = a % b;
    a = b, b = rest;
  }
  return a;
}

}  // namespace ttr
