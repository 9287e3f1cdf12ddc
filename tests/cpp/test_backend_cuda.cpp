// The backend contract on a CUDA device.
#include "backend_cases.hpp"
#include "cuda_device.hpp"

contract::Device& contract::device_under_test() { return cuda_device(); }
