// Random numbers without state: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
//   words(key, block) = philox(counter = (block, stream), key = seed)        4 words of 32 bits a block
//
//   uniform<float>   element i is word i % 4 of block i / 4, its upper 24 bits
//   uniform<double>  element i is words 2 (i % 2), 2 (i % 2) + 1 of block i / 2, 53 bits
//   normal           Box-Muller on neighbours: sqrt(-2 log u) cos(2 pi w) for even i, sin for odd i
//
// Element i depends on (seed, stream, i) alone: not on threads, launches or how a fill is split. Integers and uniforms, also between two
// bounds, are the same bits on CPU and GPU; normals agree to rounding, because logarithm and sine are not correctly rounded on either.
#pragma once
#include <cmath>
#include <ttr/core/border.hpp>

namespace ttr {

struct Key {
  uint64_t seed = 0;
  uint64_t stream = 0;   // another stream is another, independent sequence
};

struct Words {
  uint32_t at[4];
};

template <class T> inline constexpr int kPerBlock = sizeof(T) == 8 ? 2 : 4;   // elements of T a block of words gives

TTR_BOTH Words philox4x32(Words counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * counter.at[0], p1 = uint64_t(0xCD9E8D57u) * counter.at[2];
    counter = {{uint32_t(p1 >> 32) ^ counter.at[1] ^ key0, uint32_t(p1), uint32_t(p0 >> 32) ^ counter.at[3] ^ key1, uint32_t(p0)}};
    key0 += 0x9E3779B9u;   // the golden ratio
    key1 += 0xBB67AE85u;   // sqrt(3) - 1
  }
  return counter;
}

TTR_BOTH Words philox(Key key, uint64_t block) {
  return philox4x32({{uint32_t(block), uint32_t(block >> 32), uint32_t(key.stream), uint32_t(key.stream >> 32)}}, uint32_t(key.seed),
                    uint32_t(key.seed >> 32));
}

// [0, 1)
TTR_BOTH float uniform_of(uint32_t word) { return float(word >> 8) * 0x1p-24f; }
TTR_BOTH double uniform_of(uint32_t low, uint32_t high) { return double((uint64_t(high) << 32 | low) >> 11) * 0x1p-53; }

// low + (high - low) u, written so that fusing the product with the sum, as one compiler does and another does not, changes no bit.
TTR_BOTH float between(float low, float high, float u) { return float(double(low) + double(high - low) * double(u)); }
TTR_BOTH double between(double low, double high, double u) { return std::fma(high - low, u, low); }

template <class T> struct Pair { T first, second; };

// Two normals from two uniforms; u in (0, 1], so that the logarithm is finite.
template <class T> TTR_BOTH Pair<T> box_muller(T u, T w) {
  const T radius = std::sqrt(T(-2) * std::log(u)), angle = T(6.283185307179586476925286766559) * w;
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

TTR_BOTH Pair<float> normals_of(uint32_t a, uint32_t b) {   // a in 32 bits: the tail reaches 6.7
  return box_muller((float(a) + 0.5f) * 0x1p-32f, uniform_of(b));
}
TTR_BOTH Pair<double> normals_of(Words words) {
  return box_muller(1.0 - uniform_of(words.at[0], words.at[1]), uniform_of(words.at[2], words.at[3]));
}

template <class T> TTR_BOTH T uniform(Key key, uint64_t i);
template <> TTR_BOTH float uniform<float>(Key key, uint64_t i) { return uniform_of(philox(key, i / 4).at[i % 4]); }
template <> TTR_BOTH double uniform<double>(Key key, uint64_t i) {
  const Words words = philox(key, i / 2);
  return uniform_of(words.at[2 * (i % 2)], words.at[2 * (i % 2) + 1]);
}

template <class T> TTR_BOTH T normal(Key key, uint64_t i);
template <> TTR_BOTH float normal<float>(Key key, uint64_t i) {
  const Words words = philox(key, i / 4);
  const Pair<float> pair = i % 4 < 2 ? normals_of(words.at[0], words.at[1]) : normals_of(words.at[2], words.at[3]);
  return i % 2 == 0 ? pair.first : pair.second;
}
template <> TTR_BOTH double normal<double>(Key key, uint64_t i) {
  const Pair<double> pair = normals_of(philox(key, i / 2));
  return i % 2 == 0 ? pair.first : pair.second;
}

// Whether dropout keeps element i; probability 1 keeps all, 0 none. The same elements for every dtype and on both devices.
TTR_BOTH bool keep(uint32_t word, float probability) { return uniform_of(word) < probability; }
TTR_BOTH bool keep(Key key, uint64_t i, float probability) { return keep(philox(key, i / 4).at[i % 4], probability); }

namespace cuda {  // T: float, double, bf16; bf16 is the float sequence, rounded. out[i] is element offset + i of the key's sequence
template <class T> Status fill_uniform(Key, int64_t offset, T* out, int64_t n, Wide<T> low, Wide<T> high, Stream);
template <class T> Status fill_normal(Key, int64_t offset, T* out, int64_t n, Wide<T> mean, Wide<T> deviation, Stream);
template <class T>
Status fill_keep(Key, int64_t offset, T* out, int64_t n, float probability, Wide<T> kept, Stream);   // kept where dropout keeps, else 0
// x kept where it keeps, else 0. seed: where on the device the key's seed stands; null: in the key.
template <class T>
Status dropout(Key, int64_t offset, const T* x, T* y, int64_t n, float probability, Wide<T> kept, Stream, const uint64_t* seed = nullptr);
}  // namespace cuda

}  // namespace ttr
