// Independent references of every published row: plain double loops over one sequence of one head, straight from the equations (token
// recurrences or direct solves). No derivatives, no framework: what `fold` is tested against must not share a line with it.
//
//   for (const reference::Row& row : reference::rows()) { auto in = row.draw(9, 4, 3, seed); auto y = row.run(in); }   // y [T, V]
//
// A slot is named as the recipe names it: q [T,K], k [nT,K], v [nT,V] with n writes a token (the writes of a token are adjacent),
// log_decay [T] | [T,K] | [T,V] | [T,V,K], step_size [nT], ... Memories start at zero unless the row has initial_* slots. No row
// normalises a key, scales a query or applies a nonlinearity that its comment does not name.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace reference {

struct Array {                    // row-major; a scalar has shape {} and one number
  std::vector<int64_t> shape;
  std::vector<double> data;

  int64_t size(int64_t axis) const { return shape.at(static_cast<size_t>(axis)); }
  double& operator()(int64_t i) { return data.at(static_cast<size_t>(i)); }
  double operator()(int64_t i) const { return data.at(static_cast<size_t>(i)); }
  double& operator()(int64_t i, int64_t j) { return data.at(static_cast<size_t>(i * shape[1] + j)); }
  double operator()(int64_t i, int64_t j) const { return data.at(static_cast<size_t>(i * shape[1] + j)); }
  double operator()(int64_t i, int64_t j, int64_t l) const { return data.at(static_cast<size_t>((i * shape[1] + j) * shape[2] + l)); }
};

using Inputs = std::map<std::string, Array>;   // slot name -> value

struct Row {
  std::string name;                                                                   // the published recipe's name
  std::function<Inputs(int64_t T, int64_t K, int64_t V, uint64_t seed)> draw;         // may adjust K or V where the row ties them
  std::function<Array(const Inputs&)> run;                                            // y [T, V]
  std::string source;                                                                 // section of the reference, arXiv id
  std::string options;                                                                // constants of the run, such as "chunk=4"
  bool causal = true;                                                                 // y_t reads only tokens s <= t
};

const std::vector<Row>& rows();
const Row& row(const std::string& name);       // throws std::out_of_range with the name

// The groups, one file each.
std::vector<Row> nonparametric_rows();         // A: softmax weights, local polynomials, kernel regression, Nystrom
std::vector<Row> least_squares_rows();         // B: solved to optimality
std::vector<Row> linear_rows();                // C: one batch step, feature maps
std::vector<Row> gated_rows();                 // D: decayed batch steps
std::vector<Row> delta_rows();                 // E: online learners
std::vector<Row> nonlinear_rows();             // F: minibatch learners of nonlinear memories, windows

}  // namespace reference
