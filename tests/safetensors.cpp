// safetensors: what is written is read back, and files that lie are refused in one sentence with file and tensor.
#include <doctest/doctest.h>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>
#include <unistd.h>
#include <sys/stat.h>
#include <ttr/core/error.hpp>
#include <ttr/core/safetensors.hpp>

using namespace ttr;
namespace fs = std::filesystem;

namespace {

struct Folder {   // its own folder, removed at the end
  fs::path at = fs::temp_directory_path() / ("ttr_safetensors_" + std::to_string(getpid()) + "_" + std::to_string(serial++));
  static inline std::atomic<int> serial{0};
  Folder() { fs::create_directories(at); }
  ~Folder() { fs::remove_all(at); }
  std::string file(const char* name) const { return (at / name).string(); }
};

void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

std::string get(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string with_header(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + header + std::string(data_bytes, 'x');
}

std::string refusal(const std::string& path) {
  try {
    SafetensorsFile file(path);
  } catch (const Error& error) { return error.what(); }
  return "accepted";
}

template <class T> RawTensor raw(const char* dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  return {dtype, std::move(shape), reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace

TEST_SUITE("safetensors") {
  TEST_CASE("what is written is read back") {
    Folder folder;
    const std::string path = folder.file("a.safetensors");
    const std::vector<float> weight{1, 2, 3, 4, 5, 6};
    const std::vector<double> wide{0.5};
    const std::vector<uint8_t> bytes{1, 0, 1};
    const std::vector<int64_t> ids{-1, 7};
    const std::vector<float> none;
    write_safetensors(path,
                      {{"mask", raw("BOOL", {3}, bytes)},
                       {"layer.0.weight", raw("F32", {2, 3}, weight)},
                       {"scalar", raw("F64", {}, wide)},
                       {"empty", raw("F32", {0, 4}, none)},
                       {"ids", raw("I64", {2}, ids)},
                       {"quote\" \\ \xc3\xa9\n", raw("F64", {1}, wide)}},
                      {{"step", "12"}, {"note", "a \"b\""}});
    const SafetensorsFile file(path);
    CHECK(file.names().size() == 6);
    CHECK(file.metadata().at("step") == "12");
    CHECK(file.metadata().at("note") == "a \"b\"");
    const RawTensor w = file.read("layer.0.weight");
    CHECK(w.dtype == "F32");
    CHECK(w.shape == std::vector<int64_t>{2, 3});
    CHECK(w.bytes == 24);
    CHECK(std::memcmp(w.data, weight.data(), 24) == 0);
    CHECK(file.at("scalar").shape.empty());
    CHECK(std::memcmp(file.read("scalar").data, wide.data(), 8) == 0);
    CHECK(std::memcmp(file.read("mask").data, bytes.data(), 3) == 0);
    CHECK(std::memcmp(file.read("ids").data, ids.data(), 16) == 0);
    CHECK(file.at("empty").bytes == 0);
    CHECK(file.has("quote\" \\ \xc3\xa9\n"));
    CHECK_FALSE(file.has("other"));
    for (const std::string& name : file.names())
      CHECK(file.at(name).at % safetensors_element_bytes(file.at(name).dtype) == 0);
    uint64_t header = 0;
    std::memcpy(&header, get(path).data(), 8);
    CHECK(header % 8 == 0);
    CHECK(std::distance(fs::directory_iterator(folder.at), {}) == 1);   // nothing left beside it
  }

  TEST_CASE("a copy keeps the file open, and replacing the file does not touch it") {
    Folder folder;
    const std::string path = folder.file("a.safetensors");
    const std::vector<float> one{1}, two{2};
    write_safetensors(path, {{"x", raw("F32", {1}, one)}});
    auto first = std::make_unique<SafetensorsFile>(path);
    const SafetensorsFile copy = *first;
    first.reset();
    write_safetensors(path, {{"x", raw("F32", {1}, two)}});
    CHECK(std::memcmp(copy.read("x").data, one.data(), 4) == 0);
    CHECK(std::memcmp(SafetensorsFile(path).read("x").data, two.data(), 4) == 0);
  }

  TEST_CASE("files of other writers: unaligned data, any order, spaces, no tensors") {
    Folder folder;
    const std::string path = folder.file("a.safetensors");
    put(path, with_header(R"({"b":{"data_offsets":[1,5],"shape":[1],"dtype":"F32"}, "a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                          R"("z":{"dtype":"F32","shape":[0],"data_offsets":[5,5]}} )",
                          5));
    const SafetensorsFile file(path);
    CHECK(file.names() == std::vector<std::string>{"a", "b", "z"});
    put(path, with_header("{}", 0));
    CHECK(SafetensorsFile(path).names().empty());
  }

  TEST_CASE("files that lie are refused, each in one sentence") {
    Folder folder;
    const std::string p = folder.file("lies.safetensors");
    const auto says = [&](const std::string& bytes, const std::string& sentence) {
      put(p, bytes);
      const std::string got = refusal(p);
      CHECK(got == "[safetensors] " + sentence);
      CHECK(got.find('\n') == std::string::npos);
    };
    const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
      return R"({"w":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
    };
    const std::string F32 = "\"F32\"";

    says("short", p + " has 5 bytes, needs at least 8 for the length of its header");
    says(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10),
         "the header of " + p + " claims 18446744073709551615 bytes, needs at most 100000000; the file is damaged or of another kind");
    says(std::string("\x64\0\0\0\0\0\0\0{}", 10),
         "the header of " + p + " claims 100 bytes, needs at most the 2 that follow; the file is cut short");
    says(with_header("", 0), "the header of " + p + " does not begin with '{', needs a JSON object");
    says(with_header("[]", 0), "the header of " + p + " does not begin with '{', needs a JSON object");
    for (const char* broken : {"{", "{\"a\"", "{}}", "{} x", "{\"a\":}", "{'a':1}", "{\"\xff\":{}}"}) {
      put(p, with_header(broken, 0));
      CAPTURE(broken);
      const std::string got = refusal(p);
      CHECK(got.find("[safetensors] the header of " + p + " is no JSON at byte ") == 0);
    }
    says(with_header(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2),
         "tensor 'w' of " + p + " is there twice, needs one entry a name");
    says(with_header(R"({"w":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,1]}})", 1),
         "'dtype' of tensor 'w' of " + p + " is there twice, needs to be there once");
    says(with_header(tensor("\"F33\"", "[1]", "[0,4]"), 4),
         "the dtype of tensor 'w' of " + p + " is 'F33', needs one of F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL");
    says(with_header(tensor("3", "[1]", "[0,4]"), 4), "'dtype' of 'w' of " + p + " is or holds a number, needs text");
    says(with_header(tensor(F32, "[-1]", "[0,4]"), 4), "shape of tensor 'w' of " + p + " holds -1, needs numbers of at least 0");
    says(with_header(tensor(F32, "[1.5]", "[0,4]"), 4), "shape of tensor 'w' of " + p + " holds 1.5, needs whole numbers below 2^63");
    says(with_header(tensor(F32, "[99999999999999999999]", "[0,4]"), 4),
         "shape of tensor 'w' of " + p + " holds 99999999999999999999, needs whole numbers below 2^63");
    says(with_header(tensor(F32, "[18446744073709551615]", "[0,4]"), 4),
         "a size of tensor 'w' of " + p + " is 18446744073709551615, needs less than 2^63");
    says(with_header(tensor(F32, "[4294967296,4294967296]", "[0,0]"), 0),
         "the shape of tensor 'w' of " + p + " counts more bytes than 2^63, needs fewer");
    says(with_header(tensor(F32, "[4611686018427387905]", "[0,4]"), 4),
         "the shape of tensor 'w' of " + p + " counts more bytes than 2^63, needs fewer");
    says(with_header(tensor(F32, "[1]", "[0,8]"), 4),
         "data_offsets of tensor 'w' of " + p +
             " is [0, 8], needs to lie in order inside the 4 bytes of data; the file lies or is cut short");
    says(with_header(tensor(F32, "[1]", "[4,0]"), 4),
         "data_offsets of tensor 'w' of " + p +
             " is [4, 0], needs to lie in order inside the 4 bytes of data; the file lies or is cut short");
    says(with_header(tensor(F32, "[1]", "[-4,0]"), 4), "data_offsets of tensor 'w' of " + p + " holds -4, needs numbers of at least 0");
    says(with_header(tensor(F32, "[1]", "[0]"), 4), "data_offsets of tensor 'w' of " + p + " has 1 numbers, needs 2");
    says(with_header(tensor(F32, "[1]", "[0,4,4]"), 4), "data_offsets of tensor 'w' of " + p + " has more than 2 numbers, needs 2");
    says(with_header(tensor(F32, "[2]", "[0,4]"), 4), "tensor 'w' of " + p + " has 4 bytes of data, needs 8 for its shape and dtype F32");
    says(with_header(tensor(F32, "[1]", "[0,4]"), 5),
         "the tensors of " + p + " cover 4 bytes of data, needs 5; the rest belongs to nobody");
    says(with_header("{}", 3), "the tensors of " + p + " cover 0 bytes of data, needs 3; the rest belongs to nobody");
    says(with_header(tensor(F32, "[1]", "[1,5]"), 5), "tensor 'w' of " + p + " begins at 1, needs 0; 1 bytes belong to nobody");
    says(with_header(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3),
         "tensor 'b' of " + p + " begins at 1, needs 2; it overlaps tensor 'a'");
    says(with_header(tensor(F32, "[[1]]", "[0,4]"), 4),
         "'shape' of 'w' of " + p + " is or holds a list, needs a flat list of whole numbers");
    says(with_header(tensor(F32, "{}", "[0,4]"), 4),
         "'shape' of 'w' of " + p + " is or holds an object, needs a flat list of whole numbers");
    says(with_header(R"({"w":{"dtype":"F32","shape":[1]}})", 4),
         "tensor 'w' of " + p + " lacks data_offsets, needs dtype, shape and data_offsets");
    says(with_header(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})", 4),
         "a field of tensor 'w' of " + p + " is 'more', needs dtype, shape or data_offsets");
    says(with_header(R"({"w":7})", 0), "the entry 'w' of " + p + " is a number, needs an object");
    says(with_header(R"({"__metadata__":{"a":1}})", 0), "'a' of '__metadata__' of " + p + " is or holds a number, needs text");
    says(with_header(R"({"w":)" + std::string(1'000'000, '[') + "}", 0), "the entry 'w' of " + p + " is a list, needs an object");
    says(with_header(R"({"w":{"shape":)" + std::string(1'000'000, '[') + "}", 0),
         "'shape' of 'w' of " + p + " is or holds a list, needs a flat list of whole numbers");
    std::string many = "[1";
    for (int i = 0; i < 64; ++i) many += ",1";
    says(with_header(tensor(F32, many + "]", "[0,4]"), 4), "tensor 'w' of " + p + " has more than 64 axes, needs at most that");
    says(with_header(R"({"\u001b[31m\n":7})", 0), "the entry '?[31m?' of " + p + " is a number, needs an object");
    says(with_header("{\"" + std::string(500, 'n') + "\":7}", 0),
         "the entry '" + std::string(80, 'n') + "...' of " + p + " is a number, needs an object");
  }

  TEST_CASE("every cut and every changed byte of a good file is read or refused, never worse") {
    Folder folder;
    const std::string path = folder.file("a.safetensors");
    const std::vector<float> x{1, 2, 3};
    write_safetensors(path, {{"x", raw("F32", {3}, x)}, {"y", raw("U8", {2, 3, 2}, x)}}, {{"k", "v"}});
    const std::string good = get(path);   // cut and changed where it lies: some file systems wait for the disk when a file is written anew
    for (size_t length = good.size(); length-- > 0;) {
      std::filesystem::resize_file(path, length);
      CAPTURE(length);
      CHECK(refusal(path).find("[safetensors]") == 0);
    }
    put(path, good);
    for (size_t at = 0; at < good.size(); ++at)
      for (const char change : {'\0', '"', '[', '9', '-', '\xff'}) {
        std::string bad = good;
        bad[at] = change;
        std::fstream(path, std::ios::in | std::ios::out | std::ios::binary) << bad;
        try {
          const SafetensorsFile file(path);
          size_t sum = 0;
          for (const std::string& name : file.names()) {
            const RawTensor x = file.read(name);
            for (size_t i = 0; i < x.bytes; ++i) sum += size_t(x.data[i]);
          }
          CHECK(sum > 0);
        } catch (const Error&) {}
      }
  }

  TEST_CASE("a file that is cut between opening and reading is refused, and what is still there is read") {
    Folder folder;
    const std::string path = folder.file("a.safetensors");
    const std::vector<float> x(100'000, 1.5f);   // many pages: a mapping would end the process
    write_safetensors(path, {{"a", raw("F32", {10}, std::vector<float>(10, 2.5f))}, {"x", raw("F32", {100'000}, x)}});
    const SafetensorsFile file(path);
    const auto size = fs::file_size(path);
    const uint64_t begin = file.at("x").at;
    for (const uint64_t left : {uint64_t(size - 1), begin + 4096, begin}) {
      fs::resize_file(path, left);
      CAPTURE(left);
      CHECK_THROWS_WITH_AS(file.read("x"),
                           ("[safetensors] " + path + " ends at byte " + std::to_string(left) + ", needs " + std::to_string(size - left) +
                            " more; it was cut while it was read").c_str(),
                           Error);
      CHECK(*reinterpret_cast<const float*>(file.read("a").data) == 2.5f);
    }
    fs::resize_file(path, size);   // a hole where the numbers were
    CHECK(*reinterpret_cast<const float*>(file.read("x").data) == 0);
  }

  TEST_CASE("missing files, folders, pipes and tensors") {
    Folder folder;
    CHECK(refusal(folder.file("none")) == "[safetensors] " + folder.file("none") +
                                              " cannot be opened (No such file or directory), needs to be there and readable");
    CHECK(refusal(folder.at.string()) == "[safetensors] " + folder.at.string() + " is a directory, needs to be a regular file");
    const std::string pipe = folder.file("pipe");
    REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
    CHECK(refusal(pipe) == "[safetensors] " + pipe + " is a pipe, needs to be a regular file");
    const std::string path = folder.file("a.safetensors");
    const std::vector<float> x{1};
    write_safetensors(path, {{"x", raw("F32", {1}, x)}});
    const SafetensorsFile file(path);
    CHECK_THROWS_WITH_AS(file.at("y"), ("[safetensors] " + path + " has no tensor 'y', needs one; it holds x").c_str(), Error);
  }

  TEST_CASE("what cannot be written is refused before the old file is touched") {
    Folder folder;
    const std::string p = folder.file("a.safetensors");
    const std::vector<float> x{1};
    write_safetensors(p, {{"x", raw("F32", {1}, x)}});
    const std::string before = get(p);
    const auto says = [&](const std::vector<SafetensorsEntry>& entries, const std::map<std::string, std::string>& metadata,
                          const std::string& sentence) {
      std::string got = "accepted";
      try {
        write_safetensors(p, entries, metadata);
      } catch (const Error& error) { got = error.what(); }
      CHECK(got == "[write_safetensors] " + sentence);
      CHECK(get(p) == before);
      CHECK(std::distance(fs::directory_iterator(folder.at), {}) == 1);
    };
    says({{"x", raw("F32", {1}, x)}, {"x", raw("F32", {1}, x)}}, {}, "tensor 'x' for " + p + " is there twice, needs one entry a name");
    says({{"x", raw("F32", {2}, x)}}, {}, "tensor 'x' for " + p + " has 4 bytes, needs 8 for its shape and dtype F32");
    says(
        {{"x", raw("f32", {1}, x)}}, {},
        "the dtype of tensor 'x' for " + p + " is 'f32', needs one of F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL");
    says({{"x", raw("F32", {-1}, x)}}, {}, "a size of tensor 'x' for " + p + " is -1, needs at least 0");
    says({{"x", {"F32", {1}, nullptr, 4}}}, {}, "the data of tensor 'x' for " + p + " is null, needs 4 bytes");
    says({{"__metadata__", raw("F32", {1}, x)}}, {},
         "a tensor for " + p + " is named '__metadata__', needs another name; that one is reserved");
    says({{"\xff", raw("F32", {1}, x)}}, {}, "a name or a metadata text for " + p + " is not UTF-8, needs to be");
    says({}, {{"k", "\xff"}}, "a name or a metadata text for " + p + " is not UTF-8, needs to be");
    CHECK_THROWS_AS(write_safetensors(folder.file("no/such/folder.safetensors"), {}), Error);
  }
}
