// What the loops over planes and over rows share. Included by kernels.cpp.

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

// NaN fails the comparison and stays.
template <class A>
inline Vector<A> activate(Activation act, Vector<A> slope, Vector<A> z) {
  if (act.kind == SYNCBN_IDENTITY) return z;
  const Vector<A> off = act.kind == SYNCBN_RELU ? Vector<A>{} : z * slope;
  return z <= 0 ? off : z;
}

// dy' = dy through the activation whose input has the sign of z.
template <class A>
inline Vector<A> activate_gradient(Activation act, Vector<A> slope, Vector<A> z, Vector<A> dy) {
  const Vector<A> off = act.kind == SYNCBN_RELU ? Vector<A>{} : dy * slope;
  return z <= 0 ? off : dy;
}

// dy' at offset i: the sign comes from the output where it is given, else from x.
template <class T, class Lanes>
inline Vector<Arithmetic<T>> load_gradient(Lanes part, const T* dy, const T* y, std::int64_t i,
                                           Activation act, Vector<Arithmetic<T>> slope,
                                           const ForwardLanes<Arithmetic<T>>& c,
                                           Vector<Arithmetic<T>> deviation) {
  const auto g = load(part, dy + i);
  if (act.kind == SYNCBN_IDENTITY) return g;
  const auto z = y != nullptr ? load(part, y + i) : fma(deviation, c.scale, c.bias);
  return activate_gradient<Arithmetic<T>>(act, slope, z, g);
}

// A value near the mean, from the mean and the spread of a sample: the mean rounded to a sixteenth
// of the spread or coarser. Near enough for x - shift to be small, and coarse enough for the
// differences of exactly representable data to stay exactly representable.
template <class A>
inline A exponent_only(A value) {
  using Bits = std::conditional_t<std::is_same_v<A, double>, std::uint64_t, std::uint32_t>;
  constexpr Bits kExponent =
      std::is_same_v<A, double> ? Bits(0x7ff0000000000000u) : Bits(0x7f800000u);
  return __builtin_bit_cast(A, static_cast<Bits>(__builtin_bit_cast(Bits, value) & kExponent));
}

template <class A>
inline A shift_near(A mean, A spread) {
  // Adding and subtracting 1.5*2^mantissa_bits*grid rounds to a multiple of grid.
  constexpr A kRounder = std::is_same_v<A, double> ? A(0x1.8p52) : A(0x1.8p23);
  const A grid = exponent_only(spread) * A(0.0625);
  const A magic = grid * kRounder;
  const A shift = (mean + magic) - magic;
  return shift - shift == 0 ? shift : A(0);  // not finite: zero
}
