/* A GPU that computes nothing: LD_PRELOAD this, and torch's CUDA build finds devices without a
   driver. Device memory is host memory (bounded by NOPGPU_MIB), copies are real, kernels do
   nothing. So allocator, out of memory, streams, events, pinning, autograd threads, sync checks
   and devices of tensors are the real ones; numbers are not.

   NOPGPU_MIB         memory of each device (8192)
   NOPGPU_TAKEN_MIB   of it, what other processes have (0)
   NOPGPU_CC          compute capability: 90, 75, 70 ...
   NOPGPU_NAME        its name
   NOPGPU_COUNT       devices of the machine, of which CUDA_VISIBLE_DEVICES may choose (1)
   NOPGPU_OLD_DRIVER  the driver is too old for torch
   NOPGPU_SAY         counts of launches, waits and copies at exit */
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#define OK return cudaSuccess
static int env(const char *n, int d) {
    const char *v = getenv(n);
    return v ? atoi(v) : d;
}
typedef struct {
    char *p;
    size_t n;
    int host;
} A;
static A a[200000];
static int na;
static size_t used;
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static size_t total() { return (size_t)env("NOPGPU_MIB", 8192) << 20; }
static size_t limit() { return total() - ((size_t)env("NOPGPU_TAKEN_MIB", 0) << 20); }
static long syncs, d2h, h2d, launches;
__attribute__((destructor)) static void say() {
    if (getenv("NOPGPU_SAY"))
        fprintf(stderr, "nopgpu: %ld launches, %ld stream syncs, %ld d2h, %ld h2d\n", launches,
                syncs, d2h, h2d);
}
static cudaError_t get(void **p, size_t n, int host) {
    if (!n) {
        *p = NULL;
        OK;
    }
    pthread_mutex_lock(&mu);
    if (!host && used + n > limit()) {
        pthread_mutex_unlock(&mu);
        return cudaErrorMemoryAllocation;
    }
    void *m =
        mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) {
        pthread_mutex_unlock(&mu);
        return cudaErrorMemoryAllocation;
    }
    int i = 0;
    while (i < na && a[i].p)
        i++;
    if (i == na)
        na++;
    a[i] = (A){m, n, host};
    if (!host)
        used += n;
    *p = m;
    pthread_mutex_unlock(&mu);
    OK;
}
static cudaError_t put(void *p) {
    if (!p)
        OK;
    pthread_mutex_lock(&mu);
    for (int i = 0; i < na; i++)
        if (a[i].p == p) {
            munmap(p, a[i].n);
            if (!a[i].host)
                used -= a[i].n;
            a[i].p = NULL;
            break;
        }
    pthread_mutex_unlock(&mu);
    OK;
}
cudaError_t cudaMalloc(void **p, size_t n) { return get(p, n, 0); }
cudaError_t cudaFree(void *p) { return put(p); }
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned f) { return get(p, n, 1); }
cudaError_t cudaMallocHost(void **p, size_t n) { return get(p, n, 1); }
cudaError_t cudaFreeHost(void *p) { return put(p); }
cudaError_t cudaMemGetInfo(size_t *f, size_t *t) {
    *t = total();
    *f = limit() - used;
    OK;
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *x, const void *p) {
    memset(x, 0, sizeof *x);
    x->type = cudaMemoryTypeUnregistered;
    pthread_mutex_lock(&mu);
    for (int i = 0; i < na; i++)
        if (a[i].p && (char *)p >= a[i].p && (char *)p < a[i].p + a[i].n) {
            x->type = a[i].host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
            x->devicePointer = (void *)p;
            x->hostPointer = a[i].host ? (void *)p : NULL;
            break;
        }
    pthread_mutex_unlock(&mu);
    OK;
}
static cudaError_t cp(void *d, const void *s, size_t n, enum cudaMemcpyKind k) {
    if (k == cudaMemcpyDeviceToHost)
        d2h++;
    if (k == cudaMemcpyHostToDevice)
        h2d++;
    memmove(d, s, n);
    OK;
}
cudaError_t cudaMemcpy(void *d, const void *s, size_t n, enum cudaMemcpyKind k) {
    syncs++;
    return cp(d, s, n, k);
}
cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, enum cudaMemcpyKind k,
                            cudaStream_t t) {
    return cp(d, s, n, k);
}
cudaError_t cudaMemset(void *d, int v, size_t n) {
    memset(d, v, n);
    OK;
}
cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t t) {
    memset(d, v, n);
    OK;
}
cudaError_t cudaMemcpyToSymbol(const void *s, const void *d, size_t n, size_t o,
                               enum cudaMemcpyKind k) {
    OK;
}
static __thread int cur;
/* What CUDA_VISIBLE_DEVICES leaves: names up to the first that is none; one slice of a MIG card. */
static int count() {
    int all = env("NOPGPU_COUNT", 1), found = 0;
    const char *v = getenv("CUDA_VISIBLE_DEVICES");
    if (!v)
        return all;
    if (!strncmp(v, "MIG-", 4))
        return 1;
    for (char *end; *v && (found == 0 || *v++ == ','); v = end) {
        long index = strtol(v, &end, 10);
        if (end == v || index < 0 || index >= all)
            break;
        found++;
    }
    return found;
}
cudaError_t cudaGetDeviceCount(int *n) {
    if (getenv("NOPGPU_OLD_DRIVER")) {
        *n = 0;
        return cudaErrorInsufficientDriver;
    }
    *n = count();
    return *n ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaGetDevice(int *d) {
    *d = cur;
    OK;
}
cudaError_t cudaSetDevice(int d) {
    if (d < 0 || d >= count())
        return cudaErrorInvalidDevice;
    cur = d;
    OK;
}
cudaError_t cudaDriverGetVersion(int *v) {
    *v = getenv("NOPGPU_OLD_DRIVER") ? 12040 : 13020;
    OK;
}
cudaError_t cudaGetLastError(void) { OK; }
cudaError_t cudaPeekAtLastError(void) { OK; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
    memset(p, 0, sizeof *p);
    int cc = env("NOPGPU_CC", 90);
    strcpy(p->name, getenv("NOPGPU_NAME") ? getenv("NOPGPU_NAME") : "Nop GPU");
    p->major = cc / 10;
    p->minor = cc % 10;
    p->totalGlobalMem = total();
    p->multiProcessorCount = 8;
    p->warpSize = 32;
    p->maxBlocksPerMultiProcessor = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = 2048;
    p->sharedMemPerBlock = 49152;
    p->sharedMemPerBlockOptin = 101376;
    p->sharedMemPerMultiprocessor = 102400;
    p->regsPerBlock = 65536;
    p->regsPerMultiprocessor = 65536;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->l2CacheSize = 1 << 22;
    p->memoryBusWidth = 256;
    OK;
}
cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr x, int d) {
    int cc = env("NOPGPU_CC", 90);
    switch (x) {
    case cudaDevAttrComputeCapabilityMajor:
        *v = cc / 10;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *v = cc % 10;
        break;
    case cudaDevAttrMultiProcessorCount:
        *v = 8;
        break;
    case cudaDevAttrMaxThreadsPerBlock:
        *v = 1024;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *v = 2048;
        break;
    case cudaDevAttrWarpSize:
        *v = 32;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *v = 49152;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *v = 101376;
        break;
    case cudaDevAttrMaxGridDimX:
        *v = 2147483647;
        break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
        *v = 65535;
        break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
        *v = 32;
        break;
    case cudaDevAttrMaxRegistersPerBlock:
        *v = 65536;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *v = 102400;
        break;
    default:
        *v = 1;
    }
    OK;
}
cudaError_t cudaDeviceSynchronize(void) {
    syncs++;
    OK;
}
cudaError_t cudaDeviceCanAccessPeer(int *c, int x, int y) {
    *c = 0;
    OK;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *l, int *g) {
    *l = 0;
    *g = -1;
    OK;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int p) {
    *s = (cudaStream_t)malloc(8);
    OK;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned f) {
    *s = (cudaStream_t)malloc(8);
    OK;
}
cudaError_t cudaStreamCreate(cudaStream_t *s) {
    *s = (cudaStream_t)malloc(8);
    OK;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) { OK; }
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    syncs++;
    OK;
}
cudaError_t cudaStreamQuery(cudaStream_t s) { OK; }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned f) { OK; }
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *c) {
    *c = cudaStreamCaptureStatusNone;
    OK;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *c,
                                     unsigned long long *i, cudaGraph_t *g,
                                     const cudaGraphNode_t **n, const cudaGraphEdgeData **e,
                                     size_t *k) {
    *c = cudaStreamCaptureStatusNone;
    OK;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *m) { OK; }
cudaError_t cudaStreamGetPriority(cudaStream_t s, int *p) {
    *p = 0;
    OK;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) {
    *e = (cudaEvent_t)malloc(8);
    OK;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f) {
    *e = (cudaEvent_t)malloc(8);
    OK;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) { OK; }
cudaError_t cudaEventQuery(cudaEvent_t e) { OK; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { OK; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned f) { OK; }
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    syncs++;
    OK;
}
cudaError_t cudaEventElapsedTime(float *f, cudaEvent_t x, cudaEvent_t y) {
    *f = .1f;
    OK;
}
cudaError_t cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **x, size_t s, cudaStream_t t) {
    launches++;
    OK;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **x) {
    launches++;
    OK;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t f, dim3 g, dim3 b, void **x, size_t s, cudaStream_t t) {
    launches++;
    OK;
}
cudaError_t __cudaGetKernel(cudaKernel_t *k, const void *f) {
    *k = (cudaKernel_t)f;
    OK;
}
static __thread struct {
    dim3 g, b;
    size_t s;
    void *t;
} pc;
unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t s, struct CUstream_st *t) {
    pc.g = g;
    pc.b = b;
    pc.s = s;
    pc.t = t;
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *g, dim3 *b, size_t *s, void *t) {
    *g = pc.g;
    *b = pc.b;
    *s = pc.s;
    *(void **)t = pc.t;
    OK;
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *x, const void *f) {
    memset(x, 0, sizeof *x);
    x->maxThreadsPerBlock = 1024;
    x->numRegs = 32;
    x->ptxVersion = 90;
    x->binaryVersion = 90;
    OK;
}
cudaError_t cudaFuncSetAttribute(const void *f, enum cudaFuncAttribute x, int v) { OK; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *f, int b, size_t s) {
    *n = 4;
    OK;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b,
                                                                   size_t s, unsigned x) {
    *n = 4;
    OK;
}
cudaError_t cudaGetSymbolAddress(void **p, const void *s) {
    static char z[1 << 16];
    *p = z;
    OK;
}
static int ctx(int d, unsigned *f, int *act) {
    *f = 0;
    *act = 1;
    return 0;
}
static int nothing() { return 0; }
cudaError_t cudaGetDriverEntryPointByVersion(const char *n, void **p, unsigned v,
                                             unsigned long long f,
                                             enum cudaDriverEntryPointQueryResult *q) {
    *p = !strcmp(n, "cuDevicePrimaryCtxGetState") ? (void *)ctx : (void *)nothing;
    if (q)
        *q = cudaDriverEntryPointSuccess;
    OK;
}
long nop_launches(void) { return launches; }
