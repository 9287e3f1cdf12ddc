// What the loops over planes and over rows share. Included by kernels_of.hpp.

// Sums of up to this many vectors per accumulator stay in the arithmetic type.
constexpr std::int64_t kVectorsPerSum = 64;

// A second output need not be aligned like the first.
inline Whole cached(Streamed) { return {}; }
template <class Lanes>
inline Lanes cached(Lanes lanes) {
  return lanes;
}

template <class A>
struct ForwardLanes {
  Vector<A> hi, lo, scale, bias;
};

template <class A>
inline ForwardLanes<A> lanes(const ForwardConstants& c) {
  return {broadcast(static_cast<A>(c.hi)), broadcast(static_cast<A>(c.lo)),
          broadcast(static_cast<A>(c.scale)), broadcast(static_cast<A>(c.bias))};
}

template <class A>
inline Vector<A> deviation(const ForwardLanes<A>& c, Vector<A> x) {
  return (x - c.hi) - c.lo;
}

// Significant bits of T.
template <class T>
inline constexpr int kDigits = 24;
template <>
inline constexpr int kDigits<Half> = 11;
template <>
inline constexpr int kDigits<BFloat16> = 8;
template <>
inline constexpr int kDigits<double> = 53;

// What both backward passes read of one channel's plane, or of one row.
template <class T>
struct GradView {
  const T *x, *dy, *y;

  GradView(const GradInputs& in, std::int64_t offset)
      : x(static_cast<const T*>(in.x) + offset),
        dy(static_cast<const T*>(in.dy) + offset),
        y(in.y == nullptr ? nullptr : static_cast<const T*>(in.y) + offset) {}
};

// dy', and how far the value that it belongs to is from its origin.
template <class A>
struct GradLanes {
  Vector<A> deviation, dy;
};

// The activation of vectors of T. kAny: every activation, and in place, else identity, relu and
// leaky_relu alone: their loops stay small.
template <class T, bool kAny>
class ActivationLanes {
  using A = Arithmetic<T>;
  using V = Vector<A>;

 public:
  explicit ActivationLanes(const Activation& act)
      : kind_(act.kind),
        in_place_(act.in_place),
        slope_(broadcast(static_cast<A>(act.negative_slope))),
        inverse_slope_(broadcast(static_cast<A>(inverse_slope(act)))) {}

  // NaN fails the comparison and stays.
  V operator()(V z) const {
    if (kind_ == SYNCNORM_IDENTITY) return z;
    if constexpr (kAny)
      if (kind_ == SYNCNORM_ELU) return z <= 0 ? expm1_of_negative<A>(z) : z;
    return z <= 0 ? below(z) : z;
  }

  // At offset i.
  template <class Lanes>
  GradLanes<A> load_gradient(Lanes part, const GradView<T>& in, std::int64_t i,
                             const ForwardLanes<A>& c) const {
    const V x = load(part, in.x + i), dy = load(part, in.dy + i);
    const V d = deviation<A>(c, x);
    if (kind_ == SYNCNORM_IDENTITY) return {d, dy};
    if constexpr (kAny)
      if (in_place_) return {deviation<A>(c, inverse(x)), gradient_of_output(x, dy)};
    if (in.y != nullptr) return {d, gradient_of_output(load(part, in.y + i), dy)};
    return {d, gradient(fma(d, c.scale, c.bias), dy)};
  }

 private:
  static double inverse_slope(const Activation& act) {
    return act.in_place && act.kind == SYNCNORM_LEAKY_RELU ? 1.0 / act.negative_slope : 1.0;
  }

  // relu and leaky_relu below zero, of z or of dy.
  V below(V value) const { return kind_ == SYNCNORM_RELU ? V{} : value * slope_; }

  // dy' where z went into the activation.
  V gradient(V z, V dy) const {
    if constexpr (kAny)
      if (kind_ == SYNCNORM_ELU) return z <= 0 ? dy * exp_of_negative<A>(z) : dy;
    return z <= 0 ? below(dy) : dy;
  }
  // dy' where y came out of it.
  V gradient_of_output(V y, V dy) const {
    if constexpr (kAny)
      if (kind_ == SYNCNORM_ELU) return y <= 0 ? dy * (y + A(1)) : dy;
    return y <= 0 ? below(dy) : dy;
  }
  // What went into it, in place.
  V inverse(V y) const {
    if (kind_ != SYNCNORM_ELU) return y <= 0 ? y * inverse_slope_ : y;
    constexpr A kSaturation = static_cast<A>(elu_saturation(kDigits<T>));
    const V z = y <= 0 ? log1p_of_negative<A>(y) : y;
    return y <= A(-1) ? broadcast(kSaturation) : z;
  }

  syncnorm_activation kind_;
  bool in_place_;
  V slope_, inverse_slope_;
};
