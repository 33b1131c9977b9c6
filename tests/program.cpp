// The program `ttr`, driven from outside as a user would: its JSON, its files, its sentences and its exit codes.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/safetensors.hpp>
#include <ttr/layers/fold.hpp>
#include <ttr/layers/recipes.hpp>

namespace {

using namespace ttr;
using Json = nlohmann::json;
namespace fs = std::filesystem;

struct Folder {   // of one test, gone after it
  fs::path path;
  Folder() {
    std::string name = (fs::temp_directory_path() / "ttr_program_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
};

struct Ran {
  int code;
  std::string out, err;
};

Ran ttr_run(const Folder& folder, const std::string& arguments) {
  const std::string errors = folder / "stderr";
  FILE* pipe = popen(("'" TTR_PROGRAM "' " + arguments + " 2>'" + errors + "' </dev/null").c_str(), "r");
  REQUIRE(pipe != nullptr);
  Ran ran;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) ran.out.append(buffer, n);
  const int status = pclose(pipe);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  std::stringstream text;
  text << std::ifstream(errors).rdbuf();
  ran.err = text.str();
  return ran;
}

void write(const std::string& path, const std::map<std::string, Tensor>& tensors) {
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, x] : tensors)
    entries.push_back({name,
                       {x.dtype() == Dtype::f64   ? "F64"
                        : x.dtype() == Dtype::f32 ? "F32"
                                                  : "I32",
                        {x.shape().begin(), x.shape().end()},
                        static_cast<const std::byte*>(x.address()),
                        size_t(x.count()) * bytes_of(x.dtype())}});
  write_safetensors(path, entries);
}

Tensor read(const SafetensorsFile& file, const std::string& name) {
  const RawTensor raw = file.read(name);
  REQUIRE((raw.dtype == "F64" || raw.dtype == "I32"));
  const Shape shape{std::span<const int64_t>(raw.shape)};
  Tensor x = empty(shape, {raw.dtype == "F64" ? Dtype::f64 : Dtype::i32, cpu_device});
  std::memcpy(x.address(), raw.data, raw.bytes);
  return x;
}

double distance(const Tensor& a, const Tensor& b) {
  REQUIRE(to_string(a.shape()) == to_string(b.shape()));
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double e = std::abs(x[i] - y[i]) / std::max(1.0, std::abs(y[i]));
    worst = e <= worst ? worst : e;   // NaN is worst
  }
  return worst;
}

constexpr int64_t B = 2, T = 13, H = 4, K = 6, V = 5;
const Options f64{Dtype::f64, cpu_device};

Tensor drawn(const Shape& shape, uint64_t stream) { return normal(shape, 5, stream, 0, 0.6, f64); }

std::map<std::string, Tensor> delta_inputs() {
  return {{"q", drawn({B, T, H, K}, 1)},
          {"k", drawn({B, T, 2, K}, 2)},
          {"v", drawn({B, T, H, V}, 3)},
          {"log_decay", -softplus(drawn({B, T, H}, 4))},
          {"step_size", sigmoid(drawn({B, T, H}, 5))}};
}
std::map<std::string, Tensor> attention_inputs() {
  return {{"q", drawn({B, T, H, K}, 1)}, {"k", drawn({B, T, H, K}, 2)}, {"v", drawn({B, T, H, V}, 3)}};
}

// One sentence on standard error: one line, no trace of the source.
void check_sentence(const Ran& ran) {
  CAPTURE(ran.err);
  CHECK(!ran.err.empty());
  CHECK(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
  CHECK(ran.err.front() == '[');
  CHECK(ran.err.find(".cpp") == std::string::npos);
}

}   // namespace

TEST_SUITE("program") {
  TEST_CASE("recipes --json is the table, every entry whole") {
    const Folder folder;
    const Ran ran = ttr_run(folder, "recipes --json");
    REQUIRE(ran.code == 0);
    const Json all = Json::parse(ran.out);
    REQUIRE(all.is_array());
    CHECK(all.size() == published_recipes().size());
    std::map<std::string, Json> by_name;
    for (const Json& entry : all) {
      by_name[entry.at("name").get<std::string>()] = entry;
      CHECK(entry.size() == 10);
      CHECK(entry.at("around").is_string());
      for (const char* key : {"weights", "function", "optimizer", "paper", "stem"}) CHECK(entry.at(key).is_string());
      for (const Json& slot : entry.at("slots")) {
        CHECK(slot.size() == 5);
        CHECK(slot.at("name").is_string());
        CHECK(slot.at("per").is_string());
        CHECK(slot.at("shape").is_array());
        CHECK(slot.at("range").size() == 2);
        CHECK(slot.at("required").is_boolean());
      }
      CHECK(!entry.at("state").empty());
    }
    const Json& gated = by_name.at("gated_delta_net");
    CHECK(gated.at("stem") == "delta");
    CHECK(gated.at("state") == Json::array({"memory", "position"}));
    CHECK(gated.at("kernels") == Json({{"cpu", {"delta/cpu-chunk"}}, {"cuda", {"delta/cuda-recurrent"}}}));
    CHECK(by_name.at("titans").at("kernels") == Json({{"cpu", Json::array()}, {"cuda", Json::array()}}));
    CHECK(by_name.at("softmax_attention").at("state") == Json::array({"keys", "position", "values"}));
    for (const Json& slot : gated.at("slots"))
      if (slot.at("name") == "log_decay")
        CHECK(slot ==
              Json({{"name", "log_decay"}, {"per", "token"}, {"shape", Json::array()}, {"range", {nullptr, 0.0}}, {"required", true}}));
    CHECK(ttr_run(folder, "recipes").out.find("gated_delta_net") != std::string::npos);
  }

  TEST_CASE("plan names the route, the reasons, and what is forced") {
    const Folder folder;
    const Ran ran =
        ttr_run(folder, "plan --recipe gated_delta_net --tokens 512 --key-dim 64 --value-dim 64 --heads 4 --device cpu --dtype f32");
    CHECK(ran.code == 0);
    CHECK(ran.out.find(": delta/cpu-chunk") != std::string::npos);
    const Ran triple = ttr_run(folder, "plan --recipe 'geometric / mlp[hidden=32] / descend[rule=momentum,at=chunk,chunk=16]'");
    CHECK(triple.code == 0);
    CHECK(triple.out.find(": fold") != std::string::npos);
    CHECK(triple.out.find("not delta/cpu-chunk: function class is mlp, needs linear") != std::string::npos);
    CHECK(ttr_run(folder, "plan --recipe gated_delta_net --route fold").out.find(": fold") != std::string::npos);
  }

  TEST_CASE("apply gives what fold gives, gradients and state included") {
    const Folder folder;
    struct Trial {
      std::string name, options;
      std::map<std::string, Tensor> inputs;
    };
    for (Trial trial : {Trial{"gated_delta_net", "", delta_inputs()},
                        {"gated_delta_net", "--route fold --scale 0.5 --key-norm l2 --eps 1e-3", delta_inputs()},
                        {"softmax_attention", "", attention_inputs()},
                        {"softmax_attention", "--read strict", attention_inputs()},
                        {"linear_attention", "--normaliser sum --eps 0.01", attention_inputs()}}) {
      CAPTURE(trial.name);
      CAPTURE(trial.options);
      Recipe recipe = published(trial.name).recipe;
      Reading reading = recipe.reading();
      if (trial.options.find("--scale") != std::string::npos) reading = {.scale = {0.5}, .key_norm = KeyNorm::l2, .key_eps = 1e-3};
      if (trial.options.find("strict") != std::string::npos) reading.read = Read::strict;
      recipe = recipe.with(reading);
      if (trial.name == "linear_attention")
        recipe = Recipe(EvenWeights{}, LinearMap{.feature = Identity{}, .normaliser = Normaliser::sum, .eps = 0.01},
                        Descend<Sgd>{.at = initial});

      Arguments a;
      a.want_state = true;
      Tensors xs;
      for (const auto& [name, x] : trial.inputs) xs.push_back(a.slots[name] = variable(x));
      const Answer want = fold(recipe, a);
      const Tensor dy = drawn(want.y.shape(), 9);
      Tensors ys{want.y}, dys{dy};
      auto given = trial.inputs;
      given["dy"] = dy;
      for (const auto& [name, x] : want.state)
        if (is_floating(x.dtype())) ys.push_back(x), dys.push_back(given["dstate." + name] = drawn(x.shape(), 10));
      const Tensors d = grad(ys, dys, xs);

      write(folder / "a.safetensors", given);
      const Ran ran = ttr_run(folder, "apply --recipe " + trial.name + " --in " + folder / "a.safetensors" + " --out " +
                                          folder / "b.safetensors" + " --dtype f64 --grad " + trial.options);
      CAPTURE(ran.err);
      REQUIRE(ran.code == 0);
      const SafetensorsFile out(folder / "b.safetensors");
      CHECK(distance(read(out, "y"), want.y) < 1e-10);
      for (const auto& [name, x] : want.state) {
        CAPTURE(name);
        CHECK(distance(read(out, "state." + name), x) < 1e-10);
      }
      size_t i = 0;
      for (const auto& [name, x] : trial.inputs) {
        CAPTURE(name);
        CHECK(distance(read(out, "d" + name), d[i++]) < 1e-9);
      }
      if (trial.options == "--read strict")   // nothing is visible to the first token
        CHECK(distance(slice(read(out, "y"), 1, 0, 1), zeros({B, 1, H, V}, f64)) == 0);
    }
  }

  TEST_CASE("apply carries state: two halves are the whole") {
    const Folder folder;
    const auto call = [&](const std::string& name, const std::string& in, const std::string& out) {
      const Ran ran = ttr_run(folder, "apply --recipe " + name + " --dtype f64 --grad --in " + folder / in + " --out " + folder / out);
      CAPTURE(ran.err);
      REQUIRE(ran.code == 0);
    };
    for (const auto& [name, inputs] : {std::pair{std::string("gated_delta_net"), delta_inputs()},
                                       {"qknorm_attention", attention_inputs()},
                                       {"mesa", attention_inputs()}}) {
      CAPTURE(name);
      auto whole = inputs;
      if (name == "qknorm_attention") whole["temperature"] = full({H}, 3, f64);
      if (name == "mesa") whole["ridge"] = full({H}, 0.7, f64);
      whole["dy"] = drawn({B, T, H, V}, 9);
      const auto part = [&](int64_t from, int64_t to) {
        std::map<std::string, Tensor> p;
        for (const auto& [slot, x] : whole) p[slot] = x.rank() > 1 ? slice(x, 1, from, to) : x;
        return p;
      };
      write(folder / "whole", whole);
      call(name, "whole", "whole.out");
      write(folder / "first", part(0, 6));
      call(name, "first", "first.out");
      auto second = part(6, T);
      const SafetensorsFile first(folder / "first.out"), all(folder / "whole.out");
      std::vector<std::string> carried;
      for (const std::string& n : first.names())
        if (n.starts_with("state.")) second["state0." + n.substr(6)] = read(first, n), carried.push_back(n.substr(6));
      write(folder / "second", second);
      call(name, "second", "second.out");
      const SafetensorsFile rest(folder / "second.out");
      CHECK(distance(concat({read(first, "y"), read(rest, "y")}, 1), read(all, "y")) < 1e-12);
      CHECK(distance(read(rest, "dv"), slice(read(all, "dv"), 1, 6, T)) < 1e-11);
      auto again = part(0, 6);   // the first half's gradients need what the second half says about the state
      for (const std::string& s : carried) {
        CHECK(distance(read(rest, "state." + s), read(all, "state." + s)) < 1e-12);
        if (s != "position") again["dstate." + s] = read(rest, "dstate0." + s);
      }
      write(folder / "again", again);
      call(name, "again", "again.out");
      CHECK(distance(read(SafetensorsFile(folder / "again.out"), "dk"), slice(read(all, "dk"), 1, 0, 6)) < 1e-11);
    }
  }

  TEST_CASE("what is refused says so in one sentence") {
    const Folder folder;
    const auto apply_with = [&](const std::string& recipe, const std::map<std::string, Tensor>& inputs, const std::string& more) {
      write(folder / "a", inputs);
      return ttr_run(folder, "apply --recipe " + recipe + " --in " + folder / "a" + " --out " + folder / "b " + more);
    };
    auto missing = delta_inputs(), misshapen = delta_inputs(), unknown = delta_inputs(), stateful = delta_inputs();
    missing.erase("step_size");
    misshapen["log_decay"] = drawn({B, T, H, 3}, 1);
    unknown["log_decai"] = drawn({B, T, H}, 1);
    stateful["state0.memory"] = drawn({B, H, K, K}, 1);
    auto wrong_dy = delta_inputs();
    wrong_dy["dy"] = drawn({B, T, H, K}, 1);

    struct Refusal {
      Ran ran;
      int code;
      std::vector<std::string> says;
    };
    const std::vector<Refusal> table{
        {ttr_run(folder, ""), 2, {"subcommand"}},
        {ttr_run(folder, "pln"), 2, {"'pln' is unknown", "did you mean 'plan'?"}},
        {ttr_run(folder, "plan"), 2, {"--recipe is required"}},
        {ttr_run(folder, "plan --recipe mesa --toknes 3"), 2, {"'--toknes' is unknown", "did you mean '--tokens'?"}},
        {ttr_run(folder, "plan --recipe mesa --tokens 0"), 2, {"--tokens", "is 0, needs a whole number of at least 1"}},
        {ttr_run(folder, "plan --recipe mesa --device gpu"), 2, {"gpu", "cpu", "cuda"}},
        {ttr_run(folder, "plan --recipe meza"), 1, {"'meza'", "did you mean 'mesa'?"}},
        {ttr_run(folder, "plan --recipe 'even / mlp / exact'"), 1, {"linear in its parameters"}},
        {ttr_run(folder, "plan --recipe mesa --route fodl"), 1, {"'fodl' is unknown", "did you mean 'fold'?"}},
        {ttr_run(folder, "plan --recipe mesa --route delta/cpu-chunk"), 1, {"delta/cpu-chunk is asked for and refuses", "exact"}},
        {ttr_run(folder, "apply --recipe mesa --in " + folder / "nothing" + " --out " + folder / "b"), 1, {"nothing"}},
        {apply_with("gated_delta_net", missing, ""), 1, {"step_size is missing", "[2, 13, 4]"}},
        {apply_with("gated_delta_net", misshapen, ""), 1, {"log_decay has shape [2, 13, 4, 3]", "[2, 13, 4]"}},
        {apply_with("gated_delta_net", unknown, ""), 1, {"log_decai", "is unknown", "did you mean log_decay?"}},
        {apply_with("gated_delta_net", stateful, ""), 1, {"state memory has shape [2, 4, 6, 6]", "[2, 4, 5, 6]"}},
        {apply_with("gated_delta_net", delta_inputs(), "--grad"), 1, {"dy is missing"}},
        {apply_with("gated_delta_net", wrong_dy, "--grad"), 1, {"dy has shape [2, 13, 4, 6]", "[2, 13, 4, 5]"}},
        {apply_with("gated_delta_net", delta_inputs(), "--ridge-policy constant"), 1, {"--ridge-policy", "descend", "'ridge' is unknown"}},
        {apply_with("gated_delta_net", delta_inputs(), "--eps 1e-3"), 1, {"--eps", "normaliser"}},
        {apply_with("gated_delta_net", delta_inputs(), "--read lazily"), 1, {"--read is 'lazily'", "inclusive, strict"}},
        {apply_with("gated_delta_net", delta_inputs(), "--dtype bf16"), 1, {"bf16"}},
    };
    for (size_t i = 0; i < table.size(); ++i) {
      CAPTURE(i);
      CHECK(table[i].ran.code == table[i].code);
      check_sentence(table[i].ran);
      for (const std::string& words : table[i].says) {
        CAPTURE(words);
        CHECK(table[i].ran.err.find(words) != std::string::npos);
      }
    }
    CHECK(ttr_run(folder, "--help").code == 0);
    CHECK(ttr_run(folder, "apply --help").out.find("--ridge-policy") != std::string::npos);
  }

  TEST_CASE("train writes what it promises, sample continues from it") {
    const Folder folder;
    std::ofstream(folder / "text") << [] {
      std::string text;
      for (int i = 0; i < 300; ++i) text += "the cat sat on the mat; ";
      return text;
    }();
    const std::string sizes =
        " --steps 20 --batch 2 --context 16 --dim 16 --blocks 1 --heads 2 --log-every 5 --eval-every 10 --lr 0.01 --seed 3 --data " +
        folder / "text";
    const Ran ran = ttr_run(folder, "train --recipe gated_delta_net --out " + folder / "run" + sizes);
    CAPTURE(ran.err);
    REQUIRE(ran.code == 0);
    for (const char* words :
         {"7200 bytes", "parameters", "memory of a step", "delta/cpu-chunk", "byte n-gram, order 5", "sample, temperature 0.8"}) {
      CAPTURE(words);
      CHECK(ran.out.find(words) != std::string::npos);
    }
    for (const char* name : {"config.toml", "curve.svg", "last.safetensors", "best.safetensors"})
      CHECK(fs::file_size(fs::path(folder / "run") / name) > 0);

    std::ifstream lines((fs::path(folder / "run") / "metrics.jsonl").string());
    std::vector<Json> metrics;
    for (std::string line; std::getline(lines, line);) metrics.push_back(Json::parse(line));
    REQUIRE(metrics.size() == 5);   // steps 1, 5, 10, 15, 20
    for (const Json& m : metrics) {
      CHECK(m.size() == 6);
      for (const char* key : {"step", "loss", "lr", "grad_norm", "tokens_per_s"}) CHECK(m.at(key).is_number());
    }
    CHECK(metrics[1].at("val_loss").is_null());
    CHECK(metrics[2].at("val_loss").is_number());
    CHECK(metrics[4].at("step") == 20);
    CHECK(metrics[4].at("val_loss").get<double>() < metrics[0].at("loss").get<double>() - 1);   // it learns

    const std::string sample = "sample --from " + folder / "run" + " --prompt 'the cat' --tokens 40 --temperature 0.5 --seed 2";
    const Ran first = ttr_run(folder, sample), second = ttr_run(folder, sample);
    CAPTURE(first.err);
    CHECK(first.code == 0);
    CHECK(first.out.size() == 7 + 40 + 1);
    CHECK(first.out.substr(0, 7) == "the cat");
    CHECK(first.out == second.out);
    CHECK(ttr_run(folder, sample + "3").out != first.out);

    const Ran again = ttr_run(folder, "train --recipe gated_delta_net --out " + folder / "run" + sizes);
    CHECK(again.code == 1);
    check_sentence(again);
    CHECK(again.err.find("is not empty") != std::string::npos);
    const Ran twin = ttr_run(folder, "train --recipe gated_delta_net --out " + folder / "twin" + sizes);   // the same seed is the same run
    CHECK(twin.code == 0);
    const auto bytes = [&](const char* run) {
      std::stringstream text;
      text << std::ifstream((fs::path(folder / run) / "curve.svg").string()).rdbuf();
      return text.str();
    };
    CHECK(bytes("run") == bytes("twin"));
  }

  TEST_CASE("a triple that no kernel knows trains by naming it, and attention samples past its context") {
    const Folder folder;
    std::ofstream(folder / "text") << std::string(500, 'a') + std::string(500, 'b');
    const std::string sizes = " --steps 3 --batch 1 --context 8 --dim 8 --blocks 1 --heads 2 --data " + folder / "text";
    const Ran mlp = ttr_run(
        folder, "train --recipe 'geometric / mlp[hidden=4] / descend[rule=momentum,at=chunk,chunk=4]' --out " + folder / "mlp" + sizes);
    CAPTURE(mlp.err);
    CHECK(mlp.code == 0);
    CHECK(mlp.out.find(": fold") != std::string::npos);
    CHECK(ttr_run(folder, "train --recipe softmax_attention --out " + folder / "attention" + sizes).code == 0);
    for (const char* run : {"mlp", "attention"}) {
      const Ran sample = ttr_run(folder, "sample --from " + folder / run + " --prompt ab --tokens 30 --temperature 0");
      CAPTURE(sample.err);
      CHECK(sample.code == 0);
      CHECK(sample.out.size() == 2 + 30 + 1);
    }
  }

  TEST_CASE("an interrupted run saves what it has and exits with 130") {
    const Folder folder;
    std::ofstream(folder / "text") << std::string(5000, 'a') + std::string(5000, 'b');
    const std::string text = folder / "text", run = folder / "run", log = folder / "log";
    std::fflush(nullptr);   // the child must not write what is still held here
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      if (!freopen(log.c_str(), "w", stdout) || !freopen(log.c_str(), "w", stderr)) _exit(99);
      execl(TTR_PROGRAM, "ttr", "train", "--recipe", "delta_net", "--steps", "1000000", "--batch", "1", "--context", "16", "--dim", "8",
            "--blocks", "1", "--heads", "1", "--data", text.c_str(), "--out", run.c_str(), nullptr);
      _exit(98);
    }
    const auto lines = [&] {
      std::ifstream file(run + "/metrics.jsonl");
      return std::count(std::istreambuf_iterator<char>(file), {}, '\n');
    };
    for (int tries = 0; tries < 600 && lines() < 3; ++tries) usleep(100'000);
    CHECK(lines() >= 3);
    kill(child, SIGINT);
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 130);
    CHECK(fs::file_size(fs::path(folder / "run") / "last.safetensors") > 0);
  }
}
