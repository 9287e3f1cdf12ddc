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
