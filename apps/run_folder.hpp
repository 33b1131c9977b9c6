// The folder of a run: what is in it, who writes there, and where a resumed run goes on.
//   config.toml            everything that made the run
//   metrics.jsonl          one object a logged step
//   last.safetensors       the newest checkpoint; best.safetensors the one with the lowest validation loss; step-00000100.safetensors those kept
//   curve.svg              losses over steps
// One process at a time writes there; it holds a lock on the folder itself, which ends with the process.
#pragma once
#include <string>

namespace ttr {

class RunFolder {
 public:
  static RunFolder fresh(const std::string& path);     // made, or empty; anything else is refused
  static RunFolder resumed(const std::string& path);   // of a run, or one of its checkpoints
  RunFolder(RunFolder&&) noexcept;
  ~RunFolder();

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const;
  const std::string& checkpoint() const { return checkpoint_; }   // where a resumed run goes on; "" when none was written yet

  // last.safetensors, just written, is also kept under its step's number; only the newest `keep` of these stay.
  void keep_last(int64_t step, int64_t keep) const;

 private:
  explicit RunFolder(std::string path);
  std::string path_, checkpoint_;
  int lock_ = -1;
  bool made_ = false;   // by this process; it goes again while it is empty
};

}  // namespace ttr
