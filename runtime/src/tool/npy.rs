//! NumPy's `.npy` files, for every element type.
