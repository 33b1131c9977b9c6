// CPU fills: whole Philox blocks, many at a time, so that the ten rounds run in vector registers.
#include <ttr/core/random.hpp>

#include <algorithm>
#include <ttr/core/parallel.hpp>

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TTR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TTR_CLONES
#endif

namespace ttr {
namespace {

constexpr int kBatch = 32;              // blocks computed together
constexpr int64_t kGrain = 16 * 1024;   // elements a thread is worth waking for

// at[word][block], the same words as philox(key, first + block).
struct Batch {
  uint32_t at[4][kBatch];
};

TTR_CLONES void philox_batch(Key key, uint64_t first, Batch& words) {
  auto& [c0, c1, c2, c3] = words.at;
  for (int i = 0; i < kBatch; ++i) {
    c0[i] = uint32_t(first + uint64_t(i));
    c1[i] = uint32_t((first + uint64_t(i)) >> 32);
    c2[i] = uint32_t(key.stream);
    c3[i] = uint32_t(key.stream >> 32);
  }
  uint32_t key0 = uint32_t(key.seed), key1 = uint32_t(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kBatch; ++i) {
      const uint64_t p0 = uint64_t(0xD2511F53u) * c0[i], p1 = uint64_t(0xCD9E8D57u) * c2[i];
      c0[i] = uint32_t(p1 >> 32) ^ c1[i] ^ key0;
      c1[i] = uint32_t(p1);
      c2[i] = uint32_t(p0 >> 32) ^ c3[i] ^ key1;
      c3[i] = uint32_t(p0);
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// Elements [offset, offset + n), `per` of them a block: make(words of one block, where its elements go).
template <int per, class T, class Make> void fill(Key key, int64_t offset, T* out, int64_t n, Make make) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
    const uint64_t from = uint64_t(offset + begin), to = uint64_t(offset + end);
    Batch words;
    T values[kBatch * per];
    for (uint64_t block = from / per; block * per < to; block += kBatch) {
      philox_batch(key, block, words);
      for (int i = 0; i < kBatch; ++i) make(Words{{words.at[0][i], words.at[1][i], words.at[2][i], words.at[3][i]}}, values + i * per);
      const uint64_t first = std::max(from, block * per), last = std::min(to, (block + kBatch) * per);
      std::copy(values + (first - block * per), values + (last - block * per), out + (first - uint64_t(offset)));
    }
  });
}

}  // namespace

template <> void fill_uniform<float>(Key key, int64_t offset, float* out, int64_t n, float low, float high) {
  fill<4>(key, offset, out, n, [=](Words words, float* at) {
    for (int i = 0; i < 4; ++i) at[i] = between(low, high, uniform_of(words.at[i]));
  });
}

template <> void fill_uniform<double>(Key key, int64_t offset, double* out, int64_t n, double low, double high) {
  fill<2>(key, offset, out, n, [=](Words words, double* at) {
    for (int i = 0; i < 2; ++i) at[i] = between(low, high, uniform_of(words.at[2 * i], words.at[2 * i + 1]));
  });
}

template <> void fill_normal<float>(Key key, int64_t offset, float* out, int64_t n, float mean, float deviation) {
  fill<4>(key, offset, out, n, [=](Words words, float* at) {
    for (int i = 0; i < 4; i += 2) {
      const Pair<float> pair = normals_of(words.at[i], words.at[i + 1]);
      at[i] = mean + deviation * pair.first;
      at[i + 1] = mean + deviation * pair.second;
    }
  });
}

template <> void fill_normal<double>(Key key, int64_t offset, double* out, int64_t n, double mean, double deviation) {
  fill<2>(key, offset, out, n, [=](Words words, double* at) {
    const Pair<double> pair = normals_of(words);
    at[0] = mean + deviation * pair.first;
    at[1] = mean + deviation * pair.second;
  });
}

template <class T> void fill_keep(Key key, int64_t offset, T* out, int64_t n, float probability, T kept) {
  fill<4>(key, offset, out, n, [=](Words words, T* at) {
    for (int i = 0; i < 4; ++i) at[i] = keep(words.at[i], probability) ? kept : T(0);
  });
}

template void fill_keep<float>(Key, int64_t, float*, int64_t, float, float);
template void fill_keep<double>(Key, int64_t, double*, int64_t, float, double);

}  // namespace ttr
