/* sliderun: runs compiled sparse execution plans. MIT or Apache-2.0.
 *
 * This file is generated: see docs/embedding.md.
 *
 * Rules
 *  - Calls that can fail return a sliderun_status; sliderun_last_error() then says why, for the calling thread.
 *    Nothing is thrown, and no signal is raised on purpose: a defect of the library is SLIDERUN_STATUS_PANICKED.
 *  - Strings are UTF-8 and end in NUL. Pointers to results must not be null; on failure a handle's place holds null.
 *  - Handles (plan, session, outputs) are freed once, by their own function, when no call on them is under way.
 *    They do not depend on each other: a plan may be freed before its sessions, a session before outputs it gave.
 *  - Threads: any thread may use any handle, and all functions but those that free may be called on one handle at
 *    the same time. Runs of a session overlap on the CPU and follow each other on a GPU. A session has threads of
 *    its own: after fork() the child must make its own.
 *  - Memory that a call is given is the caller's: it must be as large as said, and is read or written only until the
 *    call returns. The one exception is sliderun_plan_from_static_bytes.
 */


#ifndef SLIDERUN_H
#define SLIDERUN_H

#include <stddef.h>
#include <stdint.h>

/* What sliderun_options begins as. */
#define SLIDERUN_OPTIONS_DEFAULT { sizeof(sliderun_options), 0, 0, NULL }

/* What sliderun_plan_options begins as. */
#define SLIDERUN_PLAN_OPTIONS_DEFAULT { sizeof(sliderun_plan_options), 0, NULL }


// Grows when a change of the header would break programs that were compiled with an earlier one.
#define SLIDERUN_ABI_VERSION 1

// The alignment of bytes that sliderun_plan_from_static_bytes uses in place.
#define SLIDERUN_PLAN_ALIGNMENT 64

// What a call came to. sliderun_last_error says more.
enum sliderun_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Done.
    SLIDERUN_STATUS_OK = 0,
    // A null pointer, text that is not UTF-8, an index or an option that does not exist.
    SLIDERUN_STATUS_INVALID_ARGUMENT = 1,
    // A file that cannot be read.
    SLIDERUN_STATUS_IO = 2,
    // A file or memory that holds no valid plan, one of another format version, damaged data, or no signature where one is required.
    SLIDERUN_STATUS_BAD_PLAN = 3,
    // A device that is not there, that this build or the plan does not support, or that failed.
    SLIDERUN_STATUS_DEVICE = 4,
    // An input or output that is missing, unknown or given twice, or whose element type, shape, size or address does not fit.
    SLIDERUN_STATUS_BAD_TENSOR = 5,
    // Not enough memory, or more than the limit that was set.
    SLIDERUN_STATUS_OUT_OF_MEMORY = 6,
    // A step of the plan refused its data, such as an index out of range.
    SLIDERUN_STATUS_RUN_FAILED = 7,
    // A defect of the library. The session that was used must only be freed.
    SLIDERUN_STATUS_PANICKED = 8,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum sliderun_status sliderun_status;
#else
typedef int32_t sliderun_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Types of elements. Numbers are little-endian, as on every machine that sliderun runs on.
enum sliderun_dtype
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // One byte, 0 or 1.
    SLIDERUN_DTYPE_BOOL = 0,
    SLIDERUN_DTYPE_I8 = 1,
    SLIDERUN_DTYPE_I16 = 2,
    SLIDERUN_DTYPE_I32 = 3,
    SLIDERUN_DTYPE_I64 = 4,
    SLIDERUN_DTYPE_U8 = 5,
    SLIDERUN_DTYPE_U16 = 6,
    SLIDERUN_DTYPE_U32 = 7,
    SLIDERUN_DTYPE_U64 = 8,
    // IEEE 754 half precision.
    SLIDERUN_DTYPE_F16 = 9,
    // The upper half of an F32.
    SLIDERUN_DTYPE_BF16 = 10,
    SLIDERUN_DTYPE_F32 = 11,
    SLIDERUN_DTYPE_F64 = 12,
    // OCP FP8 E4M3 without infinities.
    SLIDERUN_DTYPE_F8E4M3 = 13,
    // OCP FP8 E5M2.
    SLIDERUN_DTYPE_F8E5M2 = 14,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum sliderun_dtype sliderun_dtype;
#else
typedef uint32_t sliderun_dtype;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What a run gave. It does not need its session.
typedef struct sliderun_outputs sliderun_outputs;

// A plan that has been read and checked. Several sessions may be made of one; it may be freed while they live.
typedef struct sliderun_plan sliderun_plan;

// A plan made ready for a device. Any number of threads may use one at the same time, save for freeing it.
typedef struct sliderun_session sliderun_session;

// A tensor to be read: elements lie behind each other, the last axis fastest, in memory that is aligned to the element type.
typedef struct sliderun_tensor {
    // The name of the input or output.
    const char *name;
    // A sliderun_dtype.
    uint32_t dtype;
    // Number of axes.
    size_t rank;
    // `rank` extents, outermost first; may be null where `rank` is 0.
    const size_t *shape;
    // The elements; may be null where there are none.
    const void *data;
    // Size of `data`: exactly what element type and shape need.
    size_t bytes;
} sliderun_tensor;

// How a plan is opened. Begin with SLIDERUN_PLAN_OPTIONS_DEFAULT, so that programs still compile when there are more fields.
typedef struct sliderun_plan_options {
    // sizeof(sliderun_plan_options).
    size_t struct_size;
    // 1: a file is read into memory, 0: it is mapped.
    uint32_t no_mmap;
    // Public Ed25519 keys, as the text of a PEM file: a plan that none of them has signed is refused, and of one that is not, all data is
    // checked. Null: no signature is required.
    const char *signers;
} sliderun_plan_options;

// A tensor to be written; as sliderun_tensor otherwise. Its memory need not be initialised, and overlaps no other tensor of the call.
typedef struct sliderun_tensor_mut {
    // The name of the output.
    const char *name;
    // A sliderun_dtype.
    uint32_t dtype;
    // Number of axes.
    size_t rank;
    // `rank` extents, outermost first; may be null where `rank` is 0.
    const size_t *shape;
    // Where the elements go; may be null where there are none.
    void *data;
    // Size of `data`: exactly what element type and shape need.
    size_t bytes;
} sliderun_tensor_mut;

// How a session runs. Begin with SLIDERUN_OPTIONS_DEFAULT, so that programs still compile when there are more fields.
typedef struct sliderun_options {
    // sizeof(sliderun_options).
    size_t struct_size;
    // Threads that one run uses on the CPU; 0: as many as there are processors.
    size_t threads;
    // Most bytes of working memory that one run may take; 0: no limit. Set it for plans from strangers.
    size_t memory_limit;
    // The variant of the plan's program for GPUs that runs, whatever the shape; null: the one that suits a shape best.
    const char *variant;
} sliderun_options;

// An input or output. What it points to lives as long as the session.
typedef struct sliderun_port {
    // The model's name for it.
    const char *name;
    // A sliderun_dtype.
    uint32_t dtype;
    // Number of axes.
    size_t rank;
    // `rank` extents as text, outermost first: "384", "batch", "2*seq + 1".
    const char *const *extents;
    // The same as numbers, -1 where an extent depends on symbols.
    const int64_t *fixed;
} sliderun_port;

// A symbol that extents mention, and the values for which the plan was compiled. Its name lives as long as the session.
typedef struct sliderun_symbol {
    const char *name;
    // The least value.
    int64_t min;
    // The largest value.
    int64_t max;
} sliderun_symbol;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The library's version, such as "0.1.0".
const char *sliderun_version(void);

// The SLIDERUN_ABI_VERSION that the library was built with: compare it with the header's where the library is a shared one.
uint32_t sliderun_abi_version(void);

// Why the last call that failed on this thread did: UTF-8, valid until the next call that fails on this thread or the thread's end; empty
// where none has failed. Never null.
const char *sliderun_last_error(void);

// Number of outputs; 0 for null.
size_t sliderun_outputs_count(const struct sliderun_outputs *outputs);

// The output at `index`, in the model's order. What it points to lives as long as `outputs`; its data is aligned to 64 bytes.
sliderun_status sliderun_outputs_get(const struct sliderun_outputs *outputs,
                                     size_t index,
                                     struct sliderun_tensor *tensor);

// Frees outputs; does nothing with null.
void sliderun_outputs_free(struct sliderun_outputs *outputs);

// Opens a plan's file by mapping it into memory. Until the plan and all its sessions are freed nobody may shorten or rewrite the file
// (replacing it by a rename is fine); where that cannot be had use sliderun_plan_open_unmapped.
// `path`: UTF-8. `plan`: where the plan goes, null after a failure.
sliderun_status sliderun_plan_open(const char *path,
                                   struct sliderun_plan **plan);

// As sliderun_plan_open, but reads the file into memory.
sliderun_status sliderun_plan_open_unmapped(const char *path, struct sliderun_plan **plan);

// As sliderun_plan_open, as `given` says; null for the defaults. A signature that is required may also lie beside the file, with .sig behind
// its name. A file that somebody may rewrite should not be mapped where a signature is required: it could change after it was checked.
sliderun_status sliderun_plan_open_with(const char *path,
                                        const struct sliderun_plan_options *given,
                                        struct sliderun_plan **plan);

// A plan whose `len` bytes are copied: they may be freed when the call is back.
sliderun_status sliderun_plan_from_bytes(const void *bytes, size_t len, struct sliderun_plan **plan);

// As sliderun_plan_from_bytes, as `given` says; null for the defaults. A signature that is required must be behind the plan.
sliderun_status sliderun_plan_from_bytes_with(const void *bytes,
                                              size_t len,
                                              const struct sliderun_plan_options *given,
                                              struct sliderun_plan **plan);

// A plan whose `len` bytes are used where they are: they must stay as they are until the plan and all its sessions are freed, as those of a
// constant array do. Bytes that are not aligned to SLIDERUN_PLAN_ALIGNMENT are copied.
sliderun_status sliderun_plan_from_static_bytes(const void *bytes,
                                                size_t len,
                                                struct sliderun_plan **plan);

// Reads all of a plan and compares it with its digests. Otherwise each part is checked when a session first uses it.
sliderun_status sliderun_plan_check(const struct sliderun_plan *plan);

// Frees a plan; does nothing with null.
void sliderun_plan_free(struct sliderun_plan *plan);

// Runs a session on `input_count` inputs, all of the plan's in any order. `outputs`: where what it gives goes, null after a failure; free it.
sliderun_status sliderun_run(const struct sliderun_session *session,
                             const struct sliderun_tensor *inputs,
                             size_t input_count,
                             struct sliderun_outputs **outputs);

// Runs a session and writes `output_count` of its outputs, in any order, to the caller's memory, whose shapes must be those that
// sliderun_output_shape says. On the CPU nothing is allocated for outputs. After a failure what they hold is unspecified.
sliderun_status sliderun_run_into(const struct sliderun_session *session,
                                  const struct sliderun_tensor *inputs,
                                  size_t input_count,
                                  struct sliderun_tensor_mut *outputs,
                                  size_t output_count);

// The extents that the output at `output` has for inputs of these shapes; element types and data of the inputs are not looked at. `rank`: how
// many extents `shape` has room for, which must be the output's rank.
sliderun_status sliderun_output_shape(const struct sliderun_session *session,
                                      const struct sliderun_tensor *inputs,
                                      size_t input_count,
                                      size_t output,
                                      size_t *shape,
                                      size_t rank);

// Makes a plan ready. `device`: "cpu", "cuda" or "cuda:N". `options`: null for the defaults. `session`: where the session goes, null after a
// failure. The plan may be freed while the session lives.
sliderun_status sliderun_session_new(const struct sliderun_plan *plan,
                                     const char *device,
                                     const struct sliderun_options *options,
                                     struct sliderun_session **session);

// Frees a session; does nothing with null. No run may be under way.
void sliderun_session_free(struct sliderun_session *session);

// Number of inputs; 0 for null.
size_t sliderun_session_input_count(const struct sliderun_session *session);

// Number of outputs; 0 for null.
size_t sliderun_session_output_count(const struct sliderun_session *session);

// Number of symbols; 0 for null.
size_t sliderun_session_symbol_count(const struct sliderun_session *session);

// Describes the input at `index`, in the model's order.
sliderun_status sliderun_session_input(const struct sliderun_session *session,
                                       size_t index,
                                       struct sliderun_port *port);

// Describes the output at `index`, in the model's order.
sliderun_status sliderun_session_output(const struct sliderun_session *session,
                                        size_t index,
                                        struct sliderun_port *port);

// Describes the symbol at `index`.
sliderun_status sliderun_session_symbol(const struct sliderun_session *session,
                                        size_t index,
                                        struct sliderun_symbol *symbol);

// Bytes per element; 0 for a number that is no element type.
size_t sliderun_dtype_size(uint32_t dtype);

// The name of an element type, "f32"; null for a number that is none. Never to be freed.
const char *sliderun_dtype_name(uint32_t dtype);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SLIDERUN_H */
