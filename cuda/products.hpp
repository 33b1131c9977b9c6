// The one cuBLAS handle of the process, made with its scratch before any capture.
#pragma once
#include <ttr/core/border.hpp>

namespace ttr::cuda {

Status prepare_products(Stream);   // idempotent

}  // namespace ttr::cuda
