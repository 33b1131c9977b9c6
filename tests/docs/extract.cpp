// Makes a test of a page: extract PAGE NAME > page.cpp. Fenced blocks are chosen by their info string.
//   cpp run          statements; the blocks of a page are one program, read in order, so later ones see what earlier ones made
//   cpp run top      declarations at namespace scope (types of your own)
//   output           what the block before it prints
//   sh run           commands for bash, `ttr` among them, in a folder of the page that is empty at its start; any failure is one
//   shows            lines that the commands before it print, in this order, not necessarily all
//   cpp from FILE    a quotation, of any language: FILE of this repository has these lines in this order
// Compilers and failures name the line of the page.
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct Block {
  std::string info;
  int line = 0;       // of its first line in the page
  std::vector<std::string> lines;
};

bool starts(const std::string& text, const std::string& with) { return text.rfind(with, 0) == 0; }

std::vector<Block> blocks_of(std::istream& page) {
  std::vector<Block> blocks;
  bool inside = false;
  int number = 0;
  for (std::string line; std::getline(page, line);) {
    ++number;
    if (starts(line, "```")) {
      inside = !inside;
      if (inside) blocks.push_back({line.substr(3), number + 1, {}});
    } else if (inside) {
      blocks.back().lines.push_back(line);
    }
  }
  if (inside) throw std::runtime_error("the last block has no end, needs ```");
  return blocks;
}

std::string quoted(const Block& block) {   // as a raw string
  std::string text = "R\"page(";
  for (const std::string& line : block.lines) text += line + "\n";
  return text + ")page\"";
}

bool hoisted(const std::string& line) { return starts(line, "#include") || starts(line, "using namespace"); }

void write_lines(std::ostream& out, const Block& block, const std::string& name, bool top) {
  out << "#line " << block.line << " \"" << name << "\"\n";
  for (const std::string& line : block.lines) out << (hoisted(line) != top ? "" : line) << "\n";
}

void write_test(std::ostream& out, const std::vector<Block>& blocks, const std::string& name) {
  out << "#include <ttr/tests/docs/page.hpp>\n";
  for (const Block& b : blocks)
    if (starts(b.info, "cpp run")) write_lines(out, b, name, true);
  out << "namespace {\n";
  for (const Block& b : blocks)
    if (b.info == "cpp run top") write_lines(out, b, name, false);
  out << "TEST_CASE(\"" << name << "\") {\n  page::Output output;\n  [[maybe_unused]] page::Shell shell;\n";
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Block& b = blocks[i];
    const std::string place = "\"" + name + ":" + std::to_string(b.line) + "\"";
    if (const size_t from = b.info.find(" from "); from != std::string::npos)
      out << "  page::quotes(" << place << ", \"" << b.info.substr(from + 6) << "\", " << quoted(b) << ");\n";
    if (b.info == "sh run") {
      const bool shows = i + 1 < blocks.size() && blocks[i + 1].info == "shows";
      out << "  shell.run(" << place << ", " << quoted(b) << ", " << (shows ? quoted(blocks[i + 1]) : "\"\"") << ");\n";
    }
    if (b.info != "cpp run") continue;
    out << "output.begin();\n";
    write_lines(out, b, name, false);
    const bool prints = i + 1 < blocks.size() && blocks[i + 1].info == "output";
    out << "output.end(" << place << ", " << (prints ? quoted(blocks[i + 1]) : "\"\"") << ");\n";
  }
  out << "}\n}\n";
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 3) throw std::runtime_error("there are " + std::to_string(count - 1) + " arguments, needs PAGE NAME");
  std::ifstream page(arguments[1]);
  if (!page) throw std::runtime_error(std::string(arguments[1]) + " cannot be read, needs a page");
  std::ostringstream test;
  write_test(test, blocks_of(page), arguments[2]);
  std::cout << test.str();
  return 0;
} catch (const std::exception& e) {
  std::cerr << "[extract] " << e.what() << "\n";
  return 1;
}
