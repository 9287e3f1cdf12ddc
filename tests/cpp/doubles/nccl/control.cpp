#include "control.hpp"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <sstream>
#include <vector>

#include "nccl_double.hpp"

namespace nccl_double {
namespace {

struct Control {
  std::map<std::string, std::string> settings;
  std::map<std::string, long> calls;
  long misuses = 0;
  std::string complaint;

  Control() {
    for (const char* name : {"FAIL", "HANG", "STALL", "SLOW_MS", "ASYNC_ERROR", "VERSION"}) {
      if (const char* value = std::getenv((std::string("NCCL_DOUBLE_") + name).c_str()))
        settings[name] = value;
    }
  }
};

// Never destroyed: the process may still call while it exits.
Control& control() {
  static Control& made = *new Control;
  return made;
}

std::vector<std::string> parts(const std::string& text, char separator) {
  std::vector<std::string> found;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) found.push_back(part);
  return found;
}

bool names(const char* setting, const std::string& function) {
  const auto listed = parts(control().settings[setting], ',');
  return std::find(listed.begin(), listed.end(), function) != listed.end();
}

int number(const char* setting, int otherwise) {
  const std::string& text = control().settings[setting];
  return text.empty() ? otherwise : std::atoi(text.c_str());
}

ncclResult_t injected(const std::string& function) {
  const std::string call = function + ":" + std::to_string(control().calls[function]) + ":";
  for (const std::string& wish : parts(control().settings["FAIL"], ',')) {
    if (wish.rfind(call, 0) != 0) continue;
    complain("the test wants call " + call + " to fail");
    return static_cast<ncclResult_t>(std::atoi(wish.c_str() + call.size()));
  }
  return ncclSuccess;
}

}  // namespace

World& world() {
  static World& made = *new World;
  return made;
}

ncclResult_t enter(Lock& lock, const std::string& function, const std::function<bool()>& released) {
  ++control().calls[function];
  world().changed.notify_all();
  const ncclResult_t result = injected(function);
  world().changed.wait(lock, [&] { return !names("HANG", function) || released(); });
  return result;
}

bool stalls(const std::string& function) { return names("STALL", function); }

std::chrono::milliseconds slowness() { return std::chrono::milliseconds(number("SLOW_MS", 0)); }

ncclResult_t async_error() { return static_cast<ncclResult_t>(number("ASYNC_ERROR", 0)); }

int version() { return number("VERSION", 22809); }

ncclResult_t misuse(const std::string& complaint) {
  ++control().misuses;
  complain(complaint);
  return ncclInvalidArgument;
}

void complain(const std::string& complaint) { control().complaint = complaint; }

std::string last_complaint() { return control().complaint; }

}  // namespace nccl_double

using namespace nccl_double;

void nccl_double_set(const char* name, const char* value) {
  const Lock lock(world().mutex);
  control().settings[name] = value;
  world().changed.notify_all();
}

long nccl_double_calls(const char* function) {
  const Lock lock(world().mutex);
  return control().calls[function];
}

long nccl_double_misuses() {
  const Lock lock(world().mutex);
  return control().misuses;
}

void nccl_double_reset() {
  const Lock lock(world().mutex);
  control().settings.clear();
  control().calls.clear();
  control().misuses = 0;
  control().complaint.clear();
  world().changed.notify_all();
}
