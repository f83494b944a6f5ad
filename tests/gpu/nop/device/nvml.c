/* What NVIDIA's management library says of the devices that compute nothing; the functions that
   torch and nvidia-ml-py ask, by the names of its header. NOPGPU_MIG: slices of each card. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef void *Device;
enum { SUCCESS, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
static int env(const char *n, int d) {
    const char *v = getenv(n);
    return v ? atoi(v) : d;
}
int nvmlInit(void) { return SUCCESS; }
int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(unsigned f) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int e) { return "error of the nop GPU"; }
int nvmlSystemGetDriverVersion(char *v, unsigned n) {
    strncpy(v, getenv("NOPGPU_OLD_DRIVER") ? "550.163.01" : "580.95.05", n);
    return SUCCESS;
}
int nvmlDeviceGetCount_v2(unsigned *n) {
    *n = env("NOPGPU_COUNT", 1);
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned i, Device *d) {
    *d = (Device)(size_t)(1000 * (i + 1));
    return SUCCESS;
}
int nvmlDeviceGetName(Device d, char *name, unsigned n) {
    strncpy(name, getenv("NOPGPU_NAME") ? getenv("NOPGPU_NAME") : "Nop GPU", n);
    return SUCCESS;
}
int nvmlDeviceGetUUID(Device d, char *uuid, unsigned n) {
    size_t card = (size_t)d / 1000, slice = (size_t)d % 1000;
    snprintf(uuid, n, slice ? "MIG-%zu-%zu" : "GPU-%zu", card - 1, slice - 1);
    return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(Device d, unsigned *n) {
    *n = getenv("NOPGPU_MIG") ? 7 : 0;
    return SUCCESS;
}
int nvmlDeviceGetMigDeviceHandleByIndex(Device d, unsigned i, Device *slice) {
    *slice = (Device)((size_t)d + i + 1);
    return (int)i < env("NOPGPU_MIG", 0) ? SUCCESS : NOT_FOUND;
}
/* what torch's allocator asks for the text of its out-of-memory errors */
int nvmlSystemGetCudaDriverVersion_v2(int *v) {
    *v = 13020;
    return SUCCESS;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, Device *d) {
    return nvmlDeviceGetHandleByIndex_v2(0, d);
}
int nvmlDeviceGetComputeRunningProcesses(Device d, unsigned *n, void *infos) {
    *n = 0;
    return SUCCESS;
}
int nvmlDeviceGetNvLinkRemoteDeviceType(Device d, unsigned link, int *type) {
    return NOT_SUPPORTED;
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(Device d, unsigned link, void *info) {
    return NOT_SUPPORTED;
}
int nvmlDeviceGetGpuFabricInfoV(Device d, void *info) { return NOT_SUPPORTED; }
