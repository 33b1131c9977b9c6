// Writing and reading metrics.jsonl.
#include <ttr/apps/metrics.hpp>
#include <cmath>
#include <filesystem>
#include <limits>
#include <sstream>
#include <system_error>
#include <utility>
#include <nlohmann/json.hpp>
#include <ttr/core/error.hpp>
#include <ttr/core/whole_file.hpp>

namespace ttr {
namespace {

std::string number(double value) { return std::isfinite(value) ? fmt::format("{}", value) : "null"; }

}  // namespace

MetricsWriter::MetricsWriter(const std::string& path, bool append)
    : file_(append ? OpenFile::to_append("metrics", path) : OpenFile::afresh("metrics", path)) {
  if (!append) return;
  // A line that an interrupted run did not end would swallow the next one.
  const std::string text = read_whole("metrics", path);
  if (text.empty() || text.back() == '\n') return;
  const std::size_t end = text.rfind('\n');
  std::error_code failed;
  std::filesystem::resize_file(path, end == std::string::npos ? 0 : end + 1, failed);
  if (failed) throw refuse("metrics", "file {} ends in half a line that cannot be cut off ({}), needs to be writable", path, failed.message());
}

void MetricsWriter::write(const Measured& measured) {
  const auto or_null = [](const std::optional<double>& x) { return x ? number(*x) : std::string("null"); };
  std::string bits;
  if (measured.bits_per_byte)
    bits = fmt::format(R"(, "bits_per_byte": {}, "val_bits_per_byte": {})", or_null(measured.bits_per_byte), or_null(measured.val_bits_per_byte));
  const std::string line = fmt::format(R"({{"step": {}, "loss": {}, "val_loss": {}, "lr": {}, "grad_norm": {}, "tokens_per_s": {}{}}})"
                                       "\n",
                                       measured.step, number(measured.loss), or_null(measured.val_loss),
                                       number(measured.lr), number(measured.grad_norm), number(measured.tokens_per_s), bits);
  file_.write(line.data(), line.size());
}

void MetricsWriter::flush() { file_.flush(); }

Metrics read_metrics(const std::string& path) {
  std::istringstream in(read_whole("metrics", path));
  Metrics metrics;
  const std::pair<const char*, std::vector<double>*> fields[] = {
      {"step", &metrics.step}, {"loss", &metrics.loss},           {"val_loss", &metrics.val_loss},
      {"lr", &metrics.lr},     {"grad_norm", &metrics.grad_norm}, {"tokens_per_s", &metrics.tokens_per_s},
      {"bits_per_byte", &metrics.bits_per_byte}, {"val_bits_per_byte", &metrics.val_bits_per_byte}};
  std::string line;
  for (std::int64_t at = 1; std::getline(in, line); ++at) {
    const bool torn = in.eof();   // the last line, without its newline
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
    if (!object.is_object()) {
      if (torn && object.is_discarded()) break;
      throw refuse("metrics", "line {} of {} is {}, needs a JSON object", at, path,
                   object.is_discarded() ? "not JSON" : object.type_name());
    }
    const auto step = object.find("step");
    if (step == object.end() || !step->is_number()) {
      throw refuse("metrics", "line {} of {} has {} step, needs a number", at, path, step == object.end() ? "no" : "a wrong");
    }
    for (const auto& [name, values] : fields) {
      const auto field = object.find(name);
      if (field != object.end() && !field->is_number() && !field->is_null()) {
        throw refuse("metrics", "field {} in line {} of {} is {}, needs a number or null", name, at, path, field->type_name());
      }
      values->push_back(field != object.end() && field->is_number() ? field->get<double>() : std::numeric_limits<double>::quiet_NaN());
    }
  }
  return metrics;
}

void cut_metrics(const std::string& path, std::int64_t last) {
  if (!std::filesystem::exists(path)) return;
  std::istringstream in(read_whole("metrics", path));
  std::string line, kept;
  bool whole = true;
  while (std::getline(in, line)) {
    const nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
    const auto step = object.is_object() ? object.find("step") : object.end();
    const bool stays = !in.eof() && object.is_object() && step != object.end() && step->is_number() && step->get<double>() <= double(last);
    if (stays) kept += line + "\n";
    whole = whole && stays;
  }
  if (!whole) write_whole("metrics", path, kept);
}

}  // namespace ttr
