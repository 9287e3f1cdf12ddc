// Without libFuzzer: runs the target once on every file of the folders and files that are named.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

void replay(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  std::fprintf(stderr, "%s\n", path.c_str());
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

int main(int count, char** arguments) {
  int inputs = 0;
  for (int i = 1; i < count; ++i) {
    if (!std::filesystem::is_directory(arguments[i])) {
      replay(arguments[i]), ++inputs;
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(arguments[i]))
      replay(entry.path()), ++inputs;
  }
  if (inputs == 0) std::fprintf(stderr, "no input was found; expected files or folders of files\n");
  return inputs == 0 ? 1 : 0;
}
