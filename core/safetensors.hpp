// safetensors files: named raw tensors, row-major, little-endian. Knows nothing of Tensor.
//
//   u64 length of the header | JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {"key": "text"}} | data
//
// A file is hostile until proven otherwise: whatever lies is refused in one sentence that names the file and the tensor.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ttr {

class OpenFile;

struct RawTensor {
  std::string dtype;                 // F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL
  std::vector<int64_t> shape;        // empty: a scalar
  const std::byte* data = nullptr;
  size_t bytes = 0;
  std::shared_ptr<const std::byte[]> memory = {};   // of data, where it came from a file: aligned for every type, shared by copies
};

struct StoredTensor {   // what the header says of it
  std::string dtype;
  std::vector<int64_t> shape;
  size_t bytes = 0;
  uint64_t at = 0;   // byte of the file
};

size_t safetensors_element_bytes(std::string_view dtype);   // 0: unknown

// Opened, its header read and judged. Tensors are read one at a time, each into memory of its own: a file that somebody cuts or overwrites meanwhile
// is refused or gives other numbers, where a mapped one would end the process. The file stays open while this object or a copy of it lives, so that one
// that is replaced by renaming is read to its end as it was.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::vector<std::string>& names() const { return names_; }   // in the order of their data
  bool has(const std::string& name) const { return tensors_.contains(name); }
  const StoredTensor& at(const std::string& name) const;
  RawTensor read(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::shared_ptr<const OpenFile> file_;
  std::vector<std::string> names_;
  std::map<std::string, StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

struct SafetensorsEntry {
  std::string name;
  RawTensor tensor;   // data is read while writing only
};

// All or nothing: written under another name in the same folder, flushed to the disk, renamed over `path`, and the folder flushed.
// Tensors are laid out widest element first, so that each is aligned for its type.
void write_safetensors(const std::string& path, const std::vector<SafetensorsEntry>& entries,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace ttr
