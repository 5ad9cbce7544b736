// Attention on a CPU in one pass over the keys: softmax(factor * q k') v with a running maximum (online softmax, Milakov
// and Gimelshein 2018). Scores of a few rows stay in registers and the first cache. A unit is what a lane multiplies at
// once: a float, or a pair of bfloat16.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int LANES = 16, WIDE = 4;  // with ROWS 24 of 32 registers hold sums
#elif defined(__AVX2__)
constexpr int LANES = 8, WIDE = 2;  // 12 of 16
#else
constexpr int LANES = 4, WIDE = 4;  // 24 of 32, as on ARM
#endif
#if defined(__AVX512BF16__)
constexpr bool PAIRED = true;
#else
constexpr bool PAIRED = false;
#endif
constexpr int ROWS = 6, PANEL = LANES * WIDE;  // PANEL: keys whose scores are summed at once
constexpr int KEYS = 256, QUERIES = 16 * ROWS;  // of a tile
constexpr float INF = INFINITY;

typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int64_t Longs __attribute__((vector_size(LANES * 4)));
typedef uint32_t Unit;

static inline Vec load(const float* x) { return *reinterpret_cast<const Vec*>(x); }
static inline void store(float* x, Vec v) { *reinterpret_cast<Vec*>(x) = v; }
static inline Vec all(float x) { return x - Vec{}; }

struct Buffer {  // of units, on lines of the cache
  explicit Buffer(int64_t n) : units(static_cast<Unit*>(operator new(n * 4, std::align_val_t{64}))) {}
  ~Buffer() { operator delete(units, std::align_val_t{64}); }
  float* floats() { return reinterpret_cast<float*>(units); }
  Unit* units;
};

static inline float to_float(float x) { return x; }
static inline float to_float(uint16_t x) {
  Unit bits = static_cast<Unit>(x) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
static inline void put(float* to, float x) { *to = x; }
static inline void put(uint16_t* to, float x) {
  Unit bits;
  std::memcpy(&bits, &x, 4);
  *to = x != x ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to the nearest, ties to even
}

// The units of one row of d channels.
template <bool PAIRS, typename T>
static inline void pack_row(const T* row, int64_t d, Unit* to) {
  if constexpr (PAIRS || sizeof(T) == 4) {
    if (d * sizeof(T) % 4) to[d / 2] = 0u;
    std::memcpy(to, row, d * sizeof(T));
  } else {
    for (int64_t c = 0; c < d; c++) to[c] = static_cast<Unit>(row[c]) << 16;
  }
}

template <bool PAIRS>
static inline Vec mac(Vec sum, const Unit* a, Vec b) {
#if defined(__AVX512BF16__)
  if constexpr (PAIRS)
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(static_cast<int>(*a)), (__m512bh)b);
#endif
  return sum + *reinterpret_cast<const float*>(a) * b;
}

// out (ROWS, C * LANES) = a (ROWS, depth) b (depth, C * LANES), or more of it
template <bool PAIRS, int C>
static inline void product(const Unit* a, int64_t next_a, const Unit* b, int64_t next_b, int64_t depth, float* out,
                           int64_t next_out, bool add) {
  Vec sums[ROWS][C];
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < C; c++) sums[r][c] = add ? load(out + r * next_out + c * LANES) : Vec{};
  for (int64_t k = 0; k < depth; k++) {
    Vec column[C];
    for (int c = 0; c < C; c++) column[c] = load(reinterpret_cast<const float*>(b + k * next_b + c * LANES));
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) sums[r][c] = mac<PAIRS>(sums[r][c], a + r * next_a + k, column[c]);
  }
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < C; c++) store(out + r * next_out + c * LANES, sums[r][c]);
}

// 2^x for x <= 0: the sum with MAGIC rounds x to a whole number in its low bits, the rest is a polynomial with an error
// of 7e-8 (FINE) or 7e-5 on [-1/2, 1/2]. NaN stays NaN.
template <bool FINE>
static inline Vec exp2_of(Vec x) {
  constexpr float MAGIC = 12582912.0f, LEAST = -126.0f;
  x = x < LEAST ? all(LEAST) : x;
  Vec shifted = x + MAGIC, f = x - (shifted - MAGIC), p;
  if constexpr (FINE)
    p = ((((f * 1.327647152e-3f + 9.675541331e-3f) * f + 5.550713275e-2f) * f + 2.402211972e-1f) * f +
         6.931469671e-1f) * f + 1.000000072f;
  else
    p = ((f * 5.517166493e-2f + 2.426111219e-1f) * f + 6.932609862e-1f) * f + 9.999280736e-1f;
  Ints power = ((Ints)shifted + 127) << 23;
  return p * (Vec)power;
}

// Scores (KEYS) to weights relative to 2^(factor * top), in place, as units; returns their sum.
template <bool PAIRS>
static inline float weigh(float* scores, int64_t keys, float factor, float top) {
  Vec sum{};
  float shift = top == -INF ? 0.0f : top * factor;
  for (int64_t j = 0; j < keys; j += LANES) {
    Vec w = exp2_of<!PAIRS>(load(scores + j) * factor - shift);
    sum += w;
#if defined(__AVX512BF16__)
    if constexpr (PAIRS) {
      auto halves = _mm512_cvtneps_pbh((__m512)w);
      std::memcpy(scores + j / 2, &halves, 32);
      continue;
    }
#endif
    store(scores + j, w);
  }
  float total = 0.0f;
  for (int i = 0; i < LANES; i++) total += sum[i];
  return total;
}

static inline float largest(const float* scores, int64_t keys) {
  Vec top = load(scores);
  for (int64_t j = LANES; j < keys; j += LANES) {
    Vec s = load(scores + j);
    top = top < s ? s : top;
  }
  float out = top[0];
  for (int i = 1; i < LANES; i++) out = std::max(out, top[i]);
  return out;
}

template <bool PAIRS>
static inline void add_values(const Unit* p, int64_t depth, const Unit* v, int64_t columns, float* out,
                              int64_t next_out) {
  int64_t left = columns / LANES;
  for (int64_t c = 0; left > 0;) {
    int64_t wide = (left + (left + WIDE - 1) / WIDE - 1) / ((left + WIDE - 1) / WIDE);
    const Unit* b = v + c;
    if (wide == 1) product<PAIRS, 1>(p, KEYS, b, columns, depth, out + c, next_out, true);
    if (wide == 2) product<PAIRS, 2>(p, KEYS, b, columns, depth, out + c, next_out, true);
    if constexpr (WIDE > 2) {
      if (wide == 3) product<PAIRS, 3>(p, KEYS, b, columns, depth, out + c, next_out, true);
      if (wide == 4) product<PAIRS, 4>(p, KEYS, b, columns, depth, out + c, next_out, true);
    }
    left -= wide, c += wide * LANES;
  }
}

// The same for half a vector of columns: out (ROWS, LANES / 2, 2) are sums over the even and the odd keys, v is
// (pairs of keys, LANES / 2, 2).
static inline void add_halves(const Unit* p, int64_t depth, const Unit* v, float* out, int64_t next_out) {
  Vec sums[2][ROWS];  // of every other pair: else each product waits for the one before
  for (int r = 0; r < ROWS; r++) sums[0][r] = load(out + r * next_out), sums[1][r] = Vec{};
  for (int64_t k = 0; k < depth; k += 4)
    for (int i = 0; i < 2; i++) {
      Vec column = load(reinterpret_cast<const float*>(v + (k / 2 + i) * LANES));
#pragma GCC unroll 6
      for (int r = 0; r < ROWS; r++) {
        int64_t two;
        std::memcpy(&two, p + r * KEYS + k + 2 * i, 8);
        sums[i][r] += (Vec)(Longs{} + two) * column;
      }
    }
  for (int r = 0; r < ROWS; r++) store(out + r * next_out, sums[0][r] + sums[1][r]);
}

struct Layout {  // of (b, h, n, d) in elements; the last dimension is dense
  int64_t b, h, n;
};

struct Sizes {
  int64_t b, heads, n_q, n_k, d, d_v;
  Layout q, k, v, out, bias;
  float factor;  // of the scores, in powers of two
};

template <bool PAIRS, typename T>
struct Attention {
  const Sizes& s;
  const T *q, *k, *v;
  const float* bias;  // in powers of two, or null
  T* out;
  int64_t depth, columns, tiles, padded;  // of a head
  int64_t whole, halves;                  // columns in whole vectors, and units of the half of one behind them

  Attention(const Sizes& s, const T* q, const T* k, const T* v, const float* bias, T* out)
      : s(s), q(q), k(k), v(v), bias(bias), out(out) {
    constexpr int64_t per = PAIRS ? 2 : 1;
    depth = (s.d + per - 1) / per;
    columns = (s.d_v + LANES - 1) / LANES * LANES;
    whole = !PAIRS && columns - s.d_v >= LANES / 2 ? columns - LANES : columns;
    tiles = (s.n_k + KEYS - 1) / KEYS, padded = (s.n_k + PANEL - 1) / PANEL * PANEL;
    halves = whole < columns ? padded * LANES / 2 : 0;
  }

  template <typename X>
  X* at(X* x, const Layout& to, int64_t head) const {
    return x + head / s.heads * to.b + head % s.heads * to.h;
  }

  // keys as (panels, depth, PANEL)
  void pack_keys(int64_t head, Unit* to, Unit* row) const {
    const T* from = at(k, s.k, head);
    for (int64_t j = 0; j < padded; j++) {
      if (j < s.n_k)
        pack_row<PAIRS>(from + j * s.k.n, s.d, row);
      else
        std::fill(row, row + depth, 0u);
      Unit* column = to + j / PANEL * PANEL * depth + j % PANEL;
      for (int64_t i = 0; i < depth; i++) column[i * PANEL] = row[i];
    }
  }

  // halves as (pairs of keys, LANES / 2, 2), and behind them values as (keys, whole), or (pairs of keys, columns)
  void pack_values(int64_t head, Unit* to) const {
    const T* from = at(v, s.v, head);
    constexpr int64_t per = PAIRS ? 2 : 1;
    Unit* half = to;
    to += halves;
    for (int64_t j = 0; j < padded; j += per, to += whole) {  // the next row takes the place of this one's half
      const T* row = from + j * s.v.n;
      int64_t d = j < s.n_k ? s.d_v : 0;
      if constexpr (!PAIRS)
        pack_row<false>(row, d, to);
      else if (j + 1 < s.n_k)
        for (int64_t c = 0; c < d; c++) to[c] = row[c] | static_cast<Unit>(row[s.v.n + c]) << 16;
      else
        for (int64_t c = 0; c < d; c++) to[c] = row[c];
      std::fill(to + d, to + columns, 0u);
      for (int64_t c = whole; 2 * c < whole + columns; c++) half[j / 2 * LANES + 2 * (c - whole) + j % 2] = to[c];
    }
  }

  void pack_queries(int64_t head, int64_t first, int64_t rows, Unit* to) const {
    const T* from = at(q, s.q, head) + first * s.q.n;
    for (int64_t r = 0; r < rows; r++) pack_row<PAIRS>(from + r * s.q.n, s.d, to + r * depth);
    std::fill(to + rows * depth, to + QUERIES * depth, 0u);
  }

  // What a mask adds to the scores of one row, and -inf for keys that are none.
  void add_bias(float* scores, const float* row, int64_t keys, int64_t span) const {
    if (row)
      for (int64_t j = 0; j < keys; j++) scores[j] = scores[j] * s.factor + row[j];
    std::fill(scores + keys, scores + span, -INF);
  }

  void attend(int64_t head, int64_t first, const Unit* keys, const Unit* values) const {
    Buffer packed(QUERIES * depth), sums(QUERIES * columns), scores(ROWS * KEYS);
    float tops[QUERIES], totals[QUERIES];
    int64_t rows = std::min<int64_t>(QUERIES, s.n_q - first), groups = (rows + ROWS - 1) / ROWS;
    pack_queries(head, first, rows, packed.units);
    std::fill(tops, tops + QUERIES, -INF), std::fill(totals, totals + QUERIES, 0.0f);
    std::fill(sums.floats(), sums.floats() + QUERIES * columns, 0.0f);
    for (int64_t tile = 0; tile < tiles; tile++)
      for (int64_t r = 0; r < groups * ROWS; r += ROWS) {
        const Unit* k_tile = keys + tile * KEYS * depth;
        int64_t span = std::min<int64_t>(KEYS, padded - tile * KEYS);
        for (int64_t j = 0; j < span; j += PANEL)
          product<PAIRS, WIDE>(packed.units + r * depth, depth, k_tile + j * depth, PANEL, depth, scores.floats() + j,
                               KEYS, false);
        for (int64_t i = 0; i < ROWS; i++)
          weigh_row(head, first + r + i, tile * KEYS, span, scores.floats() + i * KEYS, tops[r + i], totals[r + i],
                    sums.floats() + (r + i) * columns);
        float* sum = sums.floats() + r * columns;
        if (halves) add_halves(scores.units, span, values + tile * KEYS / 2 * LANES, sum + whole, columns);
        add_values<PAIRS>(scores.units, PAIRS ? span / 2 : span, values + halves + tile * KEYS / (PAIRS ? 2 : 1) * whole,
                          whole, sum, columns);
      }
    for (int64_t r = 0; r < rows; r++) {
      T* to = at(out, s.out, head) + (first + r) * s.out.n;
      float inverse = tops[r] == -INF ? 0.0f : 1.0f / totals[r];
      float* sum = sums.floats() + r * columns;
      for (int64_t c = whole; c < s.d_v; c++) sum[c] = sum[2 * c - whole] + sum[2 * c - whole + 1];
      for (int64_t c = 0; c < s.d_v; c++) put(to + c, sum[c] * inverse);
    }
  }

  void weigh_row(int64_t head, int64_t row, int64_t first, int64_t span, float* scores, float& top, float& total, float* sums) const {
    int64_t left = std::min(span, s.n_k - first);
    const float* added = bias ? at(bias, s.bias, head) + std::min(row, s.n_q - 1) * s.bias.n + first : nullptr;
    if (added || left < span) add_bias(scores, added, left, span);
    float factor = bias ? 1.0f : s.factor, before = top;
    top = std::max(before, largest(scores, span));
    if (top != before) {
      float kept = std::exp2((before - top) * factor);
      total *= kept;
      for (int64_t c = 0; c < columns; c++) sums[c] *= kept;
    }
    total += weigh<PAIRS>(scores, span, factor, top);
  }

  // A thread packs the keys and values of a head once for its part of the queries.
  void run() const {
    int64_t parts = (s.n_q + QUERIES - 1) / QUERIES;
    at::parallel_for(0, s.b * s.heads * parts, 1, [&](int64_t begin, int64_t end) {
      Buffer keys(padded * depth), values(padded * columns), row(depth);
      for (int64_t i = begin, packed = -1; i < end; i++) {
        int64_t head = i / parts;
        if (head != packed) pack_keys(head, keys.units, row.units), pack_values(head, values.units);
        packed = head;
        attend(head, i % parts * QUERIES, keys.units, values.units);
      }
    });
  }
};

template <bool PAIRS, typename T>
static int attend(const Sizes* sizes, const T* q, const T* k, const T* v, const float* bias, T* out) {
  try {
    Attention<PAIRS, T>(*sizes, q, k, v, bias, out).run();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

extern "C" {
int attend_float32(const Sizes* sizes, const float* q, const float* k, const float* v, const float* bias, float* out) {
  return attend<false>(sizes, q, k, v, bias, out);
}
int attend_bfloat16(const Sizes* sizes, const uint16_t* q, const uint16_t* k, const uint16_t* v, const float* bias,
                    uint16_t* out) {
  return attend<PAIRED>(sizes, q, k, v, bias, out);
}
}
