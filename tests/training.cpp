// `ttr train` as a user drives it: configuration files, resuming to the bit, hostile disks, signals. The model is as small as models get.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <ttr/apps/documents.hpp>
#include <ttr/core/device_kernel.hpp>
#include <ttr/core/error.hpp>
#include <ttr/core/safetensors.hpp>

namespace {

using namespace ttr;
using Json = nlohmann::json;
namespace fs = std::filesystem;
using Words = std::vector<std::string>;

struct Folder {   // of one test, gone after it
  fs::path path;
  Folder() {
    std::string name = (fs::temp_directory_path() / "ttr_training_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
    std::string text;
    for (int i = 0; i < 60; ++i) text += "the cat sat on mat " + std::to_string(i * i % 97) + "; ";
    std::ofstream((*this) / "text") << text;
  }
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
};

std::string bytes_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The program as a child; `prepare` runs in it before the program does.
struct Child {
  pid_t id = -1;
  std::string out, err;
  template <class F> Child(const Folder& folder, const Words& words, F&& prepare) : out(folder / "stdout"), err(folder / "stderr") {
    std::vector<char*> arguments{const_cast<char*>("ttr")};
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    std::fflush(nullptr);   // the child must not write what is still held here
    id = fork();
    REQUIRE(id >= 0);
    if (id > 0) return;
    if (!freopen(out.c_str(), "w", stdout) || !freopen(err.c_str(), "w", stderr) || !freopen("/dev/null", "r", stdin)) _exit(99);
    prepare();
    execv(TTR_PROGRAM, arguments.data());
    _exit(98);
  }
  int wait() {   // the exit code, or minus the signal
    int status = 0;
    waitpid(id, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
};

struct Ran {
  int code;
  std::string out, err;
};
template <class F> Ran ttr_run(const Folder& folder, const Words& words, F&& prepare) {
  Child child(folder, words, prepare);
  const int code = child.wait();
  return {code, bytes_of_file(child.out), bytes_of_file(child.err)};
}
Ran ttr_run(const Folder& folder, const Words& words) {
  return ttr_run(folder, words, [] { setenv("TTR_THREADS", "1", 1); });
}

Words joined(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}
Words tiny(const Folder& folder, const Words& more) {
  Words words{"train"};
  for (const auto& [option, value] : std::vector<std::pair<std::string, std::string>>{{"--recipe", "softmax_attention"}, {"--batch", "2"}, {"--context", "8"},
                                                                                      {"--dim", "8"}, {"--blocks", "1"}, {"--heads", "1"}, {"--warmup", "2"},
                                                                                      {"--log-every", "1"}, {"--eval-every", "5"}, {"--data", folder / "text"}})
    if (std::find(more.begin(), more.end(), option) == more.end()) words.push_back(option), words.push_back(value);
  return joined(words, more);
}

void check_sentence(const Ran& ran, int code, const Words& says) {
  CAPTURE(ran.err);
  CHECK(ran.code == code);
  std::istringstream lines(ran.err);   // after the progress of steps that went well
  std::string sentence;
  for (std::string line; std::getline(lines, line); sentence = line) CHECK(sentence.substr(0, 1) != "[");
  CHECK(sentence.substr(0, 1) == "[");
  CHECK(sentence.find(".cpp") == std::string::npos);
  for (const std::string& words : says) {
    CAPTURE(words);
    CHECK(sentence.find(words) != std::string::npos);
  }
}

std::vector<Json> metrics_in(const std::string& run) {
  std::ifstream lines(run + "/metrics.jsonl");
  std::vector<Json> metrics;
  for (std::string line; std::getline(lines, line);) {
    metrics.push_back(Json::parse(line));
    metrics.back().erase("tokens_per_s");   // the one thing that is a time
  }
  return metrics;
}

void check_equal_runs(const std::string& a, const std::string& b) {
  CHECK(bytes_of_file(a + "/last.safetensors") == bytes_of_file(b + "/last.safetensors"));
  CHECK(bytes_of_file(a + "/best.safetensors") == bytes_of_file(b + "/best.safetensors"));
  CHECK(metrics_in(a) == metrics_in(b));
  CHECK(!metrics_in(a).empty());
}

void write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

int64_t steps_in(const std::string& checkpoint) {
  const SafetensorsFile file(checkpoint);
  int64_t counters[3];
  REQUIRE(file.at("optimizer.step").bytes == sizeof counters);
  std::memcpy(counters, file.read("optimizer.step").data, sizeof counters);
  return counters[0];
}

}  // namespace

TEST_SUITE("training") {

TEST_CASE("N + M steps are N steps, a stop and M steps, bit for bit") {
  const Folder folder;
  for (const Words& options : {Words{}, Words{"--dropout", "0.1", "--ema", "0.9", "--accumulate", "2", "--optimizer", "momentum"},
                               Words{"--optimizer", "muon", "--ema", "0.9"}}) {
    const Words whole = joined(tiny(folder, {"--steps", "20", "--out", folder / "whole"}), options);
    const Ran all = ttr_run(folder, whole);
    CAPTURE(all.err);
    REQUIRE(all.code == 0);
    REQUIRE(ttr_run(folder, joined(tiny(folder, {"--steps", "10", "--out", folder / "parts", "--schedule-steps", "20"}), options)).code == 0);
    CHECK(steps_in(folder / "parts/last.safetensors") == 10);
    const Ran rest = ttr_run(folder, {"train", "--resume", folder / "parts", "--steps", "20"});
    CAPTURE(rest.err);
    REQUIRE(rest.code == 0);
    CHECK(rest.out.find("resumed after step 10 of 20") != std::string::npos);
    check_equal_runs(folder / "whole", folder / "parts");
    // nothing is left to do, and it says the same
    const Ran again = ttr_run(folder, {"train", "--resume", folder / "parts"});
    CAPTURE(again.err);
    CHECK(again.code == 0);
    check_equal_runs(folder / "whole", folder / "parts");
    fs::remove_all(folder / "whole");
    fs::remove_all(folder / "parts");
  }
}

TEST_CASE("the saved configuration reproduces the run, and flags override it") {
  const Folder folder;
  REQUIRE(ttr_run(folder, tiny(folder, {"--steps", "10", "--lr", "0.01", "--schedule", "cosine", "--out", folder / "first"})).code == 0);
  const std::string config = folder / "first/config.toml";
  REQUIRE(ttr_run(folder, {"train", "--config", config, "--out", folder / "second"}).code == 0);
  check_equal_runs(folder / "first", folder / "second");
  REQUIRE(ttr_run(folder, {"train", "--config", config, "--seed", "2", "--recipe", "linear_attention", "--core-only", "--out", folder / "third"}).code == 0);
  CHECK(metrics_in(folder / "third") != metrics_in(folder / "first"));
  const std::string third = bytes_of_file(folder / "third/config.toml");
  for (const char* line : {"recipe = \"linear_attention\"\n", "ingredients = \"even / linear / descend[at=initial]\"\n", "seed = 2\n", "core_only = true\n",
                           "schedule = \"cosine\"\n", "eval_every = 5\n", "steps = 10\n"}) {
    CAPTURE(line);
    CHECK(third.find(line) != std::string::npos);
  }
  check_sentence(ttr_run(folder, {"train", "--config", config}), 1, {"first is not empty", "--resume"});
}

TEST_CASE("what is wrong in a configuration is one sentence with its line") {
  const Folder folder;
  const std::string file = folder / "c.toml";
  struct Wrong {
    std::string text;
    Words says;
  };
  for (const Wrong& w : std::vector<Wrong>{
           {"steps = 10\nstesp = 20\n", {"stesp in line 2 of " + file + " is unknown", "did you mean steps?"}},
           {"\nsteps = \"ten\"\n", {"steps in line 2 of", "is \"ten\", needs a whole number of at least 1"}},
           {"steps = 0\n", {"steps in line 1 of", "is 0, needs a whole number of at least 1"}},
           {"steps = 1.5\n", {"steps in line 1 of", "is 1.5, needs a whole number"}},
           {"lr = -1\n", {"lr in line 1", "is -1, needs a number of at least 0"}},
           {"lr = nan\n", {"lr in line 1", "is nan, needs a number of at least 0"}},
           {"ema = 1.0\n", {"ema in line 1", "needs a number of at least 0 and below 1"}},
           {"core_only = 1\n", {"core_only in line 1", "is 1, needs true or false"}},
           {"schedule = \"linear\"\n", {"schedule in line 1", "is \"linear\", needs constant, cosine or wsd"}},
           {"[model]\ndim = 3\n", {"model in line 1", "is unknown"}},
           {"dim = [1, 2]\n", {"dim in line 1", "is an array, needs a whole number"}},
           {"dim = 3\ndim = 4\n", {"line 2 of", "is no TOML"}},
           {"dim = \n", {"line 1 of", "is no TOML"}},
           {"recipe = \"delta_nett\"\n", {"'delta_nett'", "did you mean 'delta_net'?"}},
           {"recipe = \"delta_net\"\ningredients = \"even / mlp / descend\"\n", {"ingredients is even / mlp / descend, needs even / linear / descend"}},
           {"schedule = \"cosine\"\nsteps = 20\nwarmup = 100\n", {"--steps is 20, needs more than the 100 steps of --warmup", "give a smaller --warmup"}},
           {"batch = 2\naccumulate = 3\n", {"--accumulate is 3, needs at most the batch of 2"}},
       }) {
    CAPTURE(w.text);
    write(file, w.text);
    check_sentence(ttr_run(folder, {"train", "--config", file, "--out", folder / "run"}), 1, w.says);
  }
  check_sentence(ttr_run(folder, {"train", "--config", folder / "none", "--out", folder / "run"}), 1, {"none cannot be opened"});
  check_sentence(ttr_run(folder, {"train", "--config", file, "--steps", "0"}), 2, {"--steps", "is 0, needs a whole number of at least 1"});
  check_sentence(ttr_run(folder, {"train", "--step", "3"}), 2, {"'--step' is unknown", "did you mean '--steps'?"});
  check_sentence(ttr_run(folder, {"train"}), 1, {"--out is missing"});
  CHECK(!fs::exists(folder / "run/config.toml"));
}

TEST_CASE("what cannot be resumed says why") {
  const Folder folder;
  const std::string run = folder / "run";
  REQUIRE(ttr_run(folder, tiny(folder, {"--steps", "10", "--keep", "2", "--save-every", "3", "--out", run})).code == 0);
  CHECK(fs::exists(run + "/step-00000009.safetensors"));
  CHECK(fs::exists(run + "/step-00000010.safetensors"));
  CHECK(!fs::exists(run + "/step-00000006.safetensors"));
  CHECK(steps_in(run + "/step-00000009.safetensors") == 9);

  check_sentence(ttr_run(folder, {"train", "--resume", run, "--steps", "5"}), 1, {"--steps is 5, needs at least 10"});
  check_sentence(ttr_run(folder, {"train", "--resume", run, "--dim", "16"}), 1, {"--dim is 16, needs 8", "a resumed run keeps it"});
  check_sentence(ttr_run(folder, {"train", "--resume", run, "--out", folder / "x"}), 1, {"--out is given with --resume"});
  check_sentence(ttr_run(folder, {"train", "--resume", run, "--config", run + "/config.toml"}), 1, {"--config is given with --resume"});
  check_sentence(ttr_run(folder, {"train", "--resume", folder / "nothing"}), 1, {"nothing is not there"});
  fs::create_directory(folder / "empty");
  check_sentence(ttr_run(folder, {"train", "--resume", folder / "empty"}), 1, {"holds no config.toml and no last.safetensors"});

  // a truncated checkpoint is refused, and the one before it goes on
  const std::string whole = bytes_of_file(run + "/last.safetensors");
  for (const size_t left : {size_t(0), size_t(7), whole.size() / 2, whole.size() - 1}) {
    fs::remove(run + "/last.safetensors");   // not the numbered one, which may be the same file
    write(run + "/last.safetensors", whole.substr(0, left));
    check_sentence(ttr_run(folder, {"train", "--resume", run}), 1, {"last.safetensors"});
  }
  const Ran older = ttr_run(folder, {"train", "--resume", run + "/step-00000009.safetensors"});
  CAPTURE(older.err);
  CHECK(older.code == 0);
  CHECK(older.out.find("resumed after step 9 of 10") != std::string::npos);
  CHECK(bytes_of_file(run + "/last.safetensors") == whole);

  // an edited configuration that is no longer the checkpoint's
  std::string config = bytes_of_file(run + "/config.toml");
  config.replace(config.find("dim = 8"), 7, "dim = 9");
  write(run + "/config.toml", config);
  check_sentence(ttr_run(folder, {"train", "--resume", run}), 1, {"dim is 9 in", "needs 8 as in"});
  // the checkpoint alone is enough
  fs::remove(run + "/config.toml");
  fs::remove(run + "/metrics.jsonl");
  CHECK(ttr_run(folder, {"train", "--resume", run, "--steps", "12"}).code == 0);
  CHECK(steps_in(run + "/last.safetensors") == 12);
  CHECK(metrics_in(run).size() == 2);
}

TEST_CASE("a full disk is one sentence, and the previous checkpoint loads") {
  const Folder folder;
  const std::string run = folder / "run";
  REQUIRE(ttr_run(folder, tiny(folder, {"--steps", "5", "--out", run})).code == 0);
  const std::string before = bytes_of_file(run + "/last.safetensors");
  const auto full = [&](rlim_t bytes) {
    return ttr_run(folder, {"train", "--resume", run, "--steps", "10"}, [bytes] {
      const rlimit most{bytes, bytes};
      setrlimit(RLIMIT_FSIZE, &most);
    });
  };
  for (const rlim_t bytes : {rlim_t(4096), rlim_t(before.size() - 100)}) {
    const Ran ran = full(bytes);
    check_sentence(ran, 1, {"cannot be written"});
    CHECK(bytes_of_file(run + "/last.safetensors") == before);
    for (const auto& entry : fs::directory_iterator(run)) CHECK(entry.path().string().find("partial") == std::string::npos);
  }
  CHECK(ttr_run(folder, {"train", "--resume", run, "--steps", "10"}).code == 0);
  CHECK(steps_in(run + "/last.safetensors") == 10);

  check_sentence(ttr_run(folder, tiny(folder, {"--out", "/proc/ttr"})), 1, {"--out /proc/ttr cannot be made"});
  check_sentence(ttr_run(folder, tiny(folder, {"--out", folder / "text"})), 1, {"is a file, needs a new or empty folder"});
  if (geteuid() != 0) {
    fs::create_directory(folder / "shut");
    fs::permissions(folder / "shut", fs::perms::owner_read | fs::perms::owner_exec);
    check_sentence(ttr_run(folder, tiny(folder, {"--out", folder / "shut"})), 1, {"cannot be written to"});
  }
}

TEST_CASE("Ctrl-C saves and exits with 130, and the run goes on") {
  const Folder folder;
  const std::string run = folder / "run";
  Child child(folder, tiny(folder, {"--steps", "1000000", "--eval-every", "1000000", "--out", run}), [] { setenv("TTR_THREADS", "1", 1); });
  for (int tries = 0; tries < 1000 && !(fs::exists(run + "/metrics.jsonl") && fs::file_size(run + "/metrics.jsonl") > 200); ++tries) usleep(10'000);
  check_sentence(ttr_run(folder, {"train", "--resume", run}), 1, {"another process is training in"});
  kill(child.id, SIGINT);
  CHECK(child.wait() == 130);
  const int64_t steps = steps_in(run + "/last.safetensors");
  CHECK(steps >= 3);
  CHECK(metrics_in(run).size() == size_t(steps));
  CHECK(ttr_run(folder, {"train", "--resume", run, "--steps", std::to_string(steps + 1)}).code == 0);
  CHECK(metrics_in(run).size() == size_t(steps) + 1);
}

TEST_CASE("a loss that is not finite stops with the tensor's name and leaves the last good checkpoint") {
  const Folder folder;
  const std::string run = folder / "run";
  REQUIRE(ttr_run(folder, tiny(folder, {"--steps", "5", "--optimizer", "sgd", "--out", run})).code == 0);
  const std::string before = bytes_of_file(run + "/last.safetensors");
  const Ran ran = ttr_run(folder, {"train", "--resume", run, "--steps", "50", "--lr", "1e30", "--clip", "0"});
  check_sentence(ran, 1, {"step 7 has loss ", "needs both finite: the gradient of ", "weight is nan", "lower --lr",
                          "the checkpoint of step 5 is " + run + "/last.safetensors"});
  CHECK(bytes_of_file(run + "/last.safetensors") == before);
}

TEST_CASE("a batch in pieces is the batch, also when documents leave unlike numbers of targets") {
  const Folder folder;
  std::string text;
  for (int i = 0; i < 200; ++i) text += std::string(size_t(1 + i * 7 % 23), char('a' + i % 5)) + "\n\n";
  write(folder / "text", text);
  const Documents documents = split_documents(text, "\n\n");
  const auto size = int64_t(documents.bytes.size()), first = size - size / 10;
  int64_t targets = 0;
  for (int64_t i = first; i + 1 < size; ++i) targets += documents.document_of(i) == documents.document_of(i + 1);
  const std::string expected = "nats per byte over " + std::to_string(targets) + " targets";
  const auto run = [&](const std::string& name, const std::string& pieces) {
    const Ran ran = ttr_run(folder, tiny(folder, {"--steps", "10", "--batch", "6", "--documents", "\n\n", "--dtype", "f64", "--dropout", "0.2",
                                                  "--accumulate", pieces, "--recipe", "delta_net", "--out", folder / name}));
    CAPTURE(ran.err);
    REQUIRE(ran.code == 0);
    CHECK(ran.out.find("200 documents without their separators, packed") != std::string::npos);
    CHECK(ran.out.find(expected) != std::string::npos);
    return metrics_in(folder / name);
  };
  const auto one = run("one", "1");
  for (const char* pieces : {"2", "4", "6"}) {
    const auto other = run(std::string("of") + pieces, pieces);
    REQUIRE(other.size() == one.size());
    for (size_t i = 0; i < one.size(); ++i)
      for (const char* key : {"loss", "grad_norm"})
        CHECK(other[i].at(key).get<double>() == doctest::Approx(one[i].at(key).get<double>()).epsilon(1e-10));
  }
}

TEST_CASE("documents are what stands between separators") {
  const Documents d = split_documents("ab--cde----f", "--");
  CHECK(d.bytes == "abcdef");
  CHECK(d.ends == std::vector<int64_t>{2, 5, 6});
  CHECK(d.document_of(0) == 0);
  CHECK(d.document_of(1) == 0);
  CHECK(d.document_of(2) == 1);
  CHECK(d.document_of(5) == 2);
  CHECK(split_documents("abc", "").ends == std::vector<int64_t>{3});
  CHECK_THROWS_AS((void)split_documents("abc", "x"), Error);
  CHECK_THROWS_AS((void)split_documents("xx", "x"), Error);
}

TEST_CASE("an average of the weights is kept, evaluated and sampled") {
  const Folder folder;
  const Words options{"--steps", "20", "--lr", "0.05"};
  REQUIRE(ttr_run(folder, tiny(folder, joined(options, {"--out", folder / "plain"}))).code == 0);
  REQUIRE(ttr_run(folder, tiny(folder, joined(options, {"--ema", "0.9", "--out", folder / "ema"}))).code == 0);
  const auto plain = metrics_in(folder / "plain"), ema = metrics_in(folder / "ema");
  REQUIRE(plain.size() == ema.size());
  for (size_t i = 0; i < plain.size(); ++i) {
    CHECK(plain[i].at("loss") == ema[i].at("loss"));   // training does not see it
    if (!plain[i].at("val_loss").is_null()) CHECK(plain[i].at("val_loss") != ema[i].at("val_loss"));
  }
  const SafetensorsFile file(folder / "ema/last.safetensors");
  CHECK(file.has("optimizer.average.embed.weight"));
  CHECK(std::memcmp(file.read("optimizer.average.embed.weight").data, file.read("embed.weight").data, file.at("embed.weight").bytes) != 0);
  const auto sample = [&](const char* run) { return ttr_run(folder, {"sample", "--from", folder / run, "--tokens", "30", "--temperature", "1"}); };
  CHECK(sample("ema").code == 0);
  CHECK(sample("ema").out != sample("plain").out);
}

TEST_CASE("a profile is a table of operations") {
  const Folder folder;
  const Ran ran = ttr_run(folder, tiny(folder, {"--steps", "6", "--profile", "3", "--out", folder / "run"}));
  CAPTURE(ran.err);
  CHECK(ran.code == 0);
  for (const char* words : {"profile of 3 steps", "matmul 16x8x256", "softmax_attention", "forward", "backward", "update", "between operations",
                            "matrix products, also those inside kernels"})
    CHECK(ran.out.find(words) != std::string::npos);
}

}

TEST_SUITE("slow_training") {

TEST_CASE("200 kills at random moments lose nothing") {
  const Folder folder;
  const Words run{"--steps", "2000", "--eval-every", "100", "--save-every", "5", "--keep", "2", "--ema", "0.9"};
  const auto timed = [](auto&& f) {
    const auto from = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - from).count();
  };
  const double start = timed([&] { REQUIRE(ttr_run(folder, tiny(folder, {"--steps", "1", "--out", folder / "start"})).code == 0); });
  const double whole = timed([&] { REQUIRE(ttr_run(folder, tiny(folder, joined(run, {"--out", folder / "whole"}))).code == 0); });
  const auto latest = uint32_t(1.5 * start + whole / 40);   // microseconds: some kills come before the first step, most among the steps
  std::mt19937 random(1);
  const std::string broken = folder / "broken";
  int kills = 0;
  bool done = false;
  for (int starts = 0; starts < 4000 && !(done && kills >= 200); ++starts) {
    if (done) fs::remove_all(broken), done = false;   // once more from the start, until there were enough
    const bool begun = fs::exists(broken + "/config.toml");
    const Words words = begun ? Words{"train", "--resume", broken} : tiny(folder, joined(run, {"--out", broken}));
    Child child(folder, words, [] { setenv("TTR_THREADS", "1", 1); });
    usleep(useconds_t(random() % latest));
    kill(child.id, SIGKILL);
    const int code = child.wait();
    if (code == -SIGKILL) {
      ++kills;
      continue;
    }
    CAPTURE(bytes_of_file(child.err));
    REQUIRE(code == 0);
    done = true;
    check_equal_runs(folder / "whole", broken);
  }
  CHECK(kills >= 200);
  if (!done) REQUIRE(ttr_run(folder, {"train", "--resume", broken}).code == 0);
  check_equal_runs(folder / "whole", broken);
}

}

#if TTR_WITH_CUDA
TEST_SUITE("cuda_training") {

TEST_CASE("on the GPU N + M steps are N, a stop and M, and a captured graph's steps are the plain ones, bit for bit") {
  if (cuda::device_count() == 0) {
    MESSAGE("skipped: " << std::string(cuda::device_problem()));
    return;
  }
  const Folder folder;
  for (const char* dtype : {"f32", "bf16"})
    for (const auto& [recipe, optimizer] : {std::pair{"softmax_attention", "adamw"}, std::pair{"gated_delta_net", "muon"}}) {
      CAPTURE(dtype);
      CAPTURE(recipe);
      const Words options{"--device", "cuda", "--dtype", dtype, "--recipe", recipe, "--optimizer", optimizer, "--dim", "64",
                          "--heads", "2", "--blocks", "2", "--batch", "4", "--context", "64", "--dropout", "0.1", "--ema", "0.9",
                          "--accumulate", "2", "--schedule-steps", "40"};
      const Ran whole = ttr_run(folder, tiny(folder, joined(options, {"--steps", "40", "--out", folder / "whole"})));
      CAPTURE(whole.err);
      REQUIRE(whole.code == 0);
      CHECK(whole.out.find("steps: replays of a captured CUDA graph") != std::string::npos);
      REQUIRE(ttr_run(folder, tiny(folder, joined(options, {"--steps", "20", "--out", folder / "parts"}))).code == 0);
      REQUIRE(ttr_run(folder, {"train", "--resume", folder / "parts", "--steps", "40"}).code == 0);
      check_equal_runs(folder / "whole", folder / "parts");

      // steps that are timed are not captured
      const Ran timed = ttr_run(folder, tiny(folder, joined(options, {"--steps", "40", "--profile", "40", "--out", folder / "plain"})));
      REQUIRE(timed.code == 0);
      CHECK(timed.out.find("captured") == std::string::npos);
      CHECK(timed.out.find("profile of 39 steps") != std::string::npos);
      CHECK(metrics_in(folder / "plain") == metrics_in(folder / "whole"));
      const SafetensorsFile a(folder / "plain/last.safetensors"), b(folder / "whole/last.safetensors");
      REQUIRE(a.names() == b.names());
      for (const std::string& name : a.names()) {
        CAPTURE(name);
        REQUIRE(a.at(name).bytes == b.at(name).bytes);
        CHECK(std::memcmp(a.read(name).data, b.read(name).data, a.at(name).bytes) == 0);
      }
      for (const char* run : {"whole", "parts", "plain"}) fs::remove_all(folder / run);
    }
  const Ran fold = ttr_run(folder, tiny(folder, {"--device", "cuda", "--recipe", "titans", "--steps", "2", "--out", folder / "fold"}));
  CAPTURE(fold.err);
  CHECK(fold.code == 0);
  CHECK(fold.out.find("steps: one operation after the other, because fold") != std::string::npos);
}

}
#else
TEST_SUITE("cuda_training") {
TEST_CASE("training on cuda") { MESSAGE("skipped: built without CUDA"); }
}
#endif
