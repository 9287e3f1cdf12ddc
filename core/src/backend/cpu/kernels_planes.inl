// Channels first: one channel at a time, its constants in registers. Included by kernels_of.hpp.

constexpr int kSamples = 8;

// From up to 8 values spread over the planes.
template <class T>
inline Arithmetic<T> plane_shift(const T* x, Planes p) {
  using A = Arithmetic<T>;
  const std::int64_t count = p.planes * p.length;
  int samples = kSamples;
  while (samples > count) samples /= 2;
  A sum = 0, least = 0, most = 0;
  for (int i = 0; i < samples; ++i) {
    const std::int64_t at = count / samples * i;
    const A value = load(Part{1}, x + at / p.length * p.stride + at % p.length)[0];
    sum += value;
    least = i == 0 || value < least ? value : least;
    most = i == 0 || value > most ? value : most;
  }
  return shift_near<A>(sum / static_cast<A>(samples), most - least);
}

// Running sums of one channel: four independent chains, handed on to float64 now and then.
template <class A, int kTerms>
struct Sums {
  static constexpr int kChains = 4;
  Vector<A> chain[kTerms][kChains] = {};
  double total[kTerms] = {};
  std::int64_t steps = 0;

  void flush() {
    for (int t = 0; t < kTerms; ++t) {
      total[t] += sum_lanes<A>((chain[t][0] + chain[t][1]) + (chain[t][2] + chain[t][3]));
      for (int k = 0; k < kChains; ++k) chain[t][k] = Vector<A>{};
    }
    steps = 0;
  }

  // add(offset, lanes, k) puts one vector into chain k.
  template <class Add>
  void run(std::int64_t length, Add&& add) {
    constexpr std::int64_t kStep = kChains * kLanes<A>;
    std::int64_t i = 0;
    while (i + kStep <= length) {
      const std::int64_t left = (length - i) / kStep;
      const std::int64_t room = kVectorsPerSum - steps;
      const std::int64_t n = left < room ? left : room;
      for (const std::int64_t end = i + n * kStep; i < end; i += kStep) {
        add(i, Whole{}, 0);
        add(i + kLanes<A>, Whole{}, 1);
        add(i + 2 * kLanes<A>, Whole{}, 2);
        add(i + 3 * kLanes<A>, Whole{}, 3);
      }
      steps += n;
      if (steps >= kVectorsPerSum) flush();
    }
    // Up to three vectors and a part, with constants for the chains, so that those are registers.
    const std::int64_t left = (length - i) / kLanes<A>;
    if (left > 0) add(i, Whole{}, 0);
    if (left > 1) add(i + kLanes<A>, Whole{}, 1);
    if (left > 2) add(i + 2 * kLanes<A>, Whole{}, 2);
    i += left * kLanes<A>;
    if (i < length) add(i, Part{static_cast<int>(length - i)}, 3);
    if (++steps >= kVectorsPerSum) flush();
  }
};

template <class T>
Moments plane_moments_masked(const T* x, Planes p, PlaneMask mask) {
  using A = Arithmetic<T>;
  Sums<A, 2> sums;
  Vector<A> shift{};
  double shift_value = 0;
  std::int64_t count = 0;
  for (std::int64_t k = 0; k < p.planes; ++k) {
    const T* plane = x + k * p.stride;
    const std::uint8_t* flags = mask.data + k * mask.stride;
    for (std::int64_t i = 0; i < p.length; ++i) {
      if (flags[i] == 0) continue;
      if (count++ != 0) continue;
      const A first = load(Part{1}, plane + i)[0];  // the first value that counts
      shift = broadcast(first - first == 0 ? first : A(0));
      shift_value = static_cast<double>(shift[0]);
    }
    sums.run(p.length, [&](std::int64_t i, auto lanes, int chain) {
      const auto d = load_flags<A>(lanes, flags + i) ? load(lanes, plane + i) - shift : Vector<A>{};
      sums.chain[0][chain] += d;
      sums.chain[1][chain] = fma(d, d, sums.chain[1][chain]);
    });
  }
  sums.flush();
  return moments_from_shifted(static_cast<double>(count), shift_value, sums.total[0],
                              sums.total[1]);
}

template <class T>
Moments plane_moments(const void* data, Planes p, PlaneMask mask) {
  using A = Arithmetic<T>;
  const auto* x = static_cast<const T*>(data);
  if (mask.data != nullptr) return plane_moments_masked(x, p, mask);
  if (p.planes * p.length == 0) return {};
  const A shift_value = plane_shift(x, p);
  const auto shift = broadcast(shift_value);
  Sums<A, 2> sums;
  for (std::int64_t k = 0; k < p.planes; ++k) {
    const T* plane = x + k * p.stride;
    sums.run(p.length, [&](std::int64_t i, auto lanes, int chain) {
      prefetch(plane + i);
      const auto d = keep<A>(lanes, load(lanes, plane + i) - shift);
      sums.chain[0][chain] += d;
      sums.chain[1][chain] = fma(d, d, sums.chain[1][chain]);
    });
  }
  sums.flush();
  return moments_from_shifted(static_cast<double>(p.planes * p.length),
                              static_cast<double>(shift_value), sums.total[0], sums.total[1]);
}

template <class T, bool kAny>
void plane_normalize(const void* data, const void* residual_data, void* y_data, Planes p,
                     const ForwardConstants& constants, Activation act, Stores stores) {
  using A = Arithmetic<T>;
  const auto c = lanes<A>(constants);
  const ActivationLanes<T, kAny> activation(act);
  const bool stream = stores == Stores::kStreamed;
  for (std::int64_t k = 0; k < p.planes; ++k) {
    const T* x = static_cast<const T*>(data) + k * p.stride;
    const T* residual = static_cast<const T*>(residual_data);
    if (residual != nullptr) residual += k * p.stride;
    T* y = static_cast<T*>(y_data) + k * p.stride;
    for_output_vectors(p.length, y, stream, [&](std::int64_t i, auto part) {
      prefetch(x + i);
      auto z = fma(deviation<A>(c, load(part, x + i)), c.scale, c.bias);
      if (residual != nullptr) z += load(part, residual + i);
      store(part, y + i, activation(z));
    });
  }
  if (stream) end_streaming();
}

template <class T, bool kAny>
GradSums plane_grad_moments(const GradInputs& in, Planes p, const ForwardConstants& constants,
                            Activation act) {
  using A = Arithmetic<T>;
  const auto c = lanes<A>(constants);
  const ActivationLanes<T, kAny> activation(act);
  Sums<A, 2> sums;
  for (std::int64_t k = 0; k < p.planes; ++k) {
    const GradView<T> plane(in, k * p.stride);
    sums.run(p.length, [&](std::int64_t i, auto part, int chain) {
      prefetch(plane.x + i);
      prefetch(plane.dy + i);
      const auto [deviation, g] = activation.load_gradient(part, plane, i, c);
      const auto d = keep<A>(part, deviation);
      sums.chain[0][chain] += g;
      sums.chain[1][chain] = fma(g, d, sums.chain[1][chain]);
    });
  }
  sums.flush();
  return {sums.total[0], sums.total[1]};
}

template <class T, bool kAny>
void plane_grad_input(const GradInputs& in, const GradOutputs& out, Planes p, PlaneMask mask,
                      const ForwardConstants& constants, const BackwardConstants& gradient,
                      Activation act, bool frozen, Stores stores) {
  using A = Arithmetic<T>;
  const bool stream = stores == Stores::kStreamed && out.dx != nullptr;
  const auto c = lanes<A>(constants);
  const ActivationLanes<T, kAny> activation(act);
  const auto scale = broadcast(static_cast<A>(gradient.scale));
  const auto offset = broadcast(static_cast<A>(gradient.offset));
  const auto slope = broadcast(static_cast<A>(gradient.slope));
  for (std::int64_t k = 0; k < p.planes; ++k) {
    const GradView<T> plane(in, k * p.stride);
    const std::uint8_t* flags = mask.data == nullptr ? nullptr : mask.data + k * mask.stride;
    T* dx = out.dx == nullptr ? nullptr : static_cast<T*>(out.dx) + k * p.stride;
    T* dresidual =
        out.dresidual == nullptr ? nullptr : static_cast<T*>(out.dresidual) + k * p.stride;
    for_output_vectors(p.length, dx, stream, [&](std::int64_t i, auto part) {
      prefetch(plane.x + i);
      prefetch(plane.dy + i);
      const auto [d, g] = activation.load_gradient(part, plane, i, c);
      if (dresidual != nullptr) store(cached(part), dresidual + i, g);
      if (dx == nullptr) return;
      if (frozen) return store(part, dx + i, scale * g);
      auto shared = fma(slope, d, offset);
      if (flags != nullptr) shared = load_flags<A>(part, flags + i) ? shared : Vector<A>{};
      store(part, dx + i, fma(scale, g, shared));
    });
  }
  if (stream) end_streaming();
}
