// Vectors of elements that are loaded and stored by one instruction of up to 16 bytes. Knows nothing of what the elements mean.
#pragma once

namespace slide {

/// The widest access of a thread.
constexpr int VECTOR_BYTES = 16;

/// The largest power of two ≤ `limit` that divides `value`; `limit` is a power of two.
constexpr int power_of_two_divisor(long long value, int limit) {
    int divisor = limit;
    while (value % divisor != 0) {
        divisor /= 2;
    }
    return divisor;
}

/// Elements of type T in one access of a row of `elements`, when rows follow each other without gaps from an address that is a
/// multiple of 16: every row is then a whole number of aligned vectors, and no tail is left over.
template <class T> constexpr int vector_width(long long elements) {
    static_assert(VECTOR_BYTES % sizeof(T) == 0, "elements of 1, 2, 4, 8 or 16 bytes");
    return power_of_two_divisor(elements, VECTOR_BYTES / sizeof(T));
}

/// Elements side by side, aligned as a whole, so that a copy is one access.
template <class T, int WIDTH> struct alignas(sizeof(T) * WIDTH) Vector {
    static_assert(WIDTH > 0 && (WIDTH & (WIDTH - 1)) == 0, "an access is of a power of two of bytes");
    static_assert(sizeof(T) * WIDTH <= VECTOR_BYTES, "an access is of at most 16 bytes");
    T element[WIDTH];
};

/// The unsigned integer of so many bytes.
template <int BYTES> struct Bits;
template <> struct Bits<1> {
    using Type = unsigned char;
};
template <> struct Bits<2> {
    using Type = unsigned short;
};
template <> struct Bits<4> {
    using Type = unsigned;
};
template <> struct Bits<8> {
    using Type = unsigned long long;
};
template <> struct Bits<16> {
    using Type = uint4;
};

template <int BYTES> using BitsOf = typename Bits<BYTES>::Type;

/// The same bytes as another type.
template <class To, class From> __device__ __forceinline__ To bit_cast(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "the same bytes");
    // A copy first: what memcpy takes from memory itself it takes byte by byte, for it does not see the alignment.
    const From copy = from;
    To to;
    memcpy(&to, &copy, sizeof(To));
    return to;
}

template <class T, int WIDTH> __device__ __forceinline__ Vector<T, WIDTH> load_vector(const T* from) {
    return bit_cast<Vector<T, WIDTH>>(*reinterpret_cast<const BitsOf<sizeof(T) * WIDTH>*>(from));
}

template <class T, int WIDTH> __device__ __forceinline__ void store_vector(T* to, const Vector<T, WIDTH>& vector) {
    using Raw = BitsOf<sizeof(T) * WIDTH>;
    *reinterpret_cast<Raw*>(to) = bit_cast<Raw>(vector);
}

/// As many loads of at most 16 bytes as it takes.
template <class T, int WIDTH> __device__ __forceinline__ void load_elements(const T* from, T (&to)[WIDTH]) {
    constexpr int EACH = power_of_two_divisor(WIDTH, VECTOR_BYTES / sizeof(T));
#pragma unroll
    for (int first = 0; first < WIDTH; first += EACH) {
        Vector<T, EACH> vector = load_vector<T, EACH>(from + first);
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            to[first + i] = vector.element[i];
        }
    }
}

/// A vector that nobody asks for again: what others ask for again stays in the first-level cache instead.
template <class T, int WIDTH> __device__ __forceinline__ Vector<T, WIDTH> load_once(const T* from) {
    constexpr int BYTES = sizeof(T) * WIDTH;
    BitsOf<BYTES> raw;
    // Volatile, so that they stay behind what the kernel waits for.
    if constexpr (BYTES == 16) {
        asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(raw.x), "=r"(raw.y), "=r"(raw.z), "=r"(raw.w) : "l"(from));
    } else if constexpr (BYTES == 8) {
        asm volatile("ld.global.L1::no_allocate.u64 %0, [%1];" : "=l"(raw) : "l"(from));
    } else if constexpr (BYTES == 4) {
        asm volatile("ld.global.L1::no_allocate.u32 %0, [%1];" : "=r"(raw) : "l"(from));
    } else {
        return load_vector<T, WIDTH>(from);
    }
    return bit_cast<Vector<T, WIDTH>>(raw);
}

/// As many stores of at most 16 bytes as it takes.
template <class T, int WIDTH> __device__ __forceinline__ void store_elements(T* to, const T (&from)[WIDTH]) {
    constexpr int EACH = power_of_two_divisor(WIDTH, VECTOR_BYTES / sizeof(T));
#pragma unroll
    for (int first = 0; first < WIDTH; first += EACH) {
        Vector<T, EACH> vector;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            vector.element[i] = from[first + i];
        }
        store_vector(to + first, vector);
    }
}

} // namespace slide
