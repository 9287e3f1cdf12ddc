#include "options.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <new>
#include <optional>
#include <string>

#include "docstrings.hpp"
#include "errors.hpp"
#include "option_names.hpp"

namespace syncnorm::bindings {
namespace {

template <class Enum, std::size_t Count>
Enum choice(const char* option, const std::string& name, const char* const (&names)[Count]) {
  if (const std::optional<Enum> value = find_choice<Enum>(name, names)) return *value;
  fail_argument(option, ": got '", name, "', expected one of ", listed(names));
}

double momentum_of(std::optional<double> momentum) {
  if (!momentum) return SYNCNORM_MOMENTUM_CUMULATIVE;
  // A negative number means None in the C interface; an invalid number must not select it.
  if (*momentum < 0)
    fail_argument("momentum: got ", *momentum,
                  ", expected 0 <= momentum <= 1, or None for the cumulative average");
  return *momentum;
}

// The core validates the options, here with a valid shape.
void validate(const syncnorm_options& options) {
  syncnorm_shape shape = SYNCNORM_SHAPE_INIT;
  shape.c = 1;
  syncnorm_sizes sizes = SYNCNORM_SIZES_INIT;
  check_status(syncnorm_query_sizes(&shape, &options, SYNCNORM_CPU, &sizes));
}

void construct(Options* self, double eps, std::optional<double> momentum,
               const std::string& weighting, const std::string& eps_mode,
               const std::string& variance_factor, const std::string& grad_reduction,
               const std::string& centering, const std::string& activation, double negative_slope,
               bool in_place) {
  syncnorm_options values = SYNCNORM_OPTIONS_INIT;
  values.eps = eps;
  values.momentum = momentum_of(momentum);
  values.negative_slope = negative_slope;
  values.weighting = choice<syncnorm_weighting>("weighting", weighting, kWeightings);
  values.eps_mode = choice<syncnorm_eps_mode>("eps_mode", eps_mode, kEpsModes);
  values.variance_factor =
      choice<syncnorm_variance_factor>("variance_factor", variance_factor, kVarianceFactors);
  values.grad_reduction =
      choice<syncnorm_grad_reduction>("grad_reduction", grad_reduction, kGradReductions);
  values.centering = choice<syncnorm_centering>("centering", centering, kCenterings);
  values.activation = choice<syncnorm_activation>("activation", activation, kActivations);
  values.in_place = in_place ? 1 : 0;
  validate(values);
  new (self) Options(values);
}

// The keyword arguments of the constructor, in order. Each is a property too.
struct Keyword {
  const char* name;
  const char* signature;  // of the property
  nb::object (*value)(const syncnorm_options&);
};

constexpr Keyword kKeywords[] = {
    {"eps", "def eps(self) -> float",
     [](const syncnorm_options& values) { return nb::cast(values.eps); }},
    {"momentum", "def momentum(self) -> float | None",
     [](const syncnorm_options& values) {
       return values.momentum < 0 ? nb::none() : nb::cast(values.momentum);
     }},
    {"weighting", "def weighting(self) -> str",
     [](const syncnorm_options& values) { return nb::cast(kWeightings[values.weighting]); }},
    {"eps_mode", "def eps_mode(self) -> str",
     [](const syncnorm_options& values) { return nb::cast(kEpsModes[values.eps_mode]); }},
    {"variance_factor", "def variance_factor(self) -> str",
     [](const syncnorm_options& values) {
       return nb::cast(kVarianceFactors[values.variance_factor]);
     }},
    {"grad_reduction", "def grad_reduction(self) -> str",
     [](const syncnorm_options& values) {
       return nb::cast(kGradReductions[values.grad_reduction]);
     }},
    {"centering", "def centering(self) -> str",
     [](const syncnorm_options& values) { return nb::cast(kCenterings[values.centering]); }},
    {"activation", "def activation(self) -> str",
     [](const syncnorm_options& values) { return nb::cast(kActivations[values.activation]); }},
    {"negative_slope", "def negative_slope(self) -> float",
     [](const syncnorm_options& values) { return nb::cast(values.negative_slope); }},
    {"in_place", "def in_place(self) -> bool",
     [](const syncnorm_options& values) { return nb::cast(values.in_place != 0); }},
};

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
  for (const Keyword& keyword : kKeywords) keywords[keyword.name] = keyword.value(values_);
  return keywords;
}

void bind_options(nb::module_& module) {
  nb::class_<Options> options(module, "Options", doc::kOptions);
  options
      .def("__init__", &construct, nb::kw_only(), nb::arg("eps") = 1e-5,
           nb::arg("momentum").none() = 0.1, nb::arg("weighting") = "count",
           nb::arg("eps_mode") = "add", nb::arg("variance_factor") = "unbiased",
           nb::arg("grad_reduction") = "local", nb::arg("centering") = "auto",
           nb::arg("activation") = "identity", nb::arg("negative_slope") = 0.01,
           nb::arg("in_place") = false)
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
  for (const Keyword& keyword : kKeywords)
    options.def_prop_ro(
        keyword.name, [&keyword](const Options& self) { return keyword.value(self.values()); },
        nb::for_getter(nb::sig(keyword.signature)));
}

}  // namespace syncnorm::bindings
