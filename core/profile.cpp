// Timing of operations, by steady clock or by events of the CUDA stream.
#include <ttr/core/profile.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <ttr/core/dispatch.hpp>
#include <ttr/core/parallel.hpp>

namespace ttr {
namespace {

thread_local const char* phase = "forward";
std::atomic<int> profiles{0};                        // alive in any thread
std::atomic<int64_t> product_flops{0}, product_nanoseconds{0};

int64_t nanoseconds() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }
double now() { return double(nanoseconds()) * 1e-9; }

void wait_for(Device device) {
  if constexpr (with_cuda)
    if (device.is_cuda()) must("profile", cuda::synchronise());
}

}  // namespace

namespace detail {

constinit thread_local Profile* profile = nullptr;

TimedProduct::TimedProduct(int64_t flops) : flops_(profiles.load(std::memory_order_relaxed) > 0 ? flops : 0) {
  if (flops_) [[unlikely]] from_ = nanoseconds();
}
TimedProduct::~TimedProduct() {
  if (!flops_) [[likely]] return;
  product_flops += flops_;
  product_nanoseconds += nanoseconds() - from_;
}

}  // namespace detail

Profile::Profile(Device device) : device_(device) { resume(); }
Profile::~Profile() {
  pause();
  settle();
}

void Profile::resume() {
  if (std::exchange(running_, true)) return;
  before_ = std::exchange(detail::profile, this);
  ++profiles;
  wait_for(device_);
  began_ = now();
}
void Profile::pause() {
  if (!std::exchange(running_, false)) return;
  wait_for(device_);
  ran_ += now() - began_;
  --profiles;
  detail::profile = before_;
}

Profile::Phase::Phase(const char* name) : before_(std::exchange(phase, name)) {}
Profile::Phase::~Phase() { phase = before_; }

size_t Profile::row_of(const std::string& name) {
  const auto [found, fresh] = at_.try_emplace({name, phase}, rows_.size());
  if (fresh) rows_.push_back({name, phase});
  return found->second;
}

void Profile::begin(const char* name) {
  if (depth_++ > 0) return;
  row_ = row_of(detail_.empty() ? name : std::string(name) + " " + detail_);
  detail_.clear();
  products_ = {product_flops, product_nanoseconds};
  if constexpr (with_cuda)
    if (device_.is_cuda()) event_ = cuda::event_record();
  from_ = now();
}

void Profile::end() {
  if (--depth_ > 0) return;
  Row& row = rows_[row_];
  const double known = std::exchange(product_flops_, 0);
  ++row.calls;
  row.flops += known > 0 ? known : double(product_flops - products_[0]);
  if (device_.is_cuda()) {
    if constexpr (with_cuda) pending_.push_back({row_, known > 0, event_, cuda::event_record()});
    if (pending_.size() > 4096) settle();
    return;
  }
  const double took = now() - from_;
  row.seconds += took;
  row.product_seconds += known > 0 ? took : double(product_nanoseconds - products_[1]) * 1e-9 / double(thread_count());
}

void Profile::detail(const std::string& text) { detail_ = text; }
void Profile::product(double flops) { product_flops_ = flops; }

void Profile::settle() {
  if constexpr (with_cuda)
    for (const Pending& p : pending_) {
      const double took = cuda::event_milliseconds(p.from, p.to) * 1e-3;
      rows_[p.row].seconds += took;
      if (p.product) rows_[p.row].product_seconds += took;
      cuda::event_release(p.from), cuda::event_release(p.to);
    }
  pending_.clear();
}

std::vector<Profile::Row> Profile::rows() {
  settle();
  std::vector<Row> sorted = rows_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
  return sorted;
}

double Profile::seconds() {
  if (!running_) return ran_;
  wait_for(device_);
  return ran_ + now() - began_;
}

}  // namespace ttr
