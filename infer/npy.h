// NumPy's .npy, format version 1.0: float32, C order (numpy.lib.format).
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

namespace basin {

/// `values` holds rows x (size / rows) numbers, row by row; rows divides the size. The file is
/// whole or absent.
void write_npy(const std::filesystem::path& path, std::span<const float> values, int64_t rows);

}  // namespace basin
