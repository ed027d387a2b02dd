/* Makes one call of fsync or write fail, as a bad disk does: loaded with LD_PRELOAD into the real
 * program. HEADSTART_FAULT=CALL:N:ERRNO fails the N-th such call on a file below a folder that is
 * called `features`, and every later one of write. HEADSTART_FAULT_COUNT=FILE: a byte a call is
 * appended to FILE instead. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_long calls;

static int in_store(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return path[0] == '/' && strstr(path, "/features/") != NULL;
}

static int fails(const char *call, int fd, int forever) {
    const char *fault = getenv("HEADSTART_FAULT");
    size_t length = strlen(call);
    if (!fault || strncmp(fault, call, length) || fault[length] != ':' || !in_store(fd)) return 0;
    long wanted = 0;
    int error = EIO;
    sscanf(fault + length + 1, "%ld:%d", &wanted, &error);
    long now = atomic_fetch_add(&calls, 1) + 1;
    const char *count = getenv("HEADSTART_FAULT_COUNT");
    if (count) {
        int to = open(count, O_WRONLY | O_CREAT | O_APPEND, 0600);
        syscall(SYS_write, to, ".", 1);
        close(to);
        return 0;
    }
    if (now != wanted && !(forever && now > wanted)) return 0;
    errno = error;
    return 1;
}

int fsync(int fd) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return fails("fsync", fd, 0) ? -1 : next(fd);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    ssize_t (*next)(int, const void *, size_t) =
        (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return fails("write", fd, 1) ? -1 : next(fd, bytes, length);
}
