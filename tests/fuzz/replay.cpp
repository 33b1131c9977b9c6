// Runs a fuzz target over the files of its seed folders, without a fuzzer: a crash, a leak or an abort fails the test.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int count, char** folders) {
  int files = 0;
  for (int i = 1; i < count; ++i)
    for (const auto& entry : std::filesystem::directory_iterator(folders[i])) {
      std::ifstream file(entry.path(), std::ios::binary);
      const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
      for (const size_t size : {bytes.size(), bytes.size() / 2, bytes.size() * 9 / 10})   // whole, and cut short twice
        LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), size);
      ++files;
    }
  std::printf("%d seeds\n", files);
  return files > 0 ? 0 : 1;
}
