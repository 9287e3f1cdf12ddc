// Channels last: all channels of a position side by side, their constants in arrays. Included by
// kernels_of.hpp.

// Rows that pass through the accumulators together, to load and store those less often.
constexpr int kTileRows = 8;
constexpr int kMaxSampleRows = 16;

template <class A>
inline const A* values(const void* data) {
  return static_cast<const A*>(data);
}

// Steps through the rows that count, kTileRows at a time and then one at a time;
// whole(const T* rows[kTileRows]) and one(const T* row).
template <class T, class Tile, class One>
inline void for_tiles(const T* x, std::int64_t rows, std::int64_t width, const std::uint8_t* mask,
                      Tile&& tile, One&& one) {
  const T* waiting[kTileRows];
  int count = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    if (mask != nullptr && mask[r] == 0) continue;
    waiting[count++] = x + r * width;
    if (count < kTileRows) continue;
    tile(waiting);
    count = 0;
  }
  for (int i = 0; i < count; ++i) one(waiting[i]);
}

template <class A>
inline void add_to_totals(std::int64_t width, A* scratch, double* first, double* second) {
  for (std::int64_t i = 0; i < width; ++i) first[i] += static_cast<double>(scratch[i]);
  for (std::int64_t i = 0; i < width; ++i) second[i] += static_cast<double>(scratch[width + i]);
}

template <class A>
inline void clear(A* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) values[i] = A(0);
}

// The rows of a sample: a power of two of them, spread over those that count.
template <class T>
inline int sample_rows(const T* x, std::int64_t rows, std::int64_t width, const std::uint8_t* mask,
                       const T** sample) {
  int count = 0;
  for (std::int64_t k = 0; k < kMaxSampleRows && k < rows; ++k) {
    std::int64_t row = rows < kMaxSampleRows ? k : rows / kMaxSampleRows * k;
    if (mask != nullptr && mask[row] == 0) continue;
    sample[count++] = x + row * width;
  }
  for (std::int64_t row = 0; count == 0 && row < rows; ++row)
    if (mask == nullptr || mask[row] != 0) sample[count++] = x + row * width;
  while ((count & (count - 1)) != 0) --count;
  return count;
}

template <class T>
void row_shift(const void* data, std::int64_t rows, std::int64_t width, const std::uint8_t* mask,
               void* shift_data, void* scratch) {
  using A = Arithmetic<T>;
  auto* shift = static_cast<A*>(shift_data);
  auto* least = static_cast<A*>(scratch);
  A* most = least + width;
  const T* sample[kMaxSampleRows];
  const int count = sample_rows(static_cast<const T*>(data), rows, width, mask, sample);
  if (count == 0) return clear(shift, width);
  for_vectors<A>(width, [&](std::int64_t i, auto part) {
    const auto first = load(part, sample[0] + i);
    auto sum = first, low = first, high = first;
    for (int k = 1; k < count; ++k) {
      const auto v = load(part, sample[k] + i);
      sum += v;
      low = v < low ? v : low;
      high = v > high ? v : high;
    }
    store(part, shift + i, sum / broadcast(static_cast<A>(count)));
    store(part, least + i, low);
    store(part, most + i, high);
  });
  for (std::int64_t i = 0; i < width; ++i) shift[i] = shift_near<A>(shift[i], most[i] - least[i]);
}

template <class T>
void row_moments(const void* data, std::int64_t rows, std::int64_t width, const std::uint8_t* mask,
                 const void* shift_data, double* sum, double* square, void* scratch) {
  using A = Arithmetic<T>;
  const auto* x = static_cast<const T*>(data);
  const A* shift = values<A>(shift_data);
  auto* first = static_cast<A*>(scratch);
  A* second = first + width;
  const auto accumulate = [&](const T* const* row, auto count) {
    for_vectors<A>(width, [&](std::int64_t i, auto part) {
      const auto s = load(part, shift + i);
      auto a = load(part, first + i), b = load(part, second + i);
      for (int k = 0; k < count; ++k) {
        prefetch(row[k] + i);
        const auto d = load(part, row[k] + i) - s;
        a += d;
        b = fma(d, d, b);
      }
      store(part, first + i, a);
      store(part, second + i, b);
    });
  };
  for (std::int64_t r = 0; r < rows; r += kVectorsPerSum) {
    const std::int64_t n = rows - r < kVectorsPerSum ? rows - r : kVectorsPerSum;
    clear(first, 2 * width);
    for_tiles(
        x + r * width, n, width, mask == nullptr ? nullptr : mask + r,
        [&](const T* const* row) { accumulate(row, std::integral_constant<int, kTileRows>{}); },
        [&](const T* row) { accumulate(&row, std::integral_constant<int, 1>{}); });
    add_to_totals(width, first, sum, square);
  }
}

template <class A, class Lanes>
inline ForwardLanes<A> load_lanes(Lanes part, const RowConstants& c, std::int64_t i) {
  return {load(part, values<A>(c.hi) + i), load(part, values<A>(c.lo) + i),
          load(part, values<A>(c.scale) + i), load(part, values<A>(c.bias) + i)};
}

// Rows that the elementwise passes take together, to load the constants of a column less often.
constexpr int kTogether = 4;

// visit(first row, count) with count = kTogether while there are as many, then 1.
template <class Visit>
inline void for_rows_together(std::int64_t rows, Visit&& visit) {
  std::int64_t r = 0;
  for (; r + kTogether <= rows; r += kTogether) visit(r, std::integral_constant<int, kTogether>{});
  for (; r < rows; ++r) visit(r, std::integral_constant<int, 1>{});
}

// Whether all rows begin at the same place of a vector, so that one alignment serves them.
template <class T>
inline bool rows_align(std::int64_t width) {
  return width % kLanes<Arithmetic<T>> == 0;
}

template <class T, bool kAny>
void row_normalize(const void* data, const void* residual_data, void* y_data, std::int64_t rows,
                   std::int64_t width, const RowConstants& constants, Activation act,
                   Stores stores) {
  using A = Arithmetic<T>;
  const ActivationLanes<T, kAny> activation(act);
  const bool stream = stores == Stores::kStreamed && rows_align<T>(width);
  for_rows_together(rows, [&](std::int64_t r, auto count) {
    const T* x = static_cast<const T*>(data) + r * width;
    const T* residual = static_cast<const T*>(residual_data);
    if (residual != nullptr) residual += r * width;
    T* y = static_cast<T*>(y_data) + r * width;
    for_output_vectors(width, y, stream, [&](std::int64_t i, auto part) {
      const auto c = load_lanes<A>(part, constants, i);
      for (int k = 0; k < count; ++k) {
        const std::int64_t at = k * width + i;
        prefetch(x + at);
        auto z = fma(deviation<A>(c, load(part, x + at)), c.scale, c.bias);
        if (residual != nullptr) z += load(part, residual + at);
        store(part, y + at, activation(z));
      }
    });
  });
  if (stream) end_streaming();
}

template <class T, bool kAny>
void row_grad_moments(const GradInputs& in, std::int64_t rows, std::int64_t width,
                      const RowConstants& constants, Activation act, double* bias, double* weight,
                      void* scratch) {
  using A = Arithmetic<T>;
  const ActivationLanes<T, kAny> activation(act);
  auto* first = static_cast<A*>(scratch);
  A* second = first + width;
  const auto accumulate = [&](std::int64_t row, auto count) {
    const GradView<T> base(in, row * width);
    for_vectors<A>(width, [&](std::int64_t i, auto part) {
      const auto c = load_lanes<A>(part, constants, i);
      auto a = load(part, first + i), b = load(part, second + i);
      for (int k = 0; k < count; ++k) {
        const std::int64_t at = k * width + i;
        prefetch(base.x + at);
        prefetch(base.dy + at);
        const auto [d, g] = activation.load_gradient(part, base, at, c);
        a += g;
        b = fma(g, d, b);
      }
      store(part, first + i, a);
      store(part, second + i, b);
    });
  };
  for (std::int64_t r = 0; r < rows; r += kVectorsPerSum) {
    const std::int64_t end = r + kVectorsPerSum < rows ? r + kVectorsPerSum : rows;
    clear(first, 2 * width);
    std::int64_t k = r;
    for (; k + kTileRows <= end; k += kTileRows)
      accumulate(k, std::integral_constant<int, kTileRows>{});
    for (; k < end; ++k) accumulate(k, std::integral_constant<int, 1>{});
    add_to_totals(width, first, bias, weight);
  }
}

template <class T, bool kAny>
void row_grad_input(const GradInputs& in, const GradOutputs& out, std::int64_t rows,
                    std::int64_t width, const std::uint8_t* mask, const RowConstants& constants,
                    Activation act, bool frozen, Stores stores) {
  using A = Arithmetic<T>;
  const bool stream = stores == Stores::kStreamed && out.dx != nullptr && rows_align<T>(width);
  const ActivationLanes<T, kAny> activation(act);
  const A* scales = values<A>(constants.grad_scale);
  const A* offsets = values<A>(constants.grad_offset);
  const A* slopes = values<A>(constants.grad_slope);
  for_rows_together(rows, [&](std::int64_t r, auto count) {
    const GradView<T> base(in, r * width);
    T* dx = out.dx == nullptr ? nullptr : static_cast<T*>(out.dx) + r * width;
    T* dresidual = out.dresidual == nullptr ? nullptr : static_cast<T*>(out.dresidual) + r * width;
    for_output_vectors(width, dx, stream, [&](std::int64_t i, auto part) {
      const auto c = load_lanes<A>(part, constants, i);
      const auto scale = load(part, scales + i);
      const auto offset = load(part, offsets + i), slope = load(part, slopes + i);
      for (int k = 0; k < count; ++k) {
        const std::int64_t at = k * width + i;
        prefetch(base.x + at);
        prefetch(base.dy + at);
        const auto [d, g] = activation.load_gradient(part, base, at, c);
        if (dresidual != nullptr) store(cached(part), dresidual + at, g);
        if (dx == nullptr) continue;
        const auto own = scale * g;
        const bool own_only = frozen || (mask != nullptr && mask[r + k] == 0);
        store(part, dx + at, own_only ? own : own + fma(slope, d, offset));
      }
    });
  });
  if (stream) end_streaming();
}
