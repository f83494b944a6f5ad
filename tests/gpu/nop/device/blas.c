/* cuBLAS that computes nothing. */
#include <stdlib.h>
#define N(f)                                                                                       \
    int f() { return 0; }
int cublasCreate_v2(void **h) {
    *h = malloc(64);
    return 0;
}
N(cublasDestroy_v2)
N(cublasSetStream_v2) N(cublasSetWorkspace_v2) N(cublasSetMathMode) N(cublasSetPointerMode_v2)
    N(cublasSetSmCountTarget) int cublasGetMathMode(void *h, int *m) {
    *m = 0;
    return 0;
}
int cublasGetPointerMode_v2(void *h, int *m) {
    *m = 0;
    return 0;
}
N(cublasSgemm_v2)
N(cublasSgemmEx) N(cublasGemmEx) N(cublasGemmStridedBatchedEx) N(cublasSgemmStridedBatched)
    N(cublasSgemv_v2) N(cublasDgemm_v2) N(cublasDgemv_v2) N(cublasSdot_v2) N(cublasDotEx)
        N(cublasDgemmStridedBatched)
    /* cublasLt, of linear layers with a bias */
    int cublasLtMatmulAlgoGetHeuristic(void *h, void *d, void *a, void *b, void *c, void *dd,
                                       void *p, int n, void *r, int *found) {
    *found = 1;
    return 0;
}
N(cublasLtMatmul)
