#include "options.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <iterator>
#include <new>
#include <optional>
#include <string>

#include "docstrings.hpp"
#include "errors.hpp"

namespace syncbn::bindings {
namespace {

// The names of an enumeration of the C interface; the position is the value.
constexpr const char* kWeightings[] = {"count", "equal", "batch"};
constexpr const char* kEpsModes[] = {"add", "max"};
constexpr const char* kVarianceFactors[] = {"unbiased", "biased", "unbiased_local",
                                            "unbiased_rank"};
constexpr const char* kGradReductions[] = {"local", "sum", "mean"};
constexpr const char* kCenterings[] = {"auto", "on", "off"};
constexpr const char* kActivations[] = {"identity", "relu", "leaky_relu"};

template <class Enum, std::size_t Count>
Enum choice(const char* option, const std::string& name, const char* const (&names)[Count]) {
  std::string expected;
  for (std::size_t i = 0; i < Count; ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
    expected += concat(i == 0 ? "'" : ", '", names[i], "'");
  }
  fail_argument(option, ": got '", name, "', expected one of ", expected);
}

double momentum_of(std::optional<double> momentum) {
  if (!momentum) return SYNCBN_MOMENTUM_CUMULATIVE;
  // The C interface's mark for None must not be reached by a number that is out of range.
  if (*momentum < 0)
    fail_argument("momentum: got ", *momentum,
                  ", expected 0 <= momentum <= 1, or None for the cumulative average");
  return *momentum;
}

// The core knows what is allowed; a shape that is always right makes it look at the options alone.
void validate(const syncbn_options& options) {
  syncbn_shape shape = SYNCBN_SHAPE_INIT;
  shape.c = 1;
  syncbn_sizes sizes = SYNCBN_SIZES_INIT;
  check_status(syncbn_query_sizes(&shape, &options, SYNCBN_CPU, &sizes));
}

void construct(Options* self, double eps, std::optional<double> momentum,
               const std::string& weighting, const std::string& eps_mode,
               const std::string& variance_factor, const std::string& grad_reduction,
               const std::string& centering, const std::string& activation, double negative_slope) {
  syncbn_options values = SYNCBN_OPTIONS_INIT;
  values.eps = eps;
  values.momentum = momentum_of(momentum);
  values.negative_slope = negative_slope;
  values.weighting = choice<syncbn_weighting>("weighting", weighting, kWeightings);
  values.eps_mode = choice<syncbn_eps_mode>("eps_mode", eps_mode, kEpsModes);
  values.variance_factor =
      choice<syncbn_variance_factor>("variance_factor", variance_factor, kVarianceFactors);
  values.grad_reduction =
      choice<syncbn_grad_reduction>("grad_reduction", grad_reduction, kGradReductions);
  values.centering = choice<syncbn_centering>("centering", centering, kCenterings);
  values.activation = choice<syncbn_activation>("activation", activation, kActivations);
  validate(values);
  new (self) Options(values);
}

std::string repr(const Options& self) {
  std::string text = "Options(";
  const char* separator = "";
  for (auto [name, value] : self.keywords()) {
    text += concat(separator, nb::cast<const char*>(name), "=", nb::repr(value).c_str());
    separator = ", ";
  }
  return text + ")";
}

void bind_pickling(nb::class_<Options>& options) {
  options
      .def("__getstate__", &Options::keywords,
           nb::sig("def __getstate__(self) -> dict[str, float | str | None]"))
      .def(
          "__setstate__",
          [](nb::pointer_and_handle<Options> self, const nb::dict& keywords) {
            const nb::object made = nb::type<Options>()(**keywords);
            new (self.p) Options(*nb::inst_ptr<Options>(made));
          },
          nb::sig("def __setstate__(self, state: dict[str, float | str | None], /) -> None"));
}

}  // namespace

nb::dict Options::keywords() const {
  nb::dict keywords;
  keywords["eps"] = values_.eps;
  if (values_.momentum < 0)
    keywords["momentum"] = nb::none();
  else
    keywords["momentum"] = values_.momentum;
  keywords["weighting"] = kWeightings[values_.weighting];
  keywords["eps_mode"] = kEpsModes[values_.eps_mode];
  keywords["variance_factor"] = kVarianceFactors[values_.variance_factor];
  keywords["grad_reduction"] = kGradReductions[values_.grad_reduction];
  keywords["centering"] = kCenterings[values_.centering];
  keywords["activation"] = kActivations[values_.activation];
  keywords["negative_slope"] = values_.negative_slope;
  return keywords;
}

void bind_options(nb::module_& module) {
  nb::class_<Options> options(module, "Options", doc::kOptions);
  options
      .def("__init__", &construct, nb::kw_only(), nb::arg("eps") = 1e-5,
           nb::arg("momentum").none() = 0.1, nb::arg("weighting") = "count",
           nb::arg("eps_mode") = "add", nb::arg("variance_factor") = "unbiased",
           nb::arg("grad_reduction") = "local", nb::arg("centering") = "auto",
           nb::arg("activation") = "identity", nb::arg("negative_slope") = 0.01)
      .def("__repr__", &repr)
      .def(
          "__eq__",
          [](const Options& self, nb::handle other) -> nb::object {
            if (!nb::isinstance<Options>(other)) return nb::borrow(Py_NotImplemented);
            return nb::cast(self.keywords().equal(nb::cast<const Options&>(other).keywords()));
          },
          nb::arg("other").none(), nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__",
           [](const Options& self) { return nb::hash(nb::tuple(self.keywords().values())); });
  bind_pickling(options);
  const auto property = [&](const char* name, const char* signature) {
    options.def_prop_ro(
        name, [name](const Options& self) { return nb::object(self.keywords()[name]); },
        nb::for_getter(nb::sig(signature)));
  };
  property("eps", "def eps(self) -> float");
  property("momentum", "def momentum(self) -> float | None");
  property("weighting", "def weighting(self) -> str");
  property("eps_mode", "def eps_mode(self) -> str");
  property("variance_factor", "def variance_factor(self) -> str");
  property("grad_reduction", "def grad_reduction(self) -> str");
  property("centering", "def centering(self) -> str");
  property("activation", "def activation(self) -> str");
  property("negative_slope", "def negative_slope(self) -> float");
}

}  // namespace syncbn::bindings
