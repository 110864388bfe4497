/* Runs a plan from C: says what it takes and gives, runs it on data from files or made-up data, prints the first outputs and the latency.
 *
 *   embed PLAN [SYMBOL=VALUE | NAME=FILE | device=DEVICE | save=FOLDER | runs=N]...
 *
 * FILE holds an input's elements as they are in memory, little-endian. What is not given is made up: small floats, integers that are 0 or 1.
 * With save=, inputs and outputs are written to FOLDER as inputN.bin and outputN.bin.
 */
#include <sliderun.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_RANK = 16 };

/* Ends the program with the library's reason where a call failed. */
static void check(sliderun_status status, const char *what) {
    if (status != SLIDERUN_STATUS_OK) {
        fprintf(stderr, "embed: %s: %s (status %d)\n", what, sliderun_last_error(), (int)status);
        exit(1);
    }
}

static void fail(const char *what, const char *name) {
    fprintf(stderr, "embed: %s: %s\n", name, what);
    exit(1);
}

static void *allocate(size_t bytes) {
    /* aligned_alloc wants a multiple of the alignment; 64 is more than any element type needs. */
    void *memory = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (!memory) fail("not enough memory", "tensor");
    return memory;
}

/* The value of `name=value` on the command line, or null. */
static const char *argument(int argc, char **argv, const char *name) {
    size_t length = strlen(name);
    for (int i = 2; i < argc; i++)
        if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=') return argv[i] + length + 1;
    return NULL;
}

static void print_port(const char *what, const sliderun_port *port) {
    printf("%-7s %s: %s[", what, port->name, sliderun_dtype_name(port->dtype));
    for (size_t axis = 0; axis < port->rank; axis++) printf("%s%s", axis ? ", " : "", port->extents[axis]);
    printf("]\n");
}

/* An extent of an input: fixed, or a symbol's value: as given, or else the least that the plan was compiled for. */
static size_t extent(const sliderun_session *session, const sliderun_port *port, size_t axis, int argc, char **argv) {
    if (port->fixed[axis] >= 0) return (size_t)port->fixed[axis];
    const char *given = argument(argc, argv, port->extents[axis]);
    if (given) return strtoull(given, NULL, 10);
    for (size_t i = 0; i < sliderun_session_symbol_count(session); i++) {
        sliderun_symbol symbol;
        check(sliderun_session_symbol(session, i, &symbol), "symbol");
        if (strcmp(symbol.name, port->extents[axis]) == 0) return (size_t)symbol.min;
    }
    fail("give a value for this extent as EXTENT=VALUE", port->extents[axis]);
    return 0;
}

static size_t bytes_of(uint32_t dtype, const size_t *shape, size_t rank) {
    size_t bytes = sliderun_dtype_size(dtype);
    for (size_t axis = 0; axis < rank; axis++) bytes *= shape[axis];
    return bytes;
}

/* Uniform over 0..1, the same on every machine. */
static double uniform(void) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 40) / (double)(1 << 24);
}

static void make_up(uint32_t dtype, void *data, size_t bytes) {
    size_t size = sliderun_dtype_size(dtype);
    memset(data, 0, bytes);
    for (size_t i = 0; i < bytes / size; i++) {
        if (dtype == SLIDERUN_DTYPE_F32)
            ((float *)data)[i] = (float)(2 * uniform() - 1);
        else if (dtype == SLIDERUN_DTYPE_F64)
            ((double *)data)[i] = 2 * uniform() - 1;
        else if (dtype <= SLIDERUN_DTYPE_U64) /* The low byte comes first. */
            ((uint8_t *)data)[i * size] = uniform() < 0.5;
    }
}

static void read_file(const char *path, void *data, size_t bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) fail("cannot be opened", path);
    size_t read = fread(data, 1, bytes, file);
    if (read != bytes || fgetc(file) != EOF) {
        fprintf(stderr, "embed: %s: the input needs exactly %zu bytes\n", path, bytes);
        exit(1);
    }
    fclose(file);
}

static void write_file(const char *folder, const char *kind, size_t index, const void *data, size_t bytes) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s%zu.bin", folder, kind, index);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) fail("cannot be written", path);
}

static double now_us(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_elements(const sliderun_tensor_mut *tensor) {
    size_t size = sliderun_dtype_size(tensor->dtype), count = size ? tensor->bytes / size : 0;
    printf("%s [", tensor->name);
    for (size_t axis = 0; axis < tensor->rank; axis++) printf("%s%zu", axis ? ", " : "", tensor->shape[axis]);
    printf("]:");
    for (size_t i = 0; i < count && i < 6; i++) {
        switch (tensor->dtype) {
        case SLIDERUN_DTYPE_F32: printf(" %g", (double)((const float *)tensor->data)[i]); break;
        case SLIDERUN_DTYPE_F64: printf(" %g", ((const double *)tensor->data)[i]); break;
        case SLIDERUN_DTYPE_I64: printf(" %" PRId64, ((const int64_t *)tensor->data)[i]); break;
        case SLIDERUN_DTYPE_I32: printf(" %" PRId32, ((const int32_t *)tensor->data)[i]); break;
        default: printf(" %02x", ((const uint8_t *)tensor->data)[i * size]); break; /* The low byte. */
        }
    }
    printf("%s\n", count > 6 ? " ..." : "");
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: embed PLAN [SYMBOL=VALUE | NAME=FILE | device=DEVICE | save=FOLDER | runs=N]...\n");
        return 2;
    }
    if (sliderun_abi_version() != SLIDERUN_ABI_VERSION) fail("the library and its header do not fit together", "sliderun");
    const char *device = argument(argc, argv, "device"), *folder = argument(argc, argv, "save");
    const char *times = argument(argc, argv, "runs");
    size_t runs = times ? strtoull(times, NULL, 10) : 20;
    if (runs == 0) runs = 1;

    sliderun_plan *plan;
    sliderun_session *session;
    check(sliderun_plan_open(argv[1], &plan), "open");
    check(sliderun_session_new(plan, device ? device : "cpu", NULL, &session), "session");
    sliderun_plan_free(plan); /* The session has what it needs. */
    printf("sliderun %s, %s\n", sliderun_version(), argv[1]);

    size_t input_count = sliderun_session_input_count(session), output_count = sliderun_session_output_count(session);
    sliderun_tensor *inputs = calloc(input_count + 1, sizeof *inputs);
    sliderun_tensor_mut *outputs = calloc(output_count + 1, sizeof *outputs);
    size_t(*shapes)[MAX_RANK] = calloc(input_count + output_count + 1, sizeof *shapes);
    double *latency = calloc(runs, sizeof *latency);
    if (!inputs || !outputs || !shapes || !latency) fail("not enough memory", argv[1]);

    for (size_t i = 0; i < input_count; i++) {
        sliderun_port port;
        check(sliderun_session_input(session, i, &port), "input");
        print_port("input", &port);
        if (port.rank > MAX_RANK) fail("has too many axes", port.name);
        for (size_t axis = 0; axis < port.rank; axis++) shapes[i][axis] = extent(session, &port, axis, argc, argv);
        size_t bytes = bytes_of(port.dtype, shapes[i], port.rank);
        void *data = allocate(bytes);
        const char *file = argument(argc, argv, port.name);
        if (file)
            read_file(file, data, bytes);
        else
            make_up(port.dtype, data, bytes);
        inputs[i] = (sliderun_tensor){port.name, port.dtype, port.rank, shapes[i], data, bytes};
        if (folder) write_file(folder, "input", i, data, bytes);
    }
    for (size_t i = 0; i < output_count; i++) {
        sliderun_port port;
        size_t *shape = shapes[input_count + i];
        check(sliderun_session_output(session, i, &port), "output");
        print_port("output", &port);
        if (port.rank > MAX_RANK) fail("has too many axes", port.name);
        check(sliderun_output_shape(session, inputs, input_count, i, shape, port.rank), "shape");
        size_t bytes = bytes_of(port.dtype, shape, port.rank);
        outputs[i] = (sliderun_tensor_mut){port.name, port.dtype, port.rank, shape, allocate(bytes), bytes};
    }

    for (size_t run = 0; run < runs; run++) {
        double start = now_us();
        check(sliderun_run_into(session, inputs, input_count, outputs, output_count), "run");
        latency[run] = now_us() - start;
    }
    for (size_t i = 0; i < output_count; i++) {
        print_elements(&outputs[i]);
        if (folder) write_file(folder, "output", i, outputs[i].data, outputs[i].bytes);
    }
    qsort(latency, runs, sizeof *latency, by_value);
    printf("%zu runs: fastest %.1f us, median %.1f us\n", runs, latency[0], latency[runs / 2]);

    for (size_t i = 0; i < input_count; i++) free((void *)inputs[i].data);
    for (size_t i = 0; i < output_count; i++) free(outputs[i].data);
    free(latency);
    free(shapes);
    free(outputs);
    free(inputs);
    sliderun_session_free(session);
    return 0;
}
