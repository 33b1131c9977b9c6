// Wrong inputs to every subcommand: one sentence on standard error, `[where] name is GOT, needs WANT; hint`, nothing written, and the exit code
//   2 the command line is not understood   1 it is understood and refused
// A part of them is written by hand; the rest are bad values for whatever options `--help` lists, so that a new option is tried too.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>
#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Words = std::vector<std::string>;

struct Ran {
  int code = -1;   // minus the signal that ended it; -1000: it did not end
  std::string out, err;
};

constexpr int kHangs = -1000;
constexpr auto kPatience = std::chrono::seconds(60);   // a machine may be busy; nothing here takes a second of its own

Ran ttr(const std::string& folder, const Words& words, const Words& environment = {}) {
  std::vector<char*> arguments{const_cast<char*>("ttr")}, variables;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  for (const std::string& variable : environment) variables.push_back(const_cast<char*>(variable.c_str()));   // first, so that they win
  for (char** v = environ; *v; ++v)
    if (std::strncmp(*v, "TTR_", 4) != 0) variables.push_back(*v);
  const std::string alone = "TTR_THREADS=1";
  if (std::none_of(environment.begin(), environment.end(), [](const std::string& v) { return v.starts_with("TTR_THREADS="); }))
    variables.push_back(const_cast<char*>(alone.c_str()));
  variables.push_back(nullptr);
  int ends[2][2];
  if (pipe2(ends[0], O_CLOEXEC) != 0 || pipe2(ends[1], O_CLOEXEC) != 0) return {};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[0][1], 1);
  posix_spawn_file_actions_adddup2(&actions, ends[1][1], 2);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  pid_t id = -1;
  const int failed = posix_spawn(&id, TTR_PROGRAM, &actions, nullptr, arguments.data(), variables.data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[0][1]), close(ends[1][1]);
  Ran ran;
  std::string* texts[2] = {&ran.out, &ran.err};
  bool open[2] = {!failed, !failed};
  const auto until = std::chrono::steady_clock::now() + kPatience;
  bool hangs = false;
  while (open[0] || open[1]) {
    pollfd wait[2] = {{open[0] ? ends[0][0] : -1, POLLIN, 0}, {open[1] ? ends[1][0] : -1, POLLIN, 0}};
    poll(wait, 2, 1000);
    for (int i = 0; i < 2; ++i) {
      if (wait[i].revents == 0) continue;
      char block[4096];
      const ssize_t n = read(ends[i][0], block, sizeof block);
      if (n > 0)
        texts[i]->append(block, size_t(n));
      else
        open[i] = false;
    }
    if (std::chrono::steady_clock::now() < until) continue;
    hangs = true;
    kill(id, SIGKILL);
    break;
  }
  close(ends[0][0]), close(ends[1][0]);
  int status = 0;
  if (failed || waitpid(id, &status, 0) != id) return ran;
  ran.code = hangs ? kHangs : WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return ran;
}

void put(const std::string& path, const std::string& bytes) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}
std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void make_special(const std::string& path, mode_t kind) {
  if (mknod(path.c_str(), kind | 0600, 0) != 0) FAIL("no special file can be made at " << path);
}

// A safetensors file taken apart, so that it can be put together wrongly.
struct Parts {
  Json header;
  std::string data;
  explicit Parts(const std::string& bytes) {
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    header = Json::parse(bytes.substr(8, length));
    data = bytes.substr(8 + length);
  }
  Parts(Json h, std::string d) : header(std::move(h)), data(std::move(d)) {}
  static std::string file(const std::string& header, const std::string& data) {
    const uint64_t length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
  }
  std::string whole() const { return file(header.dump(), data); }
};

// The folder that all cases work in: what stands there is good, or wrong in the way its name says.
struct World {
  std::string folder, run;
  std::vector<std::string> checkpoints, configs, runs, inputs, positions;   // wrong ones
  std::vector<std::pair<std::string, std::string>> special_runs;            // a good one but for a file: that, and the folder
  const Words special{"pipe", "socket", "link_to_pipe", "/dev/zero", "/dev/full", "/dev/tty", "empty_folder"};   // what is no regular file
  World();
  ~World() { fs::remove_all(folder); }
  std::string at(const std::string& name) const { return folder + "/" + name; }
  std::set<std::string> listing() const {
    std::set<std::string> all;
    for (const auto& entry : fs::recursive_directory_iterator(folder))
      all.insert(entry.path().string() + (entry.is_regular_file() ? " " + std::to_string(entry.file_size()) : ""));
    return all;
  }
};

const std::string kDeep(200'000, '[');
const std::string kLong(5000, 'a');

World::World() {
  std::string name = (fs::temp_directory_path() / "ttr_wrong_XXXXXX").string();
  REQUIRE(mkdtemp(name.data()) != nullptr);
  folder = name, run = at("run");
  std::string text;
  for (int i = 0; i < 60; ++i) text += "the cat sat on mat " + std::to_string(i * i % 97) + "; ";
  put(at("text"), text);
  put(at("nothing"), "");
  put(at("one_byte"), "x");
  put(at("garbage"), std::string("\x00\xff\xfe\x01{[\"\\\n\r\t\x7f", 12) + std::string(300, '\xee'));
  fs::create_directories(at("empty_folder"));
  put(at("full_folder/note"), "mine");
  make_special(at("pipe"), S_IFIFO);
  make_special(at("socket"), S_IFSOCK);
  fs::create_symlink("pipe", at("link_to_pipe"));
  const Ran made = ttr(folder, {"train", "--data", at("text"), "--out", run, "--dim", "4", "--blocks", "1", "--heads", "1", "--steps", "1",
                                "--batch", "1", "--context", "4", "--tokenizer", "char"});
  INFO(made.err);
  REQUIRE(made.code == 0);

  for (const mode_t kind : {S_IFIFO, S_IFSOCK, S_IFDIR})
    for (const char* name : {"config.toml", "metrics.jsonl", "last.safetensors", "best.safetensors", "curve.svg", "by_position.csv"}) {
      special_runs.emplace_back(name, at("special/" + std::to_string(special_runs.size())));
      fs::create_directory(at("special"));
      fs::copy(run, special_runs.back().second);
      const std::string file = special_runs.back().second + "/" + name;
      fs::remove(file);
      if (kind == S_IFDIR) fs::create_directory(file);
      else make_special(file, kind);
    }
  const std::string good = contents(run + "/last.safetensors");
  const auto checkpoint = [&](const std::string& what, const std::string& bytes) {
    checkpoints.push_back(at("checkpoints/" + what));
    put(checkpoints.back() + "/last.safetensors", bytes);
  };
  for (const size_t size : {size_t(0), size_t(1), size_t(7), size_t(8), size_t(9), size_t(200), good.size() / 2, good.size() - 1})
    checkpoint("cut_at_" + std::to_string(size), good.substr(0, size));
  checkpoint("longer", good + "x");
  checkpoint("garbage", contents(at("garbage")));
  checkpoint("text", text);
  checkpoint("long_header", Parts::file("", std::string(100, 'x')).replace(0, 8, 8, '\x7f'));
  for (const char* header : {"", "{", "[]", "{}", "null", "{\"a\":1}", "{\"__metadata__\":{\"config\":1}}",
                             "{\"__metadata__\":{\"config\":\"{}\",\"tokenizer\":\"{}\"}}",
                             "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
                             "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}",
                             "{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}",
                             "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[18446744073709551615,3]}}"})
    checkpoint("header_" + std::to_string(checkpoints.size()), Parts::file(header, "1234"));
  checkpoint("deep_header", Parts::file("{\"a\":" + kDeep, ""));
  const auto edited = [&](const std::string& what, auto&& edit) {
    Parts parts(good);
    edit(parts.header["__metadata__"]);
    checkpoint(what, parts.whole());
  };
  const Json metadata = Parts(good).header["__metadata__"];
  const Json config = Json::parse(metadata["config"].get<std::string>());
  for (const auto& [key, value] : config.items())
    edited("config_" + key, [&](Json& m) {
      Json c = config;
      c[key] = Json{{"a", nullptr}};
      m["config"] = c.dump();
    });
  for (const char* key : {"dim", "blocks", "heads", "context", "vocab", "dropout", "recipe", "ingredients", "tokenizer"})
    edited(std::string("without_") + key, [&](Json& m) {
      Json c = config;
      c.erase(key);
      m["config"] = c.dump();
    });
  for (const auto& [key, value] : std::vector<std::pair<std::string, Json>>{{"dim", int64_t(1) << 40},
                                                                            {"dim", 999'999},
                                                                            {"dim", -1},
                                                                            {"dim", 0},
                                                                            {"blocks", 999'999},
                                                                            {"blocks", 2},
                                                                            {"heads", 999'999},
                                                                            {"heads", 3},
                                                                            {"dim", 1e300},
                                                                            {"context", uint64_t(1) << 63},
                                                                            {"ingredients", "a / b / c"},
                                                                            {"ingredients", "even / mlp[hidden=999999] / descend"},
                                                                            {"dropout", 1}})
    edited("config_" + key + "_" + std::to_string(checkpoints.size()), [&, k = key, v = value](Json& m) {
      Json c = config;
      c[k] = v;
      m["config"] = c.dump();
    });
  edited("config_deep", [&](Json& m) { m["config"] = "{\"recipe\":" + kDeep + std::string(kDeep.size(), ']') + "}"; });
  for (const std::string tokenizer :
       {"", "null", "[]", "{}", "{\"kind\":1}", "{\"kind\":\"word\"}", "{\"kind\":\"char\"}", "{\"kind\":\"char\",\"characters\":\"\"}",
        "{\"kind\":\"char\",\"characters\":\"ba\"}", "{\"kind\":\"char\",\"characters\":7}", "{\"kind\":\"bpe\"}",
        "{\"kind\":\"bpe\",\"merges\":[[0]]}", "{\"kind\":\"bpe\",\"merges\":[[256,256]]}", "{\"kind\":\"bpe\",\"merges\":[[-1,0]]}",
        "{\"kind\":\"bpe\",\"merges\":[[1.5,0]]}", "{\"kind\":\"bpe\",\"merges\":[[0,0],[0,0]]}", "{\"kind\":\"byte\"}",
        "{\"kind\":\"bpe\",\"merges\":[[18446744073709551615,0]]}"})
    edited("tokenizer_" + std::to_string(checkpoints.size()), [&](Json& m) { m["tokenizer"] = tokenizer; });
  edited("tokenizer_deep", [&](Json& m) { m["tokenizer"] = "{\"kind\":" + kDeep; });

  for (const std::string& toml : {std::string("dim = x"),
                                  std::string("dim = 1x"),
                                  std::string("dim = 1.5"),
                                  std::string("dim = \"4\""),
                                  std::string("dim = 0"),
                                  std::string("dim = -1"),
                                  std::string("dim = 1099511627776"),
                                  std::string("dim = 9223372036854775808"),
                                  std::string("dim = nan"),
                                  std::string("dim = []"),
                                  std::string("dim = 2001-01-01"),
                                  std::string("dim = 4\ndim = 4"),
                                  std::string("dim"),
                                  std::string("= 4"),
                                  std::string("[dim]"),
                                  std::string("[[dim]]"),
                                  std::string("dimm = 4"),
                                  std::string("\"\" = 4"),
                                  std::string("lr = nan"),
                                  std::string("lr = inf"),
                                  std::string("lr = -1.0"),
                                  std::string("lr = 1e999"),
                                  std::string("dropout = 1"),
                                  std::string("recipe = 3"),
                                  std::string("recipe = \"unfinished"),
                                  std::string("recipe = \"\\q\""),
                                  std::string("recipe = \"\\ud800\""),
                                  std::string("data = [1]"),
                                  std::string("data = [\"\"]"),
                                  std::string("data = {}"),
                                  std::string("core_only = 1"),
                                  std::string("core_only = \"true\""),
                                  std::string("device = \"tpu\""),
                                  std::string("dtype = \"f16\""),
                                  std::string("schedule = \"\""),
                                  std::string("tokenizer = \"word\""),
                                  std::string("steps = 9223372036854775807"),
                                  std::string("batch = 1000000"),
                                  std::string("context = 1000000000"),
                                  std::string("\xff\xfe"),
                                  std::string("dim = 4\0", 8),
                                  "data = " + kDeep,
                                  "recipe = \"" + std::string(2'000'000, 'a') + "\"",
                                  kLong,
                                  contents(at("garbage"))}) {
    configs.push_back(at("configs/" + std::to_string(configs.size()) + ".toml"));
    put(configs.back(), toml);
  }

  for (const std::string& metrics :
       {std::string(), std::string("\n\n"), std::string("x\n"), std::string("[]\n"), std::string("{}\n"), std::string("{\"step\":\"1\"}\n"),
        std::string("{\"step\":1}\n"), std::string("{\"step\":1,\"val_loss\":\"low\"}\n"), std::string("{\"step\":1,\"val_loss\":[1]}\n"),
        std::string("{\"step\":1,\"val_loss\":null}\n"), std::string("{\"step\":1e999,\"val_loss\":1}\n"), kDeep + "\n",
        contents(at("garbage"))}) {
    runs.push_back(at("runs/" + std::to_string(runs.size())));
    put(runs.back() + "/metrics.jsonl", metrics);
  }
  runs.push_back(at("runs/folder"));
  fs::create_directories(runs.back() + "/metrics.jsonl");
  const std::string head = "position,targets,nats_per_token,standard_error,bits_per_byte\n";
  for (const std::string& rows :
       {std::string(), std::string("x\n"), head, head + "\n", head + "1\n", head + "0,1,1,nan,1\n", head + "-1,1,1,nan,1\n",
        head + "99999999999,1,1,nan,1\n", head + "99999999999999999999,1,1,nan,1\n", head + "1,0,1,nan,1\n", head + "1,1,nan,nan,1\n",
        head + "1,1,-1,nan,1\n", head + "1,1,1,nan,0\n", head + "1;1;1;nan;1\n", head + "x,1,1,nan,1\n", contents(at("garbage"))}) {
    positions.push_back(at("positions/" + std::to_string(positions.size())));
    put(positions.back() + "/by_position.csv", rows);
  }

  const auto tensor = [](const std::string& dtype, std::vector<int64_t> shape, size_t from, size_t bytes) {
    return Json{{"dtype", dtype}, {"shape", shape}, {"data_offsets", {from, from + bytes}}};
  };
  const auto input = [&](const std::string& what, const Json& header, size_t bytes) {
    inputs.push_back(at("inputs/" + what));
    put(inputs.back(), Parts(header, std::string(bytes, '\0')).whole());
  };
  const Json q = tensor("F32", {1, 2, 1, 2}, 0, 16), k = tensor("F32", {1, 2, 1, 2}, 16, 16), v = tensor("F32", {1, 2, 1, 2}, 32, 16);
  put(at("qkv"), Parts(Json{{"q", q}, {"k", k}, {"v", v}}, std::string(48, '\0')).whole());
  input("none", Json::object(), 0);
  input("q_alone", {{"q", q}}, 16);
  input("no_v", {{"q", q}, {"k", k}}, 32);
  input("unknown", {{"q", q}, {"k", k}, {"w", v}}, 48);
  input("halves", {{"q", tensor("F16", {1, 2, 1, 4}, 0, 16)}, {"k", k}, {"v", v}}, 48);
  input("whole_numbers", {{"q", tensor("I32", {1, 2, 1, 2}, 0, 16)}, {"k", k}, {"v", v}}, 48);
  input("rank_1", {{"q", tensor("F32", {4}, 0, 16)}, {"k", k}, {"v", v}}, 48);
  input("rank_0", {{"q", tensor("F32", {}, 0, 4)}, {"k", tensor("F32", {1, 2, 1, 2}, 4, 16)}, {"v", tensor("F32", {1, 2, 1, 2}, 20, 16)}},
        36);
  input("other_tokens", {{"q", tensor("F32", {1, 1, 1, 4}, 0, 16)}, {"k", k}, {"v", v}}, 48);
  input("other_keys", {{"q", q}, {"k", tensor("F32", {1, 2, 1, 1}, 16, 8)}, {"v", tensor("F32", {1, 2, 1, 2}, 24, 16)}}, 40);
  input("other_batch", {{"q", tensor("F32", {2, 1, 1, 2}, 0, 16)}, {"k", k}, {"v", v}}, 48);
  input("state", {{"q", q}, {"k", k}, {"v", v}, {"state0.nothing", tensor("F32", {1}, 48, 4)}}, 52);
  input("state_shape", {{"q", q}, {"k", k}, {"v", v}, {"state0.weight", tensor("F32", {1}, 48, 4)}}, 52);
  input("segments_shape", {{"q", q}, {"k", k}, {"v", v}, {"segments", tensor("I32", {7}, 48, 28)}}, 76);
  input("segments_dtype", {{"q", q}, {"k", k}, {"v", v}, {"segments", tensor("F32", {1, 2}, 48, 8)}}, 56);
  input("many_axes", {{"q", tensor("F32", {1, 1, 1, 1, 1, 1, 1, 2, 2}, 0, 16)}, {"k", k}, {"v", v}}, 48);
}

World& world() {
  static World made;   // by the first case that asks; taken down with the program
  return made;
}

// -- what is tried -----------------------------------------------------------------------------------------------------------------------------
constexpr int kUsage = 2, kRefused = 1, kEither = 0;

struct Wrong {
  Words words;
  int code = kEither;
  std::string says = {};   // in its sentence
  Words environment = {};
};

struct Option {
  std::string name, type;   // "--dim", "INT"
  bool one_of = false, many = false;
};

std::vector<Option> options_of(const std::string& command) {
  std::vector<Option> all;
  std::istringstream help(ttr(world().folder, {command, "--help"}).out);
  for (std::string line; std::getline(help, line);) {
    std::istringstream words(line);
    Option o;
    std::string type;
    words >> o.name >> type;
    if (!line.starts_with("  --")) continue;
    for (const char* known : {"TEXT", "INT", "FLOAT"})
      if (line.size() < 30 || line.find(type) < 30)
        if (type.starts_with(known)) o.type = known;
    o.one_of = type.find('{') != std::string::npos;
    o.many = line.find(" ...") != std::string::npos;
    all.push_back(o);
  }
  return all;
}

const std::string kNoText = "\xff\xfe";
const Words kNoWhole{"",
                     "x",
                     "1x",
                     "0x1f",
                     "1.5",
                     "1e3",
                     "-2",
                     "-9223372036854775809",
                     "9223372036854775808",
                     "99999999999999999999",
                     "nan",
                     "inf",
                     "∞",
                     "１",
                     "1 2",
                     "1,2",
                     "1_000",
                     "--1",
                     "1\n2",
                     "true",
                     kNoText};
const Words kNoNumber{"",   "x",   "1x", "nan",  "-nan", "inf", "-inf", "1e999", "-1",
                      "0x", "1,5", "1e", "1..2", "∞",    "½",   "1\n2", "true",  kNoText};
const Words kNoWord{"",    "x",   "CPU",    "cpu ",  " cpu",   "cpu,cuda", "-",     "--", "0",
                    "nan", "tpu", "cuda:x", "cpu\n", "ＣＰＵ", "null",     kNoText, kLong};
const Words kOdd{"", " ", "a\nb", "\x1b[31mred", kNoText, "naïve\u202e", "/dev/null/x", "../../..", "/", kLong, "%s%n{}", "$(true)", "-1"};
const Words kStray{
    "extra", "",          "-", "-x",     "-1", "--frobnicate", "--frobnicate=1", "---",         "-=",    "--=",   "=",       "é",  "a\nb",
    kNoText, "/dev/null", "*", "%s%n{}", "{}", "\x1b[31m",     "--hlep",         "--version=x", "train", "bench", "recipes", kLong};

// `base` is refused for another reason in the end; `replaced` are its words whose option is being tried.
std::vector<Wrong> tried(const std::string& command, const std::vector<std::pair<std::string, std::string>>& base) {
  std::vector<Wrong> all;
  const auto with = [&](const std::string& without, const Words& more) {
    Words words{command};
    for (const auto& [option, value] : base)
      if (option != without)
        words.push_back(option.empty() ? value
                                       : option + "=" + value + (value == "new" ? std::to_string(all.size()) : ""));   // nobody else's
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  for (const Option& o : options_of(command)) {
    all.push_back({with(o.name, {o.name + "x"}), kUsage, "did you mean"});
    if (o.type.empty()) {
      for (const char* value : {"maybe", "1x", "nan", "∞", "2.5"}) all.push_back({with(o.name, {o.name + "=" + value}), kUsage, "needs"});
      continue;
    }
    all.push_back({with(o.name, {o.name}), kUsage, o.name});
    const Words& bad = o.type == "INT" ? kNoWhole : o.type == "FLOAT" ? kNoNumber : o.one_of ? kNoWord : kOdd;
    for (const std::string& value : bad)
      all.push_back(o.type == "TEXT" && !o.one_of ? Wrong{with(o.name, {o.name + "=" + value}), kEither, {}}
                                                  : Wrong{with(o.name, {o.name + "=" + value}), kUsage, o.name});
    if (!o.many) all.push_back({with(o.name, {o.name + "=1", o.name + "=1"}), kUsage, o.name});
  }
  for (const std::string& word : kStray) all.push_back({with("-", {word}), kEither});
  return all;
}

// Every case, side by side; then what each left behind.
void check_all(const std::string& command, const std::vector<Wrong>& all) {
  const std::set<std::string> before = world().listing();
  std::vector<Ran> ran(all.size());
  std::atomic<size_t> next{0};
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < std::clamp(std::thread::hardware_concurrency(), 2u, 16u); ++i)
      threads.emplace_back([&] {
        for (size_t n; (n = next++) < all.size();) ran[n] = ttr(world().folder, all[n].words, all[n].environment);
      });
  }
  CHECK(all.size() >= 60);
  MESSAGE(command << ": " << all.size() << " wrong inputs");
  for (size_t i = 0; i < all.size(); ++i) {
    const auto& [words, code, says, environment] = all[i];
    std::string line = "ttr";
    for (const std::string& word : words) line += " '" + word.substr(0, 200) + "'";
    for (const std::string& variable : environment) line = variable + " " + line;
    CAPTURE(line);
    const std::string& err = ran[i].err;
    CAPTURE(err);
    if (code == kEither)
      CHECK((ran[i].code == kUsage || ran[i].code == kRefused));
    else
      CHECK(ran[i].code == code);
    CHECK(std::count(err.begin(), err.end(), '\n') == 1);
    CHECK(err.ends_with('\n'));
    CHECK(err.starts_with('['));
    CHECK(std::none_of(err.begin(), err.end() - !err.empty(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }));
    CHECK((err.find("needs") != err.npos || err.find("cannot be") != err.npos));   // the second where the system says why
    for (const char* inside : {".cpp", "bad_alloc", "std::", "basic_string", "vector::", "what()", "terminate"})
      CHECK(err.find(inside) == err.npos);
    if (!says.empty()) CHECK(err.find(says) != err.npos);
  }
  const std::set<std::string> after = world().listing();
  for (const std::string& entry : after)
    if (!before.contains(entry)) FAIL_CHECK(command << " left " << entry);
  for (const std::string& entry : before)
    if (!after.contains(entry)) FAIL_CHECK(command << " took away " << entry);
}

const Words kNoRecipe{"",
                      "nope",
                      "delta_ne",
                      "/",
                      "//",
                      "///",
                      "////",
                      "a / b / c",
                      "even / linear",
                      "even / linear / descend / 4",
                      "even / linear / descend / reading[",
                      "even / linear / descend / reading[scale=x]",
                      "even / linear / descend / reading[scale=nan]",
                      "even / linear / descend / reading[scale=-inf]",
                      "even / linear / descend / reading[writes=0]",
                      "even / linear / descend / reading[writes=9223372036854775807]",
                      "even / linear / descend / reading[writes=9223372036854775808]",
                      "even / linear / descend[steps=-1]",
                      "even / linear / descend[steps=1x]",
                      "even / linear / descend[steps=1,steps=1]",
                      "even / linear / descend[=1]",
                      "even / linear / descend[,]",
                      "even / linear / descend[steps]",
                      "even / linear / descend[rule=nope]",
                      "even / linear / descend[rule=adamw[",
                      "even / linear[feature=nope] / descend",
                      "even / mlp[hidden=1099511627776] / descend",
                      "even / mlp[hidden=-1] / descend",
                      "even / mlp / exact",
                      "even / polynomial[degree=-1] / exact",
                      "even / polynomial[degree=4000000000] / exact",
                      "window[window=-1] / linear / exact",
                      "fenwick[levels=99999999999] / linear / descend",
                      "even / linear[feature=monomials[degree=99999999999]] / descend",
                      "even / linear[feature=dpfp[nu=-7]] / descend",
                      "ёven / linear / descend",
                      "even\n/ linear /\ndescnd",
                      "even / linear / descend]",
                      "[[[[",
                      "]]]]",
                      kNoText,
                      kLong,
                      "even / linear[feature=" + kLong + "] / descend",
                      "even / linear / descend[rule=" + std::string(20'000, '[') + std::string(20'000, ']') + "]"};

}   // namespace

TEST_SUITE("slow_wrong_inputs") {
  TEST_CASE("no subcommand") {
    std::vector<Wrong> all{{{}, kUsage, "subcommand"}};
    for (const Words& list : {kStray, kNoWhole, kNoNumber, kNoWord})
      for (const std::string& word : list)
        if (word != "train" && word != "bench" && word != "recipes" && word != "--") all.push_back({{word}, kUsage});
    check_all("ttr", all);
  }

  TEST_CASE("train") {
    const World& w = world();
    std::vector<Wrong> all = tried("train", {{"--data", "missing"}, {"--out", "new"}});
    const auto on_text = [&](Words more, int code, std::string says, Words environment = {}) {
      Words words{"train", "--data=" + w.at("text"), "--out=new" + std::to_string(all.size()), "--context=4", "--steps=1", "--batch=1"};
      for (const std::string& word : more)   // the same option twice is another mistake
        std::erase_if(words, [&](const std::string& known) { return known.starts_with(word.substr(0, word.find('=')) + "="); });
      words.insert(words.end(), more.begin(), more.end());
      all.push_back({words, code, says, environment});
    };
    for (const std::string& recipe : kNoRecipe) on_text({"--recipe=" + recipe}, kRefused, "");
    for (const std::string& config : w.configs)
      all.push_back({{"train", "--config=" + config, "--data=" + w.at("text"), "--out=new" + std::to_string(all.size())}, kRefused, ""});
    for (const std::string& folder : w.checkpoints) all.push_back({{"train", "--resume=" + folder}, kRefused});
    for (const auto& [file, folder] : w.special_runs)
      if (file != "by_position.csv") all.push_back({{"train", "--resume=" + folder}, kRefused, "needs to be a regular file"});
    for (const std::string& file : w.special) {
      all.push_back({{"train", "--config=" + file, "--out=new" + std::to_string(all.size())}, kRefused, "needs to be a regular file"});
      on_text({"--data=" + file}, kRefused, "needs");
      all.push_back({{"train", "--resume=" + file}, kRefused, "needs"});
    }
    for (const char* data : {"missing", ".", "/dev/null", "nothing", "one_byte", "empty_folder", "bible ", "grammar:", "grammar:x",
                             "grammar:-1", "grammar:1x", "grammar:99999999999999999999", "/", "~/x"})
      on_text({std::string("--data=") + data}, kRefused, "");
    for (const char* out : {"text", "/dev/null", "/dev/null/x", "full_folder", "text/x", "/proc/new"})
      on_text({std::string("--out=") + out}, kRefused, "");
    for (const char* from : {"missing", "text", "/dev/null", "empty_folder", "full_folder", "nothing", "garbage"})
      all.push_back({{"train", std::string("--resume=") + from}, kRefused});
    all.push_back({{"train"}, kRefused, "--out is missing"});
    all.push_back({{"train", "--resume=" + w.run, "--out=new"}, kRefused, "--out is given with --resume"});
    all.push_back({{"train", "--resume=" + w.run, "--config=" + w.configs[0]}, kRefused, "--config is given with --resume"});
    all.push_back({{"train", "--resume=" + w.run, "--dim=8"}, kRefused, "a resumed run keeps it"});
    on_text({"--data=bible", w.at("text")}, kRefused, "needs to be alone");
    on_text({"--dim=1099511627776"}, kUsage, "--dim");
    on_text({"--dim=999999", "--blocks=999999"}, kRefused, "GB of this machine");
    on_text({"--batch=999999", "--context=1000"}, kRefused, "GB of this machine");
    on_text({"--batch=999999", "--context=999999999"}, kRefused, "needs");
    on_text({"--context=100000"}, kRefused, "lower the context");
    on_text({"--heads=3"}, kRefused, "heads");
    on_text({"--accumulate=2"}, kRefused, "--accumulate is 2");
    on_text({"--vocab=300"}, kRefused, "vocab is 300");
    on_text({"--tokenizer=bpe", "--vocab=255"}, kRefused, "vocab is 255");
    on_text({"--tokenizer=bpe", "--vocab=99999999"}, kRefused, "vocab is 99999999");
    on_text({"--data=" + w.at("garbage"), "--tokenizer=char"}, kRefused, "UTF-8");
    on_text({"--dtype=bf16"}, kRefused, "bf16");
    on_text({"--route=nowhere"}, kRefused, "'nowhere' is unknown");
    on_text({"--route=softmax_attention/cpu-blocked"}, kRefused, "is asked for and refuses");
    on_text({"--schedule=wsd", "--warmup=99", "--schedule-steps=9"}, kRefused, "--schedule-steps is 9");
    on_text({}, kRefused, "'nowhere' is unknown", {"TTR_ROUTE=nowhere"});
    for (const char* threads : {"x", "0", "-1", "1x", "1025", "99999999999999999999", "1.5", " ", "∞"})
      on_text({}, kRefused, "TTR_THREADS", {std::string("TTR_THREADS=") + threads});
    check_all("train", all);
  }

  TEST_CASE("sample and eval") {
    const World& w = world();
    for (const std::string command : {"sample", "eval"}) {
      std::vector<Wrong> all = tried(command, {{"--from", "missing"}});
      for (const char* from : {"missing", "", ".", "/", "/dev/null", "text", "nothing", "garbage", "one_byte", "empty_folder",
                               "full_folder", "qkv", "run/config.toml"})
        all.push_back({{command, std::string("--from=") + from}, kRefused});
      for (const std::string& folder : w.checkpoints) all.push_back({{command, "--from=" + folder}, kRefused});
      for (const auto& [file, folder] : w.special_runs)
        if (file == "best.safetensors") all.push_back({{command, "--from=" + folder}, kRefused, "needs to be a regular file"});
      for (const std::string& file : w.special) all.push_back({{command, "--from=" + file}, kRefused, "needs"});
      all.push_back({{command}, kUsage, "--from"});
      all.push_back({{command, "--from=run", "--dtype=bf16"}, kRefused, "bf16"});
      all.push_back({{command, "--from=run"}, kRefused, "'nowhere' is unknown", {"TTR_ROUTE=nowhere"}});
      for (const char* threads : {"x", "0", "-1", "1x", "1025"})
        all.push_back({{command, "--from=run"}, kRefused, "TTR_THREADS", {std::string("TTR_THREADS=") + threads}});
      if (command == "sample") {
        all.push_back({{command, "--from=run", "--prompt="}, kRefused, "the prompt is empty"});
        all.push_back({{command, "--from=run", "--prompt=-"}, kRefused, "the prompt is empty"});   // from /dev/null
        for (const std::string prompt : {"Ω", "\xff", "a\nb", "\x1b[31m"})
          all.push_back({{command, "--from=run", "--prompt=" + prompt}, kRefused, "needs"});
      } else {
        for (const std::string data : {"missing", ".", "/dev/null", "nothing", "one_byte", "garbage", "grammar:x", "grammar:-1", "/"})
          all.push_back({{command, "--from=run", "--by-position", "--out=new_folder", "--data=" + data}, kRefused, "needs"});
        for (const std::string& data : w.special) all.push_back({{command, "--from=run", "--data=" + data}, kRefused, "needs"});
        for (const auto& [file, folder] : w.special_runs)
          if (file == "by_position.csv")
            all.push_back({{command, "--from=run", "--by-position", "--out=" + folder}, kRefused, "needs to be a regular file"});
        for (const std::string out : {"text", "/dev/null", "/dev/null/x", "text/x"})
          all.push_back({{command, "--from=run", "--by-position", "--out=" + out}, kRefused, "--out"});
        all.push_back({{command, "--from=run", "--data=bible", "text"}, kRefused, "needs to be alone"});
        all.push_back({{command, "--from=run", "--context=9223372036854775807"}, kUsage, "--context"});
      }
      check_all(command, all);
    }
  }

  TEST_CASE("plot") {
    const World& w = world();
    std::vector<Wrong> all = tried("plot", {{"", "missing"}});
    all.push_back({{"plot"}, kUsage, "runs"});
    for (const std::string& run : w.runs) all.push_back({{"plot", run, "--out=new.svg"}, kRefused, "needs"});
    for (const std::string& run : w.positions) all.push_back({{"plot", "--by-position", run, "--out=new.svg"}, kRefused, "needs"});
    for (const std::string& run : w.runs) all.push_back({{"plot", "run", run}, kRefused, "needs"});
    for (const auto& [file, folder] : w.special_runs)
      for (const std::string wanted : {"metrics.jsonl", "by_position.csv"})
        if (file == wanted)
          all.push_back({file == "metrics.jsonl" ? Words{"plot", folder} : Words{"plot", "--by-position", folder}, kRefused, "needs to be a regular file"});
    for (const std::string& out : w.special) all.push_back({{"plot", "run", "--out=" + out}, kRefused, "needs to be a regular file"});
    for (const char* run : {"", ".", "/", "/dev/null", "text", "empty_folder", "full_folder", "run/metrics.jsonl"})
      all.push_back({{"plot", run}, kRefused, "needs"});
    for (const char* out : {"", ".", "/", "/dev/null/x", "missing/x.svg", "text/x.svg", "full_folder"})
      all.push_back({{"plot", "run", std::string("--out=") + out}, kRefused});
    check_all("plot", all);
  }

  TEST_CASE("recipes") {
    std::vector<Wrong> all = tried("recipes", {});
    for (const Words& list : {kNoWhole, kNoWord, kOdd})
      for (const std::string& word : list)
        if (word != "--") all.push_back({{"recipes", word}, kUsage});
    for (const std::string& word : kNoWhole)
      if (word != "" && word != "true") all.push_back({{"recipes", "--json=" + word}, kUsage});
    check_all("recipes", all);
  }

  TEST_CASE("plan") {
    std::vector<Wrong> all = tried("plan", {{"--recipe", "nope"}});
    all.push_back({{"plan"}, kUsage, "--recipe"});
    for (const std::string& recipe : kNoRecipe) all.push_back({{"plan", "--recipe=" + recipe}, kRefused, ""});
    for (const std::string& route : kOdd)
      if (!route.empty()) {
        all.push_back({{"plan", "--recipe=mesa", "--route=" + route}, kRefused, "is unknown, needs one of"});
        all.push_back({{"plan", "--recipe=mesa"}, kRefused, "is unknown, needs one of", {"TTR_ROUTE=" + route}});
      }
    all.push_back({{"plan", "--recipe=mesa", "--route=softmax_attention/cpu-blocked"}, kRefused, "is asked for and refuses"});
    all.push_back({{"plan", "--recipe=mesa", "--heads=4", "--key-heads=3"}, kRefused, "--key-heads is 3"});
    all.push_back({{"plan", "--recipe=mesa", "--heads=4", "--value-heads=8"}, kRefused, "--value-heads is 8"});
    for (const char* size : {"--batch", "--tokens", "--heads", "--key-dim", "--value-dim"})
      all.push_back({{"plan", "--recipe=mesa", std::string(size) + "=9223372036854775807"}, kUsage, size});
    check_all("plan", all);
  }

  TEST_CASE("apply") {
    const World& w = world();
    std::vector<Wrong> all = tried("apply", {{"--recipe", "linear_attention"}, {"--in", "missing"}, {"--out", "new"}});
    for (const std::string& recipe : kNoRecipe) all.push_back({{"apply", "--recipe=" + recipe, "--in=qkv", "--out=new"}, kRefused});
    for (const std::string& in : w.inputs) all.push_back({{"apply", "--recipe=linear_attention", "--in=" + in, "--out=new"}, kRefused});
    for (const std::string& folder : w.checkpoints)
      all.push_back({{"apply", "--recipe=linear_attention", "--in=" + folder + "/last.safetensors", "--out=new"}, kRefused});
    for (const char* in : {"missing", "", ".", "/dev/null", "/dev/zero", "text", "nothing", "garbage"})
      all.push_back({{"apply", "--recipe=linear_attention", std::string("--in=") + in, "--out=new"}, kRefused});
    for (const std::string& file : w.special) {
      all.push_back({{"apply", "--recipe=linear_attention", "--in=" + file, "--out=new"}, kRefused, "needs to be a regular file"});
      all.push_back({{"apply", "--recipe=linear_attention", "--in=qkv", "--out=" + file}, kRefused, "needs to be a regular file"});
    }
    for (const char* out : {"", ".", "/", "/dev/null/x", "missing/x", "text/x", "full_folder"})
      all.push_back({{"apply", "--recipe=linear_attention", "--in=qkv", std::string("--out=") + out}, kRefused});
    const auto with = [&](Words more, std::string says, Words environment = {}) {
      Words words{"apply", "--recipe=linear_attention", "--in=qkv", "--out=new"};
      words.insert(words.end(), more.begin(), more.end());
      all.push_back({words, kRefused, says, environment});
    };
    for (const char* option : {"--scale", "--read", "--normaliser", "--eps", "--key-norm", "--key-eps", "--ridge-policy"})
      for (const char* value : {"", "x", "1x", "nan", "inf", "-inf", "1e999", "∞", "1,2", "[", "]", "a=b"})
        with({std::string(option) + "=" + value}, "needs");
    with({"--grad"}, "dy is missing");
    with({"--dtype=bf16"}, "bf16");
    with({"--route=nowhere"}, "'nowhere' is unknown");
    with({}, "'nowhere' is unknown", {"TTR_ROUTE=nowhere"});
    with({}, "TTR_THREADS", {"TTR_THREADS=many"});
    check_all("apply", all);
  }

  TEST_CASE("bench") {
    std::vector<Wrong> all = tried("bench", {});
    for (const char* threads : {"x", "0", "-1", "1x", "1025", "99999999999999999999"})
      all.push_back({{"bench", "--what=copy"}, kRefused, "TTR_THREADS", {std::string("TTR_THREADS=") + threads}});
    check_all("bench", all);
  }
}

TEST_SUITE("slow_long_life") {
  TEST_CASE("20,000 steps take no more memory than 1,000") {
    const World& w = world();
    const std::string out = w.at("long");
    const std::vector<std::string> words{
        "ttr",       "train",       "--data=" + w.at("text"), "--out=" + out,     "--dim=8",           "--blocks=1",      "--heads=1",
        "--batch=1", "--context=8", "--steps=1000000",        "--save-every=500", "--eval-every=1000", "--log-every=100", "--keep=2",
        "--ema=0.9"};
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (const int stream : {1, 2}) posix_spawn_file_actions_addopen(&actions, stream, "/dev/null", O_WRONLY, 0);
    pid_t id = -1;
    REQUIRE(posix_spawn(&id, TTR_PROGRAM, &actions, nullptr, arguments.data(), environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    const auto resident = [&] {   // bytes
      std::ifstream pages("/proc/" + std::to_string(id) + "/statm");
      int64_t all = 0, held = 0;
      pages >> all >> held;
      return held * int64_t(sysconf(_SC_PAGESIZE));
    };
    const auto at_step = [&](int64_t step) {   // when the checkpoint of that step or a later one is written
      const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(5);
      while (std::chrono::steady_clock::now() < until && waitpid(id, nullptr, WNOHANG) == 0) {
        std::error_code gone;   // it is not made yet
        for (const auto& entry : fs::directory_iterator(out, gone))
          if (const std::string name = entry.path().filename(); name.starts_with("step-") && std::stoll(name.substr(5)) >= step)
            return resident();
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
      return int64_t(0);
    };
    const int64_t early = at_step(1000), late = at_step(20'000);
    kill(id, SIGKILL);
    waitpid(id, nullptr, 0);
    fs::remove_all(out);
    MESSAGE("resident bytes: " << early << " after 1,000 steps, " << late << " after 20,000");
    REQUIRE(early > 0);
    REQUIRE(late > 0);
    CHECK(late - early < 1'000'000);
  }
}
