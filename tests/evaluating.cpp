// Tokenizers, sampling, evaluation and plots as a user drives them. The models are as small as models get.
#include <signal.h>
#include <cmath>
#include <map>
#include <sstream>
#include <nlohmann/json.hpp>
#include <ttr/apps/tokenizer.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/safetensors.hpp>
#include <ttr/layers/language_model.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/optim/arena.hpp>
#include <ttr/tests/drive.hpp>

namespace {

using namespace ttr;
using namespace drive;
using Json = nlohmann::json;
namespace fs = std::filesystem;

const std::string kSmall = " --batch 2 --dim 16 --blocks 1 --heads 2 --lr 0.01 --log-every 5 --eval-every 5 ";
const std::string kSizes = kSmall + "--context 16 ";

std::string tale() {
  std::string text;
  for (int i = 0; i < 90; ++i) text += "the caf\xc3\xa9 cat sat on mat " + std::to_string(i * i % 97) + "; ";
  return text;
}

std::vector<Json> metrics_in(const std::string& run) {
  std::istringstream lines(contents(run + "/metrics.jsonl"));
  std::vector<Json> metrics;
  for (std::string line; std::getline(lines, line);) metrics.push_back(Json::parse(line));
  return metrics;
}

// The two numbers in the row of a table of losses.
struct Row {
  double nats = NAN, bits = NAN;
};
Row row_in(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  Row row;
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("  " + name + " ")) std::istringstream(line.substr(2 + name.size())) >> row.nats >> row.bits;
  return row;
}

bool near(double a, double b, double within) { return std::abs(a - b) <= within; }

}  // namespace

TEST_SUITE("evaluating") {
  TEST_CASE("one checkpoint holds the tokenizer: every kind trains, says nats and bits, is evaluated and sampled") {
    const Folder folder;
    std::ofstream(folder / "text") << tale();
    for (const std::string kind : {"byte", "char", "bpe"}) {
      CAPTURE(kind);
      const std::string run = folder / kind;
      const Ran ran = ttr_run(folder, "train --recipe gated_delta_net --steps 10 --tokenizer " + kind + (kind == "bpe" ? " --vocab 300" : "") + kSizes +
                                          "--data " + folder / "text" + " --out " + run);
      CAPTURE(ran.err);
      REQUIRE(ran.code == 0);
      const std::vector<Json> metrics = metrics_in(run);
      REQUIRE(metrics.size() == 3);   // steps 1, 5, 10
      const bool bytes = kind == "byte";
      for (const Json& m : metrics) CHECK(m.size() == (bytes ? 6 : 8));
      CHECK(says(ran.out, bytes ? "nats per byte" : "nats per token"));
      CHECK(says(ran.out, "bits per byte"));
      CHECK(says(ran.err, "bits/byte") == !bytes);
      CHECK(says(ran.out, "tokenizer: ") == !bytes);

      // Alone, and elsewhere.
      const std::string alone = folder / ("alone_" + kind);
      fs::copy_file(run + "/last.safetensors", alone);
      const Ran eval = ttr_run(folder, "eval --from " + alone);
      CAPTURE(eval.err);
      REQUIRE(eval.code == 0);
      const Row model = row_in(eval.out, "gated_delta_net"), gram = row_in(eval.out, "byte n-gram, order 2");
      CHECK(near(model.nats, metrics[2].at("val_loss"), 6e-5));   // four decimals are printed
      const double bits = bytes ? model.nats / std::log(2.0) : metrics[2].at("val_bits_per_byte").get<double>();
      CHECK(near(model.bits, bits, 1.5e-4));
      CHECK(near(model.nats / model.bits, gram.nats / gram.bits, 1e-3));   // one number of bytes per token for all rows
      CHECK(row_in(ran.out, "gated_delta_net").nats == model.nats);
      CHECK(near(row_in(ran.out, "byte n-gram, order 2").nats, gram.nats, 1e-9));

      const Ran sample = ttr_run(folder, "sample --from " + alone + " --prompt 'the caf\xc3\xa9' --tokens 12 --seed 4");
      CHECK(sample.code == 0);
      CHECK(sample.out.starts_with("the caf\xc3\xa9"));
      CHECK(sample.out.back() == '\n');
    }
    check_sentence(ttr_run(folder, "sample --from " + folder / "char" + " --prompt 'caf\xc3\xa8'"), 1,
                   "character '\xc3\xa8' (U+00E8) at byte 3 of the text is unknown");
    std::ofstream(folder / "other") << "THE CAT";
    check_sentence(ttr_run(folder, "eval --from " + folder / "char" + " --data " + folder / "other"), 1, "character 'T' (U+0054) at byte 0");
    CHECK(ttr_run(folder, "eval --from " + folder / "bpe" + " --data " + folder / "other").code == 0);   // knows every text
    check_sentence(ttr_run(folder, "train --tokenizer byte --vocab 300" + kSizes + "--data " + folder / "text" + " --out " + folder / "no"), 1,
                   "vocab is 300 for the tokenizer byte");
    check_sentence(ttr_run(folder, "train --tokenizer bpe --vocab 100" + kSizes + "--data " + folder / "text" + " --out " + folder / "no2"), 1,
                   "vocab is 100, needs 256 to 65536");

    // A checkpoint whose tokenizer lies.
    std::string bad = contents(folder / "alone_bpe");
    const size_t at = bad.find("[[");
    REQUIRE(at != std::string::npos);
    const size_t comma = bad.find(',', at);
    for (size_t i = at + 2; i < comma; ++i) bad[i] = '9';
    std::ofstream(folder / "bad", std::ios::binary) << bad;
    const Ran lied = ttr_run(folder, "sample --from " + folder / "bad");
    if (comma - at - 2 > 2) check_sentence(lied, 1, "merge 0 in the tokenizer of");   // 999 is no token; 99 is one
  }

  TEST_CASE("a resumed run with byte pairs goes on with its tokenizer, to the bit") {
    const Folder folder;
    std::ofstream(folder / "text") << tale();
    const std::string options = "train --recipe delta_net --tokenizer bpe --vocab 280" + kSizes +
                                "--data " + folder / "text" + " --schedule-steps 6 --warmup 2";
    REQUIRE(ttr_run(folder, options + " --steps 6 --out " + folder / "straight").code == 0);
    REQUIRE(ttr_run(folder, options + " --steps 3 --out " + folder / "halved").code == 0);
    const Ran rest = ttr_run(folder, "train --steps 6 --resume " + folder / "halved");
    CAPTURE(rest.err);
    REQUIRE(rest.code == 0);
    const SafetensorsFile a((folder / "straight") + "/last.safetensors"), b((folder / "halved") + "/last.safetensors");
    CHECK(a.metadata().at("tokenizer") == b.metadata().at("tokenizer"));
    for (const std::string& name : a.names()) {
      CAPTURE(name);
      REQUIRE(a.at(name).bytes == b.at(name).bytes);
      CHECK(std::memcmp(a.read(name).data, b.read(name).data, a.at(name).bytes) == 0);
    }
  }

  TEST_CASE("what is sampled is what the full forward pass says") {
    const Folder folder;
    std::ofstream(folder / "text") << tale();
    for (const auto& [name, recipe] : {std::pair<std::string, Recipe>{"gated_delta_net", recipes::gated_delta_net},
                                       {"softmax_attention", recipes::softmax_attention}}) {
      CAPTURE(name);
      REQUIRE(ttr_run(folder, "train --recipe " + name + " --steps 10 --tokenizer bpe --vocab 300" + kSmall + "--context 40 --data " + folder / "text" +
                                  " --out " + folder / name).code == 0);
      const Ran ran = ttr_run(folder, "sample --temperature 0 --tokens 20 --prompt 'the cat' --dtype f64 --from " + folder / name);
      REQUIRE(ran.code == 0);
      const SafetensorsFile file((folder / name) + "/best.safetensors");
      const Tokenizer tokenizer = Tokenizer::parse(file.metadata().at("tokenizer"), "file");
      LanguageModel model({.vocab = tokenizer.vocab(), .dim = 16, .blocks = 1, .heads = 2, .mixer = recipe}, 1, cpu_device, Dtype::f64);
      load_parameters(model, file);
      std::vector<int32_t> tokens = tokenizer.encode("the cat");
      const Recording off(false);
      for (int i = 0; i < 20; ++i) {   // no state: everything again for each token
        const Tensor logits = model(from_vector(tokens, {1, int64_t(tokens.size())}));
        const std::vector<double> last = slice(logits, 1, int64_t(tokens.size()) - 1, int64_t(tokens.size())).to_vector<double>();
        tokens.push_back(int32_t(std::max_element(last.begin(), last.end()) - last.begin()));
      }
      CHECK(ran.out == tokenizer.decode(tokens) + "\n");
      CHECK(ttr_run(folder, "sample --top-k 1 --tokens 20 --prompt 'the cat' --dtype f64 --from " + folder / name).out == ran.out);
      CHECK(ttr_run(folder, "sample --top-p 1e-9 --tokens 20 --prompt - --dtype f64 --from " + folder / name, "printf 'the cat' |").out == ran.out);
      CHECK(ttr_run(folder, "sample --top-k 40 --top-p 0.9 --seed 2 --tokens 20 --from " + folder / name).out !=
            ttr_run(folder, "sample --top-k 40 --top-p 0.9 --seed 3 --tokens 20 --from " + folder / name).out);
    }
    const std::string from = " --from " + folder / "gated_delta_net";
    check_sentence(ttr_run(folder, "sample --top-p 0" + from), 2, "--top-p is 0, needs a number above 0 and at most 1");
    check_sentence(ttr_run(folder, "sample --top-p 1.5" + from), 2, "is 1.5");
    check_sentence(ttr_run(folder, "sample --top-k -1" + from), 2, "--top-k is -1, needs a whole number of at least 0");
    check_sentence(ttr_run(folder, "sample --temperature -1" + from), 2, "--temperature is -1, needs a number of at least 0");
    check_sentence(ttr_run(folder, "sample --temperature warm" + from), 2, "is warm");
    check_sentence(ttr_run(folder, "sample --prompt ''" + from), 1, "the prompt is empty");
    check_sentence(ttr_run(folder, "sample --from " + folder / "nowhere"), 1, "holds no best.safetensors");
    check_sentence(ttr_run(folder, "sample --from " + folder / "text"), 1, "text");

    // It can be read while it is written, and stopped.
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const std::string run = folder / "gated_delta_net";
    std::fflush(nullptr);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      dup2(ends[1], STDOUT_FILENO);
      close(ends[0]);
      execl(TTR_PROGRAM, "ttr", "sample", "--from", run.c_str(), "--tokens", "100000000", nullptr);
      _exit(98);
    }
    close(ends[1]);
    std::string seen;
    char block[64];
    for (ssize_t n; seen.size() < 100 && (n = ::read(ends[0], block, sizeof block)) > 0;) seen.append(block, size_t(n));
    CHECK(seen.size() >= 100);
    kill(child, SIGINT);
    while (::read(ends[0], block, sizeof block) > 0) {}
    int status = 0;
    waitpid(child, &status, 0);
    close(ends[0]);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 130);
  }

  TEST_CASE("eval by position: the table adds up to the loss, the context may be longer than trained, and runs are laid over each other") {
    const Folder folder;
    std::ofstream(folder / "text") << tale();
    std::ofstream(folder / "more") << tale().substr(100, 500);
    for (const std::string name : {"gated_delta_net", "softmax_attention"})
      REQUIRE(ttr_run(folder, "train --recipe " + name + " --steps 10" + kSizes + "--data " + folder / "text" + " --out " + folder / name).code == 0);
    const std::string from = "eval --from " + folder / "gated_delta_net";
    const Ran whole = ttr_run(folder, from + " --context 40 --data " + folder / "more");
    const Ran ran = ttr_run(folder, from + " --context 40 --by-position --data " + folder / "more");
    CAPTURE(ran.err);
    REQUIRE(ran.code == 0);
    CHECK(says(ran.out, "context: 40, trained on 16"));
    CHECK(says(ran.out, "500 bytes"));
    CHECK(row_in(whole.out, "gated_delta_net").nats > 0);
    CHECK(near(row_in(ran.out, "gated_delta_net").nats, row_in(whole.out, "gated_delta_net").nats, 1.01e-4));
    std::istringstream lines(contents((folder / "gated_delta_net") + "/by_position.csv"));
    std::string line;
    std::getline(lines, line);
    CHECK(line == "position,targets,nats_per_token,standard_error,bits_per_byte");
    double nats = 0, targets = 0;
    int positions = 0;
    while (std::getline(lines, line)) {
      double p, n, loss;
      char c;
      std::istringstream(line) >> p >> c >> n >> c >> loss;
      CHECK(p == ++positions);
      CHECK(n == (p <= 499 % 40 ? 13 : 12));   // 499 targets in windows of 40
      nats += n * loss, targets += n;
    }
    CHECK(positions == 40);
    CHECK(targets == 499);
    CHECK(near(nats / targets, row_in(ran.out, "gated_delta_net").nats, 6e-5));
    const std::string drawing = contents((folder / "gated_delta_net") + "/by_position.svg");
    CHECK(says(drawing, "tokens of context"));
    CHECK(says(drawing, "trained on 16"));
    CHECK(says(drawing, "order 5: "));

    const Ran other = ttr_run(folder, "eval --from " + folder / "softmax_attention" + " --by-position --out " + folder / "new/folder");
    CHECK(other.code == 0);
    CHECK(says(other.out, "the part it was validated on"));
    CHECK(fs::exists(folder / "new/folder/by_position.csv"));
    const Ran same = ttr_run(folder, "eval --from " + folder / "softmax_attention" + " --data " + folder / "text");
    CHECK(row_in(same.out, "softmax_attention").nats == row_in(other.out, "softmax_attention").nats);   // its own text by name: the same part

    const Ran over = ttr_run(folder, "plot " + folder / "gated_delta_net" + " " + folder / "softmax_attention/" + " --out " + folder / "both.svg");
    CAPTURE(over.err);
    REQUIRE(over.code == 0);
    for (const std::string& text : {contents(folder / "both.svg"), over.out}) {
      CHECK(says(text, "gated_delta_net"));
      CHECK(says(text, "softmax_attention"));
      CHECK(says(text, "nats per byte"));
    }
    const Ran placed = ttr_run(folder, "plot --by-position --out " + folder / "places.svg " + folder / "gated_delta_net" + " " + folder / "new/folder");
    CHECK(placed.code == 0);
    CHECK(says(contents(folder / "places.svg"), "tokens of context"));

    check_sentence(ttr_run(folder, "plot"), 2, "runs is required");
    check_sentence(ttr_run(folder, "plot " + folder / "nowhere"), 1, "metrics.jsonl cannot be opened");
    check_sentence(ttr_run(folder, "plot --by-position " + folder / "softmax_attention"), 1, "needs what `ttr eval --by-position` writes");
    std::ofstream((folder / "softmax_attention") + "/by_position.csv") << "position,targets,nats_per_token,standard_error,bits_per_byte\n1,2,3\n";
    check_sentence(ttr_run(folder, "plot --by-position " + folder / "softmax_attention"), 1, "line 2 of");
    check_sentence(ttr_run(folder, "plot " + folder / "gated_delta_net" + " --out " + folder / "no/such/folder.svg"), 1, "cannot be created");
    check_sentence(ttr_run(folder, from + " --data " + folder / "none"), 1, "cannot be opened");
    check_sentence(ttr_run(folder, from + " --by-position --out " + folder / "text"), 1, "needs a folder");
    check_sentence(ttr_run(folder, from + " --context -3"), 2, "is -3");
    std::ofstream(folder / "one") << "x";
    check_sentence(ttr_run(folder, from + " --data " + folder / "one"), 1, "needs at least 2");
    fs::remove(folder / "text");   // the run's own text is gone: no n-grams, and that is said
    const Ran gone = ttr_run(folder, from + " --data " + folder / "more");
    CHECK(gone.code == 0);
    CHECK(says(gone.out, "no n-grams"));
    CHECK(!says(gone.out, "order 5"));
    check_sentence(ttr_run(folder, from), 1, "cannot be opened");
  }

  TEST_CASE("several files are one text; the grammar's entropy is the measure of a run on it; what ran is said") {
    const Folder folder;
    std::ofstream(folder / "one") << tale().substr(0, 1000);
    std::ofstream(folder / "two") << tale().substr(1000);
    std::ofstream(folder / "both") << tale();
    const std::string train = "train --recipe delta_net --steps 2" + kSizes;
    const Ran two = ttr_run(folder, train + "--out " + folder / "a" + " --data " + folder / "one" + " " + folder / "two");
    CAPTURE(two.err);
    REQUIRE(two.code == 0);
    REQUIRE(ttr_run(folder, train + "--data " + folder / "both" + " --out " + folder / "b").code == 0);
    CHECK(metrics_in(folder / "a")[1].at("val_loss") == metrics_in(folder / "b")[1].at("val_loss"));
    CHECK(says(two.out, "one + "));
    CHECK(says(two.out, fmt::format("{} bytes", tale().size())));
    CHECK(row_in(ttr_run(folder, "eval --from " + folder / "a").out, "delta_net").nats ==
          row_in(ttr_run(folder, "eval --from " + folder / "b").out, "delta_net").nats);
    CHECK(ttr_run(folder, "train --steps 3 --resume " + folder / "a").code == 0);   // both files are in its configuration

    const Ran grammar = ttr_run(folder, "train --recipe delta_net --steps 2" + kSmall + "--context 64 --data grammar:7 --out " + folder / "g");
    CAPTURE(grammar.err);
    REQUIRE(grammar.code == 0);
    CHECK(says(grammar.out, "a grammar with seed 7 and "));
    CHECK(says(contents((folder / "g") + "/config.toml"), "data = [\"grammar:7\"]"));
    const Row best = row_in(grammar.out, "the grammar's entropy"), model = row_in(grammar.out, "delta_net");
    CHECK(best.nats > 0.4);
    CHECK(best.nats < 0.7);
    CHECK(model.bits > best.bits);
    CHECK(says(grammar.out, fmt::format("{:.4f} bits per byte above the entropy", model.bits - best.bits).substr(0, 5)));
    CHECK(says(contents((folder / "g") + "/curve.svg"), "entropy: "));
    check_sentence(ttr_run(folder, train + "--data grammar:x --out " + folder / "h"), 1, "the seed of grammar:x is 'x'");
    check_sentence(ttr_run(folder, train + "--out " + folder / "i" + " --data grammar " + folder / "one"), 1, "stands among 2 files");
  }
}
