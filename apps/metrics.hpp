// metrics.jsonl: what training measured, one JSON object a logged step:
//   {"step": 100, "loss": 2.1, "val_loss": null, "lr": 0.001, "grad_norm": 0.7, "tokens_per_s": 51000.0}
// Losses are nats per token. Where tokens are not bytes a line has both losses in bits per byte as well: "bits_per_byte", "val_bits_per_byte".
// val_loss is null where it was not evaluated; a number that is not finite is null too, since JSON has no word for it.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>
#include <ttr/core/open_file.hpp>

namespace ttr {

struct Measured {
  std::int64_t step = 0;
  double loss = 0;
  std::optional<double> val_loss = {};
  double lr = 0, grad_norm = 0, tokens_per_s = 0;
  std::optional<double> bits_per_byte = {}, val_bits_per_byte = {};   // written where tokens are not bytes
};

class MetricsWriter {
 public:
  explicit MetricsWriter(const std::string& path, bool append = false);   // append: after what a resumed run left, a torn last line cut off

  void write(const Measured& measured);   // in the file when it returns
  void flush();                           // on the disk: before a checkpoint that counts on these lines

 private:
  OpenFile file_;
};

struct Metrics {   // one entry a line; NaN for null and for a field that is not there
  std::vector<double> step, loss, val_loss, lr, grad_norm, tokens_per_s, bits_per_byte, val_bits_per_byte;   // [lines] each
};

// Skips empty lines, unknown fields, and a last line without its newline that does not parse (an interrupted run). Anything else that is
// wrong is one sentence with the number of the line.
Metrics read_metrics(const std::string& path);

// Drops the lines of steps after `last`, which a resumed run takes again, and a torn line; no file is left as none. All or nothing.
void cut_metrics(const std::string& path, std::int64_t last);

}  // namespace ttr
