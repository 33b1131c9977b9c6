// Where a step's time goes: while a Profile lives, every operation that this thread dispatches is timed under its name and the phase it ran
// in. Without one an operation pays one look at a thread_local pointer. On CUDA times are taken between events of the stream, so nothing
// waits; a step under a profile must not be captured.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>
#include <ttr/core/tensor.hpp>

namespace ttr {

class Profile {
 public:
  explicit Profile(Device);
  ~Profile();
  Profile(const Profile&) = delete;

  struct Row {
    std::string name, phase;
    int64_t calls = 0;
    double seconds = 0;
    double flops = 0;             // of the matrix products inside
    double product_seconds = 0;   // spent inside them; those of other operations: on average over the threads
  };
  std::vector<Row> rows();        // the slowest first; waits for the device
  double seconds();               // that it ran; waits for the device
  void pause();                   // from here on nothing is timed
  void resume();

  // Names what operations until its end belong to. "forward" where nothing else was said.
  class Phase {
   public:
    explicit Phase(const char* name);
    ~Phase();
    Phase(const Phase&) = delete;

   private:
    const char* before_;
  };

  void begin(const char* name);           // of an operation; those inside it are part of it
  void end();
  void detail(const std::string& text);   // of the next operation, such as its shape: it gets a row of its own
  void product(double flops);             // the next operation is a matrix product and nothing else

 private:
  struct Key {
    std::string name, phase;
    auto operator<=>(const Key&) const = default;
  };
  struct Pending { size_t row; bool product; void *from, *to; };
  size_t row_of(const std::string& name);
  void settle();

  Device device_;
  Profile* before_ = nullptr;
  bool running_ = false;
  double began_ = 0, ran_ = 0;    // seconds: when it last resumed, and before that
  int depth_ = 0;
  size_t row_ = 0;
  double from_ = 0;
  void* event_ = nullptr;
  std::string detail_;
  double product_flops_ = 0;
  std::array<int64_t, 2> products_{};     // flops and nanoseconds of the CPU's products when the operation began
  std::map<Key, size_t> at_;
  std::vector<Row> rows_;
  std::vector<Pending> pending_;
};

namespace detail {

extern constinit thread_local Profile* profile;

class Timed {
 public:
  explicit Timed(const char* name) : profile_(profile) { if (profile_) [[unlikely]] profile_->begin(name); }
  ~Timed() { if (profile_) [[unlikely]] profile_->end(); }
  Timed(const Timed&) = delete;

 private:
  Profile* profile_;
};

// Matrix products on the CPU, from whichever thread: counted while a Profile lives.
class TimedProduct {
 public:
  explicit TimedProduct(int64_t flops);
  ~TimedProduct();
  TimedProduct(const TimedProduct&) = delete;

 private:
  int64_t flops_, from_ = 0;
};

}  // namespace detail
}  // namespace ttr
