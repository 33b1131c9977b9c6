// Loss by position: a table in a file, and a curve over a logarithmic axis on which far positions are taken together.
//   position,targets,nats_per_token,standard_error,bits_per_byte
// Position p is of the targets that were predicted from p tokens. standard_error takes targets as independent.
#pragma once
#include <string>
#include <vector>
#include <ttr/apps/loss_table.hpp>
#include <ttr/apps/plot.hpp>

namespace ttr {

inline constexpr const char* kByPosition = "by_position";   // the files' name, without .csv and .svg

void write_by_position(const std::string& path, const std::vector<Score>&);
std::vector<Score> read_by_position(const std::string& path);   // squares are not filled

Series by_position_series(const std::string& name, const std::vector<Score>&, LossUnit);
Plot by_position_plot(const std::string& name, const std::vector<Score>&, LossUnit, const Yardsticks&, std::int64_t trained);   // trained: 0, or where to mark

}  // namespace ttr
