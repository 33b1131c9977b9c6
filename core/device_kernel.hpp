// Border of the device itself: memory, copies, the stream, captured graphs. Implemented in cuda/device.cu.
#pragma once
#include <ttr/core/border.hpp>

namespace ttr::cuda {

int device_count();                                    // 0 without a driver or a GPU
const char* device_problem();                          // why there is none, a short phrase; "" when there is one
const char* last_error();                              // the text of the last failed call on this thread
Status prepare();                                      // the stream and the matrix products' handle; idempotent. Call it at start-up: never inside a capture
void* allocate(size_t bytes);                          // null when out of memory
void release(void*);
Stream stream();                                       // the one stream of this process; kernels and copies run on it
Status copy_to_device(void* to, const void* from, size_t bytes);     // asynchronous for pinned memory, ordered on stream()
Status copy_to_host(void* to, const void* from, size_t bytes);       // waits
Status copy_on_device(void* to, const void* from, size_t bytes, Stream);
Status set_bytes(void* to, int value, size_t bytes, Stream);
Status synchronise();

// Capture of everything launched on stream() by this thread between begin and end.
Status capture_begin();
void* capture_end();                                   // an executable graph; null on failure
Status graph_launch(void* graph);
void graph_release(void* graph);

// Milliseconds between two points of the stream.
void* event_record();                                  // release with event_release
double event_milliseconds(void* from, void* to);       // waits for `to`
void event_release(void*);

}  // namespace ttr::cuda
