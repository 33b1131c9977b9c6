// Reading and writing safetensors (see safetensors.hpp). The header is parsed event by event, so that depth, duplicates and
// kinds are judged before anything is built from them.
#include <ttr/core/safetensors.hpp>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <set>
#include <utility>
#include <nlohmann/json.hpp>
#include <ttr/core/error.hpp>
#include <ttr/core/open_file.hpp>
#include <ttr/core/whole_file.hpp>

namespace ttr {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian and is not swapped here");

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kMaxRank = 64;
constexpr const char* kRead = "safetensors";
constexpr const char* kWrite = "write_safetensors";

struct Dtype {
  std::string_view name;
  size_t bytes;
};
constexpr Dtype kDtypes[] = {{"F64", 8}, {"I64", 8}, {"U64", 8},     {"F32", 4},     {"I32", 4}, {"U32", 4}, {"F16", 2}, {"BF16", 2},
                             {"I16", 2}, {"U16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I8", 1},  {"U8", 1},  {"BOOL", 1}};
constexpr const char* kDtypeList = "one of F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL";

// What a file calls something, fit for a terminal: no control bytes, no book.
std::string shown(std::string_view text) {
  std::string out(text.substr(0, 80));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text.size() > 80 ? out + "..." : out;
}

// Bytes of a tensor of this shape; false when the product leaves 63 bits.
bool size_of(const std::vector<int64_t>& shape, size_t element, uint64_t& bytes) {
  uint64_t product = element;
  bool empty = false;
  for (const int64_t n : shape) empty = empty || n == 0;
  for (const int64_t n : shape)
    if (!empty && __builtin_mul_overflow(product, uint64_t(n), &product)) return false;
  bytes = empty ? 0 : product;
  return bytes <= uint64_t(std::numeric_limits<int64_t>::max());
}

struct Described {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<uint64_t> offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

// Receives the events of the JSON parser. Depth 1 names tensors, depth 2 their fields, depth 3 lists of whole numbers; deeper is refused.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& path) : path_(path) {}

  std::map<std::string, Described> tensors;
  std::map<std::string, std::string> metadata;

  bool start_object(size_t) override {
    if (depth_ == 2 || list_) throw unexpected("an object");
    if (depth_ == 1) {
      in_metadata_ = name_ == "__metadata__";
      if (!in_metadata_) current_ = &tensors[name_];
      fields_.clear();
    }
    ++depth_;
    return true;
  }

  bool end_object() override {
    if (depth_-- == 2 && !in_metadata_ && !(current_->has_dtype && current_->has_shape && current_->has_offsets))
      throw refuse(kRead, "tensor '{}' of {} lacks {}, needs dtype, shape and data_offsets", shown(name_), path_,
                   !current_->has_dtype   ? "dtype"
                   : !current_->has_shape ? "shape"
                                          : "data_offsets");
    return true;
  }

  bool key(std::string& text) override {
    auto& known = depth_ == 1 ? names_ : fields_;
    if (!known.insert(text).second) {
      if (depth_ == 1) throw refuse(kRead, "tensor '{}' of {} is there twice, needs one entry a name", shown(text), path_);
      throw refuse(kRead, "'{}' of tensor '{}' of {} is there twice, needs to be there once", shown(text), shown(name_), path_);
    }
    (depth_ == 1 ? name_ : field_) = std::move(text);
    if (depth_ == 2 && !in_metadata_ && field_ != "dtype" && field_ != "shape" && field_ != "data_offsets")
      throw refuse(kRead, "a field of tensor '{}' of {} is '{}', needs dtype, shape or data_offsets", shown(name_), path_, shown(field_));
    return true;
  }

  bool string(std::string& text) override {
    if (depth_ == 2 && in_metadata_) {
      metadata[field_] = std::move(text);
    } else if (depth_ == 2 && !list_ && field_ == "dtype") {
      current_->dtype = std::move(text);
      current_->has_dtype = true;
    } else {
      throw unexpected("text");
    }
    return true;
  }

  bool start_array(size_t) override {
    if (depth_ != 2 || list_ || in_metadata_ || field_ == "dtype") throw unexpected("a list");
    list_ = true;
    (field_ == "shape" ? current_->has_shape : current_->has_offsets) = true;
    return true;
  }

  bool end_array() override {
    list_ = false;
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (!list_) throw unexpected("a number");
    if (field_ == "shape") {
      if (value > uint64_t(std::numeric_limits<int64_t>::max()))
        throw refuse(kRead, "a size of tensor '{}' of {} is {}, needs less than 2^63", shown(name_), path_, value);
      if (current_->shape.size() == kMaxRank)
        throw refuse(kRead, "tensor '{}' of {} has more than {} axes, needs at most that", shown(name_), path_, kMaxRank);
      current_->shape.push_back(int64_t(value));
    } else {
      if (current_->offsets.size() == 2)
        throw refuse(kRead, "data_offsets of tensor '{}' of {} has more than 2 numbers, needs 2", shown(name_), path_);
      current_->offsets.push_back(value);
    }
    return true;
  }

  bool number_integer(int64_t value) override {
    if (!list_) throw unexpected("a number");
    throw refuse(kRead, "{} of tensor '{}' of {} holds {}, needs numbers of at least 0", field_, shown(name_), path_, value);
  }

  bool number_float(double, const std::string& text) override {
    if (!list_) throw unexpected("a number");
    throw refuse(kRead, "{} of tensor '{}' of {} holds {}, needs whole numbers below 2^63", field_, shown(name_), path_, shown(text));
  }

  bool null() override { throw unexpected("null"); }
  bool boolean(bool) override { throw unexpected("a truth value"); }
  bool binary(binary_t&) override { throw unexpected("binary data"); }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    throw refuse(kRead, "the header of {} is no JSON at byte {}, needs valid JSON; the file is damaged or of another kind", path_,
                 position);
  }

 private:
  Error unexpected(const char* what) const {
    if (depth_ == 0) return refuse(kRead, "the header of {} is {}, needs a JSON object", path_, what);
    if (depth_ == 1) return refuse(kRead, "the entry '{}' of {} is {}, needs an object", shown(name_), path_, what);
    const char* need = in_metadata_ ? "text" : field_ == "dtype" ? "text" : "a flat list of whole numbers";
    return refuse(kRead, "'{}' of '{}' of {} is or holds {}, needs {}", shown(field_), shown(name_), path_, what, need);
  }

  const std::string& path_;
  int depth_ = 0;
  bool list_ = false, in_metadata_ = false;
  std::string name_, field_;
  std::set<std::string> names_, fields_;
  Described* current_ = nullptr;
};

}  // namespace

size_t safetensors_element_bytes(std::string_view dtype) {
  for (const Dtype& known : kDtypes)
    if (known.name == dtype) return known.bytes;
  return 0;
}

SafetensorsFile::SafetensorsFile(const std::string& path)
    : path_(path), file_(std::make_shared<const OpenFile>(OpenFile::to_read(kRead, path))) {
  const uint64_t size = file_->size();
  if (size < 8) throw refuse(kRead, "{} has {} bytes, needs at least 8 for the length of its header", path, size);
  uint64_t header = 0;
  file_->read(0, &header, 8);
  if (header > kMaxHeader)
    throw refuse(kRead, "the header of {} claims {} bytes, needs at most {}; the file is damaged or of another kind", path, header,
                 kMaxHeader);
  if (header > size - 8)
    throw refuse(kRead, "the header of {} claims {} bytes, needs at most the {} that follow; the file is cut short", path, header,
                 size - 8);
  std::string text(size_t(header), '\0');
  file_->read(8, text.data(), text.size());
  if (!text.starts_with('{')) throw refuse(kRead, "the header of {} does not begin with '{{', needs a JSON object", path);

  HeaderReader reader(path);
  nlohmann::json::sax_parse(text, &reader);
  metadata_ = std::move(reader.metadata);

  const uint64_t data_bytes = size - 8 - header;
  std::vector<std::pair<std::pair<uint64_t, uint64_t>, const std::string*>> order;
  for (auto& [name, described] : reader.tensors) {
    const size_t element = safetensors_element_bytes(described.dtype);
    if (element == 0)
      throw refuse(kRead, "the dtype of tensor '{}' of {} is '{}', needs {}", shown(name), path, shown(described.dtype), kDtypeList);
    uint64_t bytes = 0;
    if (!size_of(described.shape, element, bytes))
      throw refuse(kRead, "the shape of tensor '{}' of {} counts more bytes than 2^63, needs fewer", shown(name), path);
    if (described.offsets.size() != 2)
      throw refuse(kRead, "data_offsets of tensor '{}' of {} has {} numbers, needs 2", shown(name), path, described.offsets.size());
    const uint64_t begin = described.offsets[0], end = described.offsets[1];
    if (begin > end || end > data_bytes)
      throw refuse(
          kRead,
          "data_offsets of tensor '{}' of {} is [{}, {}], needs to lie in order inside the {} bytes of data; the file lies or is cut short",
          shown(name), path, begin, end, data_bytes);
    if (end - begin != bytes)
      throw refuse(kRead, "tensor '{}' of {} has {} bytes of data, needs {} for its shape and dtype {}", shown(name), path, end - begin,
                   bytes, described.dtype);
    const auto place = tensors_.emplace(name, StoredTensor{described.dtype, std::move(described.shape), size_t(bytes), 8 + header + begin}).first;
    order.push_back({{begin, end}, &place->first});
  }
  std::sort(order.begin(), order.end(),
            [](const auto& a, const auto& b) { return a.first != b.first ? a.first < b.first : *a.second < *b.second; });
  uint64_t covered = 0;
  for (const auto& [range, name] : order) {
    if (range.first < covered)
      throw refuse(kRead, "tensor '{}' of {} begins at {}, needs {}; it overlaps tensor '{}'", shown(*name), path, range.first, covered,
                   shown(names_.back()));
    if (range.first > covered)
      throw refuse(kRead, "tensor '{}' of {} begins at {}, needs {}; {} bytes belong to nobody", shown(*name), path, range.first, covered,
                   range.first - covered);
    covered = range.second;
    names_.push_back(*name);
  }
  if (covered != data_bytes)
    throw refuse(kRead, "the tensors of {} cover {} bytes of data, needs {}; the rest belongs to nobody", path, covered, data_bytes);
}

const StoredTensor& SafetensorsFile::at(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  std::string known;
  for (size_t i = 0; i < names_.size() && i < 8; ++i) known += (i ? ", " : "") + shown(names_[i]);
  throw refuse(kRead, "{} has no tensor '{}', needs one; it holds {}{}", path_, shown(name), known.empty() ? "none" : known,
               names_.size() > 8 ? ", ..." : "");
}

RawTensor SafetensorsFile::read(const std::string& name) const {
  const StoredTensor& stored = at(name);
  const std::shared_ptr<std::byte[]> memory(new std::byte[stored.bytes]);   // not filled with zeros first
  file_->read(stored.at, memory.get(), stored.bytes);
  return {stored.dtype, stored.shape, memory.get(), stored.bytes, memory};
}

namespace {

void check(const SafetensorsEntry& entry, const std::string& path) {
  const RawTensor& tensor = entry.tensor;
  const size_t element = safetensors_element_bytes(tensor.dtype);
  if (entry.name == "__metadata__")
    throw refuse(kWrite, "a tensor for {} is named '__metadata__', needs another name; that one is reserved", path);
  if (element == 0)
    throw refuse(kWrite, "the dtype of tensor '{}' for {} is '{}', needs {}", shown(entry.name), path, shown(tensor.dtype), kDtypeList);
  for (const int64_t n : tensor.shape)
    if (n < 0) throw refuse(kWrite, "a size of tensor '{}' for {} is {}, needs at least 0", shown(entry.name), path, n);
  if (tensor.shape.size() > kMaxRank)
    throw refuse(kWrite, "tensor '{}' for {} has {} axes, needs at most {}", shown(entry.name), path, tensor.shape.size(), kMaxRank);
  uint64_t bytes = 0;
  if (!size_of(tensor.shape, element, bytes))
    throw refuse(kWrite, "the shape of tensor '{}' for {} counts more bytes than 2^63, needs fewer", shown(entry.name), path);
  if (bytes != tensor.bytes)
    throw refuse(kWrite, "tensor '{}' for {} has {} bytes, needs {} for its shape and dtype {}", shown(entry.name), path, tensor.bytes,
                 bytes, tensor.dtype);
  if (tensor.data == nullptr && bytes > 0)
    throw refuse(kWrite, "the data of tensor '{}' for {} is null, needs {} bytes", shown(entry.name), path, bytes);
}

}  // namespace

void write_safetensors(const std::string& path, const std::vector<SafetensorsEntry>& entries,
                       const std::map<std::string, std::string>& metadata) {
  std::set<std::string_view> names;
  std::vector<const SafetensorsEntry*> order;
  for (const SafetensorsEntry& entry : entries) {
    check(entry, path);
    if (!names.insert(entry.name).second)
      throw refuse(kWrite, "tensor '{}' for {} is there twice, needs one entry a name", shown(entry.name), path);
    order.push_back(&entry);
  }
  std::stable_sort(order.begin(), order.end(), [](const SafetensorsEntry* a, const SafetensorsEntry* b) {
    return safetensors_element_bytes(a->tensor.dtype) > safetensors_element_bytes(b->tensor.dtype);
  });
  auto described = nlohmann::ordered_json::object();
  if (!metadata.empty()) described["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const SafetensorsEntry* entry : order) {
    described[entry->name] = {
        {"dtype", entry->tensor.dtype}, {"shape", entry->tensor.shape}, {"data_offsets", {offset, offset + entry->tensor.bytes}}};
    offset += entry->tensor.bytes;
  }
  std::string header;
  try {
    header = described.dump();
  } catch (const nlohmann::json::exception&) { throw refuse(kWrite, "a name or a metadata text for {} is not UTF-8, needs to be", path); }
  header.append((8 - header.size() % 8) % 8, ' ');
  if (header.size() > kMaxHeader) throw refuse(kWrite, "the header for {} has {} bytes, needs at most {}", path, header.size(), kMaxHeader);

  WholeFile file(kWrite, path);
  const uint64_t length = header.size();
  file.write(&length, 8);
  file.write(header.data(), header.size());
  for (const SafetensorsEntry* entry : order) file.write(entry->tensor.data, entry->tensor.bytes);
  file.commit();
}

}  // namespace ttr
