// The list of all references, group after group. Their self-checks are identities between rows (reference section 4), each reached by two
// code paths that share no equation; a convention that both paths share is stated at the row instead.
#include <stdexcept>
#include <utility>

#include "rows_reference.hpp"

namespace reference {

const std::vector<Row>& rows() {
  static const std::vector<Row> all = [] {
    std::vector<Row> joined;
    for (auto* group : {nonparametric_rows, least_squares_rows, linear_rows, gated_rows, delta_rows, nonlinear_rows})
      for (Row& r : group()) joined.push_back(std::move(r));
    return joined;
  }();
  return all;
}

const Row& row(const std::string& name) {
  for (const Row& r : rows())
    if (r.name == name) return r;
  throw std::out_of_range("[rows_reference] row is " + name + ", needs one of rows()");
}

}  // namespace reference
